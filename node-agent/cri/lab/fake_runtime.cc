#include "node-agent/cri/lab/fake_runtime.h"

#include <fmt/format.h>
#include <unistd.h>

#include <thread>

#include "common/testing/matchers.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

grpc::Status Missing(const std::string& what, const std::string& id) {
  return {grpc::StatusCode::NOT_FOUND, fmt::format("{} '{}' is not there", what, id)};
}

}  // namespace

FakeRuntime::FakeRuntime(std::string socket, std::string name, grpc::Service* with)
    : socket_(std::move(socket)), name_(std::move(name)), with_(with) {
  Serve<rt::VersionRequest, rt::VersionResponse>("Version", [](const auto&, auto* response) {
    response->set_runtime_name("fake");
    return grpc::Status::OK;
  });
  Serve<rt::StatusRequest, rt::StatusResponse>("Status", [](const auto&, auto*) { return grpc::Status::OK; });
  ServeSandboxes();
  ServeContainers();
  ServeImages();
  Start();
}

void FakeRuntime::Start() {
  service_ = std::make_unique<ByteService>([this](std::shared_ptr<Call> call) { Handle(call); });
  grpc::ServerBuilder builder;
  builder.AddListeningPort("unix:" + socket_, grpc::InsecureServerCredentials());
  if (with_ != nullptr) builder.RegisterService(with_);
  builder.RegisterCallbackGenericService(service_.get());
  server_ = builder.BuildAndStart();
  REQUIRE(server_);
}

void FakeRuntime::Stop() {
  if (!server_) return;
  std::vector<std::future<void>> late;
  {
    std::lock_guard lock(mutex_);
    late.swap(late_);
    for (auto& reader : readers_) reader->End({grpc::StatusCode::UNAVAILABLE, "stopped"});
    readers_.clear();
  }
  late.clear();
  server_->Shutdown(std::chrono::system_clock::now());
  server_.reset();
  unlink(socket_.c_str());
}

void FakeRuntime::Handle(const std::shared_ptr<Call>& call) {
  if (away_) return call->Fail(grpc::StatusCode::UNAVAILABLE, "the runtime is away");
  std::string method = call->method().substr(call->method().rfind('/') + 1);
  Handler handler;
  {
    std::lock_guard lock(mutex_);
    asked_[method].push_back(BytesOf(call->request()));
    auto found = handlers_.find(method);
    if (found != handlers_.end()) handler = found->second;
  }
  if (!handler) return call->Fail(grpc::StatusCode::UNIMPLEMENTED, "unknown method " + method);
  const std::chrono::milliseconds slow = slow_;
  if (slow.count() == 0) return handler(call);
  std::lock_guard lock(mutex_);
  late_.push_back(std::async(std::launch::async, [handler, call, slow] {
    std::this_thread::sleep_for(slow);
    handler(call);
  }));
}

void FakeRuntime::On(const std::string& method, Handler handler) {
  std::lock_guard lock(mutex_);
  handlers_[method] = std::move(handler);
}

std::vector<std::string> FakeRuntime::Asked(const std::string& method) {
  std::lock_guard lock(mutex_);
  return asked_[method];
}

template <typename Request, typename Response>
void FakeRuntime::Serve(const std::string& method, std::function<grpc::Status(const Request&, Response*)> serve) {
  On(method, [this, serve](std::shared_ptr<Call> call) {
    Request request;
    Response response;
    grpc::Status status(grpc::StatusCode::INVALID_ARGUMENT, "no such message");
    if (request.ParseFromString(BytesOf(call->request()))) {
      std::lock_guard lock(mutex_);
      status = serve(request, &response);
    }
    call->Finish(status, ToBuffer(response.SerializeAsString()));
  });
}

// As long as containerd's, because their length says that they are whole.
std::string FakeRuntime::NewId() {
  std::string id = fmt::format("{:x}{}", ++serial_, name_);
  return std::string(64 - id.size(), 'f') + id;
}

