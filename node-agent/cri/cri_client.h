// Blocking CRI calls with a deadline, to either runtime.
//
// Threading: thread-safe; a call blocks its thread. Ownership: shares the channel. Errors: the runtime's codes and
// texts as they came; UNAVAILABLE when it is down, DEADLINE_EXCEEDED; CANCELLED when the caller for whom it is made has
// given up.
//
//   HK_ASSIGN_OR_RETURN(auto list, host.Call<rt::ListContainersResponse>(kListContainers, request, In(seconds(2))));
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "common/status/status.h"
#include "node-agent/cri/byte_service.h"

namespace heterok8s::cri {

using Deadline = std::chrono::system_clock::time_point;
inline Deadline In(std::chrono::milliseconds time) { return std::chrono::system_clock::now() + time; }

class CriClient {
 public:
  explicit CriClient(std::shared_ptr<grpc::Channel> channel) : stub_(std::move(channel)) {}

  absl::StatusOr<grpc::ByteBuffer> CallBytes(const std::string& method, const grpc::ByteBuffer& request,
                                             Deadline deadline, const std::shared_ptr<cri::Call>& caller = nullptr);

  template <typename Response, typename Request>
  absl::StatusOr<Response> Call(const std::string& method, const Request& request, Deadline deadline,
                                const std::shared_ptr<cri::Call>& caller = nullptr) {
    HK_ASSIGN_OR_RETURN(grpc::ByteBuffer bytes,
                        CallBytes(method, ToBuffer(request.SerializeAsString()), deadline, caller));
    Response response;
    if (!response.ParseFromString(BytesOf(bytes)))
      return absl::InternalError(method + ": the answer is no such message");
    return response;
  }

  grpc::GenericStub& stub() { return stub_; }

 private:
  grpc::GenericStub stub_;
};

inline constexpr const char* kVersion = "/runtime.v1.RuntimeService/Version";
inline constexpr const char* kRunPodSandbox = "/runtime.v1.RuntimeService/RunPodSandbox";
inline constexpr const char* kStopPodSandbox = "/runtime.v1.RuntimeService/StopPodSandbox";
inline constexpr const char* kRemovePodSandbox = "/runtime.v1.RuntimeService/RemovePodSandbox";
inline constexpr const char* kListPodSandbox = "/runtime.v1.RuntimeService/ListPodSandbox";
inline constexpr const char* kPodSandboxStatus = "/runtime.v1.RuntimeService/PodSandboxStatus";
inline constexpr const char* kCreateContainer = "/runtime.v1.RuntimeService/CreateContainer";
inline constexpr const char* kStartContainer = "/runtime.v1.RuntimeService/StartContainer";
inline constexpr const char* kStopContainer = "/runtime.v1.RuntimeService/StopContainer";
inline constexpr const char* kRemoveContainer = "/runtime.v1.RuntimeService/RemoveContainer";
inline constexpr const char* kListContainers = "/runtime.v1.RuntimeService/ListContainers";
inline constexpr const char* kStreamContainers = "/runtime.v1.RuntimeService/StreamContainers";
inline constexpr const char* kContainerStatus = "/runtime.v1.RuntimeService/ContainerStatus";
inline constexpr const char* kUpdateContainerResources = "/runtime.v1.RuntimeService/UpdateContainerResources";
inline constexpr const char* kUpdatePodSandboxResources = "/runtime.v1.RuntimeService/UpdatePodSandboxResources";
inline constexpr const char* kReopenContainerLog = "/runtime.v1.RuntimeService/ReopenContainerLog";
inline constexpr const char* kExec = "/runtime.v1.RuntimeService/Exec";
inline constexpr const char* kAttach = "/runtime.v1.RuntimeService/Attach";
inline constexpr const char* kListContainerStats = "/runtime.v1.RuntimeService/ListContainerStats";
inline constexpr const char* kStreamContainerStats = "/runtime.v1.RuntimeService/StreamContainerStats";
inline constexpr const char* kPodSandboxStats = "/runtime.v1.RuntimeService/PodSandboxStats";
inline constexpr const char* kListPodSandboxStats = "/runtime.v1.RuntimeService/ListPodSandboxStats";
inline constexpr const char* kStreamPodSandboxStats = "/runtime.v1.RuntimeService/StreamPodSandboxStats";
inline constexpr const char* kListMetricDescriptors = "/runtime.v1.RuntimeService/ListMetricDescriptors";
inline constexpr const char* kListPodSandboxMetrics = "/runtime.v1.RuntimeService/ListPodSandboxMetrics";
inline constexpr const char* kStreamPodSandboxMetrics = "/runtime.v1.RuntimeService/StreamPodSandboxMetrics";
inline constexpr const char* kRuntimeConfig = "/runtime.v1.RuntimeService/RuntimeConfig";
inline constexpr const char* kGetContainerEvents = "/runtime.v1.RuntimeService/GetContainerEvents";
inline constexpr const char* kStatus = "/runtime.v1.RuntimeService/Status";
inline constexpr const char* kImageStatus = "/runtime.v1.ImageService/ImageStatus";
inline constexpr const char* kPullImage = "/runtime.v1.ImageService/PullImage";

}  // namespace heterok8s::cri
