#include "heteroctl/pod/cri_client.h"

#include <fmt/format.h>
#include <grpcpp/grpcpp.h>

#include "heteroctl/endpoints.h"
#include "heteroctl/output.h"
#include "proto/cri/v1/cri.grpc.pb.h"
#include "proto/heterok8s/v1/runtime.grpc.pb.h"

namespace heterok8s::ctl {
namespace {

namespace cri = runtime::v1;
using std::chrono::seconds;

constexpr seconds kQuick{10};     // answered from the runtime's memory
constexpr seconds kSandbox{120};  // includes CNI; kubelet gives it 4 minutes
constexpr seconds kPull{600};
constexpr int kMaxMessageBytes = 64 << 20;  // a List of many Pods

absl::Status FromGrpc(const grpc::Status& status, const char* call) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                      fmt::format("{}: {}", call, status.error_message()));
}

class GrpcCriClient : public CriClient {
 public:
  explicit GrpcCriClient(const std::string& socket) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
    auto channel = grpc::CreateCustomChannel(GrpcTarget(socket), grpc::InsecureChannelCredentials(), arguments);
    runtime_ = cri::RuntimeService::NewStub(channel);
    images_ = cri::ImageService::NewStub(channel);
    router_ = v1::Router::NewStub(channel);
  }

  absl::Status CheckVersion() {
    cri::VersionRequest request;
    return Call<cri::VersionResponse>("Version", *runtime_, &cri::RuntimeService::Stub::Version, request, seconds(3))
        .status();
  }

  absl::StatusOr<cri::RunPodSandboxResponse> RunPodSandbox(const cri::RunPodSandboxRequest& request) override {
    return Call<cri::RunPodSandboxResponse>("RunPodSandbox", *runtime_, &cri::RuntimeService::Stub::RunPodSandbox,
                                            request, kSandbox);
  }
  absl::Status StopPodSandbox(const std::string& id) override {
    cri::StopPodSandboxRequest request;
    request.set_pod_sandbox_id(id);
    return Call<cri::StopPodSandboxResponse>("StopPodSandbox", *runtime_, &cri::RuntimeService::Stub::StopPodSandbox,
                                             request, kSandbox)
        .status();
  }
  absl::Status RemovePodSandbox(const std::string& id) override {
    cri::RemovePodSandboxRequest request;
    request.set_pod_sandbox_id(id);
    return Call<cri::RemovePodSandboxResponse>("RemovePodSandbox", *runtime_,
                                               &cri::RuntimeService::Stub::RemovePodSandbox, request, kSandbox)
        .status();
  }
  absl::StatusOr<cri::PodSandboxStatus> PodSandboxStatus(const std::string& id) override {
    cri::PodSandboxStatusRequest request;
    request.set_pod_sandbox_id(id);
    HK_ASSIGN_OR_RETURN(
        auto reply, Call<cri::PodSandboxStatusResponse>("PodSandboxStatus", *runtime_,
                                                        &cri::RuntimeService::Stub::PodSandboxStatus, request, kQuick));
    return reply.status();
  }
  absl::StatusOr<cri::ListPodSandboxResponse> ListPodSandbox() override {
    return Call<cri::ListPodSandboxResponse>("ListPodSandbox", *runtime_, &cri::RuntimeService::Stub::ListPodSandbox,
                                             cri::ListPodSandboxRequest(), kQuick);
  }

  absl::StatusOr<std::string> CreateContainer(const cri::CreateContainerRequest& request) override {
    HK_ASSIGN_OR_RETURN(
        auto reply, Call<cri::CreateContainerResponse>("CreateContainer", *runtime_,
                                                       &cri::RuntimeService::Stub::CreateContainer, request, kSandbox));
    return reply.container_id();
  }
  absl::Status StartContainer(const std::string& id) override {
    cri::StartContainerRequest request;
    request.set_container_id(id);
    return Call<cri::StartContainerResponse>("StartContainer", *runtime_, &cri::RuntimeService::Stub::StartContainer,
                                             request, kSandbox)
        .status();
  }
  absl::Status StopContainer(const std::string& id, seconds grace) override {
    cri::StopContainerRequest request;
    request.set_container_id(id);
    request.set_timeout(grace.count());
    return Call<cri::StopContainerResponse>("StopContainer", *runtime_, &cri::RuntimeService::Stub::StopContainer,
                                            request, grace + kSandbox)
        .status();
  }
  absl::Status RemoveContainer(const std::string& id) override {
    cri::RemoveContainerRequest request;
    request.set_container_id(id);
    return Call<cri::RemoveContainerResponse>("RemoveContainer", *runtime_, &cri::RuntimeService::Stub::RemoveContainer,
                                              request, kSandbox)
        .status();
  }
  absl::StatusOr<cri::ContainerStatus> ContainerStatus(const std::string& id) override {
    cri::ContainerStatusRequest request;
    request.set_container_id(id);
    HK_ASSIGN_OR_RETURN(
        auto reply, Call<cri::ContainerStatusResponse>("ContainerStatus", *runtime_,
                                                       &cri::RuntimeService::Stub::ContainerStatus, request, kQuick));
    return reply.status();
  }
  absl::StatusOr<cri::ListContainersResponse> ListContainers() override {
    return Call<cri::ListContainersResponse>("ListContainers", *runtime_, &cri::RuntimeService::Stub::ListContainers,
                                             cri::ListContainersRequest(), kQuick);
  }
  absl::StatusOr<cri::ExecSyncResponse> ExecSync(const cri::ExecSyncRequest& request) override {
    // The runtime ends the command after request.timeout(); 0 is no limit there, an hour here.
    seconds limit = request.timeout() > 0 ? seconds(request.timeout()) + kQuick : seconds(3600);
    return Call<cri::ExecSyncResponse>("ExecSync", *runtime_, &cri::RuntimeService::Stub::ExecSync, request, limit);
  }

  absl::StatusOr<std::string> ImageId(const cri::ImageSpec& image) override {
    cri::ImageStatusRequest request;
    *request.mutable_image() = image;
    HK_ASSIGN_OR_RETURN(auto reply,
                        Call<cri::ImageStatusResponse>("ImageStatus", *images_, &cri::ImageService::Stub::ImageStatus,
                                                       request, kQuick));
    return reply.image().id();
  }
  absl::Status PullImage(const cri::PullImageRequest& request) override {
    return Call<cri::PullImageResponse>("PullImage", *images_, &cri::ImageService::Stub::PullImage, request, kPull)
        .status();
  }

  absl::StatusOr<v1::PlacementsReply> Placements(const std::string& pod_uid) override {
    v1::PlacementsRequest request;
    request.set_pod_uid(pod_uid);
    return Call<v1::PlacementsReply>("Placements", *router_, &v1::Router::Stub::Placements, request, kQuick);
  }

 private:
  template <typename Reply, typename Stub, typename Request>
  absl::StatusOr<Reply> Call(const char* name, Stub& stub,
                             grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*),
                             const Request& request, seconds deadline) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + deadline);
    Reply reply;
    HK_RETURN_IF_ERROR(FromGrpc((stub.*method)(&context, request, &reply), name));
    return reply;
  }

  std::unique_ptr<cri::RuntimeService::Stub> runtime_;
  std::unique_ptr<cri::ImageService::Stub> images_;
  std::unique_ptr<v1::Router::Stub> router_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CriClient>> CriClient::Connect(const std::string& socket) {
  auto client = std::make_unique<GrpcCriClient>(socket);
  if (absl::Status status = client->CheckVersion(); !status.ok()) {
    return WithHint(Annotate(status, fmt::format("no container runtime answers at '{}'", socket)),
                    "start a lab with `heteroctl lab up`, or name a socket with --cri-socket");
  }
  return client;
}

}  // namespace heterok8s::ctl