void FakeRuntime::ServeSandboxes() {
  Serve<rt::RunPodSandboxRequest, rt::RunPodSandboxResponse>(
      "RunPodSandbox", [this](const auto& request, auto* response) {
        const std::string name = request.config().metadata().SerializeAsString();
        for (const auto& [id, other] : sandboxes_) {
          if (other.metadata().SerializeAsString() == name)
            return grpc::Status(grpc::StatusCode::UNKNOWN, "the sandbox's name is reserved for " + id);
        }
        rt::PodSandbox sandbox;
        sandbox.set_id(NewId());
        *sandbox.mutable_metadata() = request.config().metadata();
        *sandbox.mutable_labels() = request.config().labels();
        *sandbox.mutable_annotations() = request.config().annotations();
        sandboxes_[sandbox.id()] = sandbox;
        response->set_pod_sandbox_id(sandbox.id());
        return grpc::Status::OK;
      });
  Serve<rt::ListPodSandboxRequest, rt::ListPodSandboxResponse>("ListPodSandbox", [this](const auto&, auto* response) {
    for (const auto& [id, sandbox] : sandboxes_) *response->add_items() = sandbox;
    return grpc::Status::OK;
  });
  Serve<rt::PodSandboxStatusRequest, rt::PodSandboxStatusResponse>(
      "PodSandboxStatus", [this](const auto& request, auto* response) {
        auto found = sandboxes_.find(request.pod_sandbox_id());
        if (found == sandboxes_.end()) return Missing("sandbox", request.pod_sandbox_id());
        response->mutable_status()->set_id(found->first);
        *response->mutable_status()->mutable_metadata() = found->second.metadata();
        response->mutable_status()->set_state(found->second.state());
        *response->mutable_status()->mutable_labels() = found->second.labels();
        *response->mutable_status()->mutable_annotations() = found->second.annotations();
        return grpc::Status::OK;
      });
  Serve<rt::StopPodSandboxRequest, rt::StopPodSandboxResponse>("StopPodSandbox", [this](const auto& request, auto*) {
    auto found = sandboxes_.find(request.pod_sandbox_id());
    if (found == sandboxes_.end()) return grpc::Status::OK;
    found->second.set_state(rt::SANDBOX_NOTREADY);
    for (const auto& [id, container] : containers_) {
      if (container.pod_sandbox_id() == found->first && container.state() == rt::CONTAINER_RUNNING) Exit(id, 137);
    }
    return grpc::Status::OK;
  });
  Serve<rt::RemovePodSandboxRequest, rt::RemovePodSandboxResponse>(
      "RemovePodSandbox", [this](const auto& request, auto*) {
        sandboxes_.erase(request.pod_sandbox_id());
        std::erase_if(containers_, [&](const auto& item) {
          if (item.second.pod_sandbox_id() != request.pod_sandbox_id()) return false;
          statuses_.erase(item.first);
          return true;
        });
        return grpc::Status::OK;
      });
}

void FakeRuntime::ServeContainers() {
  Serve<rt::CreateContainerRequest, rt::CreateContainerResponse>(
      "CreateContainer", [this](const auto& request, auto* response) {
        auto sandbox = sandboxes_.find(request.pod_sandbox_id());
        if (sandbox == sandboxes_.end()) return Missing("sandbox", request.pod_sandbox_id());
        if (sandbox->second.state() != rt::SANDBOX_READY)  // in containerd 1.6's words
          return grpc::Status(grpc::StatusCode::UNKNOWN, "failed to get sandbox container task: no running task found");
        rt::Container container;
        container.set_id(NewId());
        container.set_pod_sandbox_id(request.pod_sandbox_id());
        *container.mutable_metadata() = request.config().metadata();
        *container.mutable_image() = request.config().image();
        *container.mutable_labels() = request.config().labels();
        *container.mutable_annotations() = request.config().annotations();
        rt::ContainerStatus status;
        status.set_id(container.id());
        *status.mutable_metadata() = container.metadata();
        *status.mutable_image() = container.image();
        *status.mutable_annotations() = container.annotations();
        containers_[container.id()] = container;
        statuses_[container.id()] = status;
        response->set_container_id(container.id());
        return grpc::Status::OK;
      });
  Serve<rt::StartContainerRequest, rt::StartContainerResponse>("StartContainer", [this](const auto& request, auto*) {
    auto found = containers_.find(request.container_id());
    if (found == containers_.end()) return Missing("container", request.container_id());
    found->second.set_state(rt::CONTAINER_RUNNING);
    statuses_[found->first].set_state(rt::CONTAINER_RUNNING);
    return grpc::Status::OK;
  });
  Serve<rt::StopContainerRequest, rt::StopContainerResponse>("StopContainer", [this](const auto& request, auto*) {
    auto found = containers_.find(request.container_id());
    if (found == containers_.end()) return Missing("container", request.container_id());
    // As containerd: nothing to do for one that was never started.
    if (found->second.state() == rt::CONTAINER_RUNNING) Exit(request.container_id(), 137);
    return grpc::Status::OK;
  });
  Serve<rt::RemoveContainerRequest, rt::RemoveContainerResponse>("RemoveContainer", [this](const auto& request, auto*) {
    containers_.erase(request.container_id());
    statuses_.erase(request.container_id());
    return grpc::Status::OK;
  });
  Serve<rt::ListContainersRequest, rt::ListContainersResponse>(
      "ListContainers", [this](const auto& request, auto* response) {
        for (const auto& [id, container] : containers_) {
          const std::string& sandbox = request.filter().pod_sandbox_id();
          if (!request.filter().id().empty() && request.filter().id() != id) continue;
          if (sandbox.empty() || sandbox == container.pod_sandbox_id()) *response->add_containers() = container;
        }
        return grpc::Status::OK;
      });
  Serve<rt::ContainerStatusRequest, rt::ContainerStatusResponse>(
      "ContainerStatus", [this](const auto& request, auto* response) {
        auto found = statuses_.find(request.container_id());
        if (found == statuses_.end()) return Missing("container", request.container_id());
        *response->mutable_status() = found->second;
        return grpc::Status::OK;
      });
}

