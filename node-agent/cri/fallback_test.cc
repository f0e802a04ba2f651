// What becomes of containers that the DPU cannot take, by annotation heteropod.io/fallback: heterocri between two
// runtimes in memory.
#include <filesystem>

#include "common/testing/matchers.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/lab/two_fakes.h"
#include "node-agent/cri/relay.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr std::chrono::seconds kPatience{60};

bool DpuReady(TwoFakes& node) {
  auto status = node.Call<rt::StatusResponse>(kStatus, rt::StatusRequest());
  for (const rt::RuntimeCondition& condition : status.status().conditions()) {
    if (condition.type() == "HeteroK8sDPUReady") return condition.status();
  }
  return false;
}

void WaitDpu(TwoFakes& node, bool ready) {
  REQUIRE(SoonTrue([&] { return DpuReady(node) == ready; }, kPatience.count()));
}

rt::PodSandboxConfig Pod(TwoFakes& node, const std::string& fallback) {
  rt::PodSandboxConfig pod = node.PodConfig("web");
  (*pod.mutable_annotations())[kFallback] = fallback;
  return pod;
}

absl::StatusOr<std::string> Run(TwoFakes& node, const rt::PodSandboxConfig& pod) {
  rt::RunPodSandboxRequest request;
  *request.mutable_config() = pod;
  auto made = node.cri().Call<rt::RunPodSandboxResponse>(kRunPodSandbox, request, In(kPatience));
  HK_RETURN_IF_ERROR(made.status());
  return made->pod_sandbox_id();
}

rt::CreateContainerRequest Request(const std::string& sandbox, const rt::PodSandboxConfig& pod,
                                   const std::string& name) {
  rt::CreateContainerRequest request;
  request.set_pod_sandbox_id(sandbox);
  *request.mutable_sandbox_config() = pod;
  request.mutable_config()->mutable_metadata()->set_name(name);
  request.mutable_config()->mutable_image()->set_image("registry.example/tool:1");
  (*request.mutable_config()->mutable_labels())["io.kubernetes.container.name"] = name;
  request.mutable_config()->set_log_path(name + "/0.log");
  request.mutable_config()->mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(
      rt::CONTAINER);
  return request;
}

absl::StatusOr<std::string> Create(TwoFakes& node, const rt::CreateContainerRequest& request) {
  for (FakeRuntime* runtime : {&node.host(), &node.dpu()}) runtime->AddImage(request.config().image().image());
  auto made = node.cri().Call<rt::CreateContainerResponse>(kCreateContainer, request, In(kPatience));
  HK_RETURN_IF_ERROR(made.status());
  return made->container_id();
}

absl::Status Start(TwoFakes& node, const std::string& id) {
  rt::StartContainerRequest request;
  request.set_container_id(id);
  return node.cri().Call<rt::StartContainerResponse>(kStartContainer, request, In(kPatience)).status();
}

rt::ContainerStatus StatusOf(TwoFakes& node, const std::string& id) {
  rt::ContainerStatusRequest request;
  request.set_container_id(id);
  return node.Call<rt::ContainerStatusResponse>(kContainerStatus, request).status();
}

std::vector<std::string> Listed(TwoFakes& node) {
  const auto list = node.Call<rt::ListContainersResponse>(kListContainers, rt::ListContainersRequest());
  std::vector<std::string> ids;
  for (const rt::Container& each : list.containers()) ids.push_back(each.id());
  return ids;
}

// It has ended, nothing can start it, and it goes when it is removed.
void CheckEnded(TwoFakes& node, const std::string& id) {
  const rt::ContainerStatus status = StatusOf(node, id);
  CHECK(status.state() == rt::CONTAINER_EXITED);
  CHECK(status.exit_code() == 128);
  CHECK(status.reason() == "DPUUnavailable");
  CHECK(status.message().find("(fallback is 'fail')") != std::string::npos);
  CHECK(status.labels().at("io.kubernetes.container.name") == "side");
  CHECK_THAT(Start(node, id), testing::Says("(fallback is 'fail')"));
  CHECK(Listed(node) == std::vector<std::string>{id});
  CHECK(node.host().Asked("CreateContainer").empty());
  rt::RemoveContainerRequest remove;
  remove.set_container_id(id);
  node.Call<rt::RemoveContainerResponse>(kRemoveContainer, remove);
  CHECK(Listed(node).empty());
}

}  // namespace

