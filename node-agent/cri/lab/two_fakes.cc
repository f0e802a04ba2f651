#include "node-agent/cri/lab/two_fakes.h"

#include <fmt/format.h>
#include <grpcpp/generic/generic_stub.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "common/testing/matchers.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/relay.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;
using std::chrono::milliseconds;

std::atomic<int> serial{0};

}  // namespace

TwoFakes::TwoFakes(bool cgroup_v2, milliseconds lease)
    : folder_(fmt::format("/tmp/hk-fakes-{}-{}", getpid(), ++serial)) {
  std::filesystem::create_directories(folder_ + "/dpu/logs");
  PodCgroups cgroups(fmt::format("34 24 0:31 / {}/dpu/cgroup rw - {}\n", folder_,
                                 cgroup_v2 ? "cgroup2 cgroup2 rw" : "cgroup cgroup rw,cpu,memory"),
                     [](const std::vector<std::string>&) { return absl::FailedPreconditionError("no systemd"); });
  auto runtime = DpuRuntimeService::Open(
      {.pod_log_root = folder_ + "/dpu/logs", .volume_root = folder_ + "/dpu/volumes", .cgroups = cgroups});
  REQUIRE_OK(runtime);
  dpu_runtime_ = *std::move(runtime);
  host_ = std::make_unique<FakeRuntime>(folder_ + "/host.sock", "0a");
  dpu_ = std::make_unique<FakeRuntime>(folder_ + "/dpu.sock", "0d", dpu_runtime_.get());
  heterod_ = std::make_unique<LabHeterod>(folder_ + "/heterod.sock", lease);
  config_.listen = folder_ + "/cri.sock";
  config_.state_dir = folder_ + "/state";
  config_.host_socket = host_->socket();
  config_.dpu_paths.pod_log_root = folder_ + "/dpu/logs";
  // Each look at the DPU has an interval's time: on a loaded machine a short one would lose it.
  config_.lease_interval = milliseconds(300);
  config_.lease_duration = lease;
  config_.heterod_socket = heterod_->socket();
  config_.rules.offload_containers = {"side"};
  config_.metrics_listen = "127.0.0.1:0";
  StartDaemon();
}

void TwoFakes::StartDaemon() {
  auto daemon = Daemon::Start(config_, UnixChannel(dpu_->socket()), [] { return false; });
  REQUIRE_OK(daemon);
  daemon_ = *std::move(daemon);
  channel_ = UnixChannel(config_.listen);
  client_ = std::make_unique<CriClient>(channel_);
  REQUIRE(testing::Eventually([&] { return DpuCondition().status(); }));
}