void FakeRuntime::ServeImages() {
  Serve<rt::ImageStatusRequest, rt::ImageStatusResponse>("ImageStatus", [this](const auto& request, auto* response) {
    auto found = images_.find(request.image().image());
    if (found == images_.end()) return grpc::Status::OK;
    response->mutable_image()->set_id("sha256:" + name_);
    if (!found->second.empty()) response->mutable_image()->add_repo_digests(found->second);
    return grpc::Status::OK;
  });
  Serve<rt::PullImageRequest, rt::PullImageResponse>("PullImage", [this](const auto& request, auto* response) {
    const std::string& image = request.image().image();
    images_[image] = image.find('@') == std::string::npos ? "" : image;
    response->set_image_ref("sha256:" + name_);
    return grpc::Status::OK;
  });
}

void FakeRuntime::ServeEvents() {
  On("GetContainerEvents", [this](std::shared_ptr<Call> call) {
    auto out = std::make_shared<OutStream>(call);
    std::weak_ptr<OutStream> weak = out;
    {
      std::lock_guard lock(mutex_);
      readers_.push_back(out);
    }
    call->OnCancel([this, weak] {
      auto gone = weak.lock();
      if (!gone) return;
      {
        std::lock_guard lock(mutex_);
        std::erase(readers_, gone);
      }
      gone->End(grpc::Status::CANCELLED);
    });
  });
}

void FakeRuntime::Emit(const rt::ContainerEventResponse& event) {
  std::lock_guard lock(mutex_);
  for (auto& reader : readers_) reader->Push(ToBuffer(event.SerializeAsString()));
}

size_t FakeRuntime::event_readers() {
  std::lock_guard lock(mutex_);
  return readers_.size();
}

void FakeRuntime::Exit(const std::string& container_id, int code) {
  std::lock_guard lock(mutex_);
  containers_[container_id].set_state(rt::CONTAINER_EXITED);
  statuses_[container_id].set_state(rt::CONTAINER_EXITED);
  statuses_[container_id].set_exit_code(code);
}

void FakeRuntime::Reboot() {
  std::lock_guard lock(mutex_);
  for (auto& [id, sandbox] : sandboxes_) sandbox.set_state(rt::SANDBOX_NOTREADY);
  for (const auto& [id, container] : containers_) {
    if (container.state() == rt::CONTAINER_RUNNING) Exit(id, 255);
  }
}

std::set<std::string> FakeRuntime::images() {
  std::lock_guard lock(mutex_);
  std::set<std::string> names;
  for (const auto& [name, _] : images_) names.insert(name);
  return names;
}

void FakeRuntime::AddImage(const std::string& name, const std::string& digest) {
  std::lock_guard lock(mutex_);
  images_[name] = digest;
  if (!digest.empty()) images_[digest] = digest;
}

}  // namespace heterok8s::cri