TEST_CASE("by 'pending' a Pod and its container wait for the DPU, and are made when it is back") {
  TwoFakes node;
  WaitDpu(node, true);
  const rt::PodSandboxConfig pod = Pod(node, "pending");
  auto sandbox = Run(node, pod);
  REQUIRE_OK(sandbox);

  node.heterod().SetDpuAlive(false);
  WaitDpu(node, false);
  CHECK_THAT(Create(node, Request(*sandbox, pod, "side")).status(), testing::Says("(fallback is 'pending')"));
  rt::PodSandboxConfig next = node.PodConfig("next");
  CHECK_THAT(Run(node, next).status(), testing::Says("(fallback is 'pending')"));
  CHECK(Listed(node).empty());

  node.heterod().SetDpuAlive(true);
  WaitDpu(node, true);
  CHECK_OK(Run(node, next));
  auto made = Create(node, Request(*sandbox, pod, "side"));
  REQUIRE_OK(made);
  CHECK_OK(Start(node, *made));
  CHECK(node.dpu().Asked("CreateContainer").size() == 1);
}

TEST_CASE("by 'fail' a container ends before it begins when the DPU goes after its Pod was made") {
  TwoFakes node;
  WaitDpu(node, true);
  const rt::PodSandboxConfig pod = Pod(node, "fail");
  auto sandbox = Run(node, pod);
  REQUIRE_OK(sandbox);
  node.heterod().SetDpuAlive(false);
  WaitDpu(node, false);

  auto made = Create(node, Request(*sandbox, pod, "side"));

  REQUIRE_OK(made);
  CHECK(made->size() == 64);
  CheckEnded(node, *made);
  node.heterod().SetDpuAlive(true);
  WaitDpu(node, true);
  auto again = Create(node, Request(*sandbox, pod, "side"));
  REQUIRE_OK(again);
  CHECK_OK(Start(node, *again));
  CHECK(StatusOf(node, *again).state() == rt::CONTAINER_RUNNING);
}

TEST_CASE("by 'fail' a Pod that is made without the DPU fails by its containers, and does so until it is made anew") {
  TwoFakes node;
  WaitDpu(node, true);
  node.heterod().SetDpuAlive(false);
  WaitDpu(node, false);
  const rt::PodSandboxConfig pod = Pod(node, "fail");
  auto sandbox = Run(node, pod);
  REQUIRE_OK(sandbox);

  auto made = Create(node, Request(*sandbox, pod, "side"));
  REQUIRE_OK(made);
  CheckEnded(node, *made);

  node.heterod().SetDpuAlive(true);
  WaitDpu(node, true);
  auto again = Create(node, Request(*sandbox, pod, "side"));
  REQUIRE_OK(again);
  CHECK(StatusOf(node, *again).reason() == "DPUUnavailable");
  CHECK_OK(Create(node, Request(*sandbox, pod, "app")));
  CHECK(node.host().Asked("CreateContainer").size() == 1);
}

TEST_CASE("by 'fail' what a DPU that is there refuses is refused, as a runtime would") {
  TwoFakes node;
  WaitDpu(node, true);
  const rt::PodSandboxConfig pod = Pod(node, "fail");
  auto sandbox = Run(node, pod);
  REQUIRE_OK(sandbox);
  node.dpu().On("CreateContainer",
                [](std::shared_ptr<Call> call) { call->Fail(grpc::StatusCode::INVALID_ARGUMENT, "no such user"); });

  CHECK_THAT(Create(node, Request(*sandbox, pod, "side")).status(), testing::Says("no such user"));
  CHECK(Listed(node).empty());
}

TEST_CASE("by 'host' a container that was lost with its emptyDir runs on the host, with the host's folder") {
  TwoFakes node;
  WaitDpu(node, true);
  rt::PodSandboxConfig pod = Pod(node, "host");
  (*pod.mutable_annotations())[kVolumes] = "cache=side";
  auto sandbox = Run(node, pod);
  REQUIRE_OK(sandbox);
  const std::string folder = node.folder() + "/pods/web-uid/volumes/kubernetes.io~empty-dir/cache";
  REQUIRE(std::filesystem::create_directories(folder));
  rt::CreateContainerRequest request = Request(*sandbox, pod, "side");
  rt::Mount& mount = *request.mutable_config()->add_mounts();
  mount.set_host_path(folder);
  mount.set_container_path("/cache");
  auto lost = Create(node, request);
  REQUIRE_OK(lost);
  REQUIRE_OK(Start(node, *lost));
  node.heterod().SetDpuAlive(false);
  REQUIRE(SoonTrue([&] { return StatusOf(node, *lost).reason() == "DPULost"; }, kPatience.count()));

  request.mutable_config()->mutable_metadata()->set_attempt(1);
  auto made = Create(node, request);

  REQUIRE_OK(made);
  rt::CreateContainerRequest asked;
  REQUIRE(node.host().Asked("CreateContainer").size() == 1);
  REQUIRE(asked.ParseFromString(node.host().Asked("CreateContainer").front()));
  CHECK(asked.config().mounts(0).host_path() == folder);
}

}  // namespace heterok8s::cri