TwoFakes::~TwoFakes() {
  daemon_.reset();
  heterod_.reset();
  host_->Stop();
  dpu_->Stop();
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

rt::PodSandboxConfig TwoFakes::PodConfig(const std::string& name) const {
  rt::PodSandboxConfig config;
  config.mutable_metadata()->set_name(name);
  config.mutable_metadata()->set_namespace_("test");
  config.mutable_metadata()->set_uid(name + "-uid");
  config.set_log_directory(folder_ + "/logs/" + name);
  (*config.mutable_annotations())[kOffload] = "dpu";
  (*config.mutable_annotations())[kOffloadContainers] = "side";
  (*config.mutable_annotations())[kFallback] = "pending";
  config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(rt::CONTAINER);
  return config;
}

rt::RuntimeCondition TwoFakes::DpuCondition() {
  const auto status = Call<rt::StatusResponse>(kStatus, rt::StatusRequest());
  for (const rt::RuntimeCondition& condition : status.status().conditions()) {
    if (condition.type() == "HeteroK8sDPUReady") return condition;
  }
  FAIL("no condition of the DPU");
  return {};
}

absl::StatusOr<std::string> TwoFakes::TryRunPod(const rt::PodSandboxConfig& config) {
  rt::RunPodSandboxRequest request;
  *request.mutable_config() = config;
  auto made = client_->Call<rt::RunPodSandboxResponse>(kRunPodSandbox, request, In(testing::kPatience));
  HK_RETURN_IF_ERROR(made.status());
  return made->pod_sandbox_id();
}

std::string TwoFakes::RunPod(const rt::PodSandboxConfig& config) {
  auto made = TryRunPod(config);
  REQUIRE_OK(made);
  return *made;
}

rt::CreateContainerRequest TwoFakes::Request(const std::string& sandbox, const rt::PodSandboxConfig& pod,
                                             const std::string& name, const std::string& image) {
  for (FakeRuntime* runtime : {host_.get(), dpu_.get()}) runtime->AddImage(image);
  rt::CreateContainerRequest request;
  request.set_pod_sandbox_id(sandbox);
  *request.mutable_sandbox_config() = pod;
  request.mutable_config()->mutable_metadata()->set_name(name);
  request.mutable_config()->mutable_image()->set_image(image);
  request.mutable_config()->mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(
      rt::CONTAINER);
  return request;
}

absl::StatusOr<std::string> TwoFakes::TryCreate(const rt::CreateContainerRequest& request) {
  auto made = client_->Call<rt::CreateContainerResponse>(kCreateContainer, request, In(testing::kPatience));
  HK_RETURN_IF_ERROR(made.status());
  return made->container_id();
}

std::string TwoFakes::Create(const std::string& sandbox, const rt::PodSandboxConfig& pod, const std::string& name,
                             const std::string& image) {
  auto made = TryCreate(Request(sandbox, pod, name, image));
  REQUIRE_OK(made);
  return *made;
}

void TwoFakes::Start(const std::string& container) {
  rt::StartContainerRequest request;
  request.set_container_id(container);
  Call<rt::StartContainerResponse>(kStartContainer, request);
}

rt::ContainerStatus TwoFakes::StatusOf(const std::string& container) {
  rt::ContainerStatusRequest request;
  request.set_container_id(container);
  return Call<rt::ContainerStatusResponse>(kContainerStatus, request).status();
}

TwoFakes::Streamed TwoFakes::ReadAll(const std::string& method) {
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  context.set_deadline(In(testing::kPatience));
  grpc::CompletionQueue queue;
  auto next = [&] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  auto call = stub.PrepareCall(&context, method, &queue);
  call->StartCall(nullptr);
  next();
  call->WriteLast(ToBuffer(""), grpc::WriteOptions(), nullptr);
  next();
  Streamed streamed;
  for (grpc::ByteBuffer message;; streamed.messages.push_back(BytesOf(message))) {
    call->Read(&message, nullptr);
    if (!next()) break;
  }
  call->Finish(&streamed.status, nullptr);
  next();
  return streamed;
}

EventReader::EventReader(TwoFakes& node) : stub_(rt::RuntimeService::NewStub(node.channel())) {
  thread_ = std::thread([this] {
    auto reader = stub_->GetContainerEvents(&context_, rt::GetEventsRequest());
    for (rt::ContainerEventResponse event; reader->Read(&event);) {
      std::lock_guard lock(mutex_);
      events_.push_back(event);
    }
    grpc::Status status = reader->Finish();
    std::lock_guard lock(mutex_);
    end_ = status;
  });
}

EventReader::~EventReader() {
  context_.TryCancel();
  thread_.join();
}

bool EventReader::Has(const std::function<bool(const rt::ContainerEventResponse&)>& that) {
  return testing::Eventually([&] {
    std::lock_guard lock(mutex_);
    return std::any_of(events_.begin(), events_.end(), that);
  });
}

std::vector<rt::ContainerEventType> EventReader::TypesOf(const std::string& container_id) {
  std::lock_guard lock(mutex_);
  std::vector<rt::ContainerEventType> types;
  for (const rt::ContainerEventResponse& event : events_) {
    if (event.container_id() == container_id) types.push_back(event.container_event_type());
  }
  return types;
}

bool EventReader::Ended(grpc::Status* status) {
  return testing::Eventually([&] {
    std::lock_guard lock(mutex_);
    if (end_) *status = *end_;
    return end_.has_value();
  });
}

}  // namespace heterok8s::cri
