// The Container Runtime Interface, called synchronously over a Unix socket.
//
// Purpose: what `run ps logs exec rm` need of CRI v1, from heterocri or any other CRI runtime.
// Threading: thread-safe (gRPC channels are). Ownership: owns its channel.
// Errors: the runtime's own code and text, prefixed with the call; kUnavailable with a hint when nobody listens.
//
//   HK_ASSIGN_OR_RETURN(std::unique_ptr<CriClient> cri, CriClient::Connect(endpoints.cri));
//   HK_ASSIGN_OR_RETURN(auto reply, cri->RunPodSandbox(request));
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "common/status/status.h"
#include "proto/cri/v1/cri.pb.h"
#include "proto/heterok8s/v1/runtime.pb.h"

namespace heterok8s::ctl {

class CriClient {
 public:
  // Fails within three seconds when nobody answers Version there.
  static absl::StatusOr<std::unique_ptr<CriClient>> Connect(const std::string& socket);
  virtual ~CriClient() = default;

  virtual absl::StatusOr<runtime::v1::RunPodSandboxResponse> RunPodSandbox(
      const runtime::v1::RunPodSandboxRequest& request) = 0;
  virtual absl::Status StopPodSandbox(const std::string& id) = 0;
  virtual absl::Status RemovePodSandbox(const std::string& id) = 0;
  virtual absl::StatusOr<runtime::v1::PodSandboxStatus> PodSandboxStatus(const std::string& id) = 0;
  virtual absl::StatusOr<runtime::v1::ListPodSandboxResponse> ListPodSandbox() = 0;

  virtual absl::StatusOr<std::string> CreateContainer(const runtime::v1::CreateContainerRequest& request) = 0;
  virtual absl::Status StartContainer(const std::string& id) = 0;
  virtual absl::Status StopContainer(const std::string& id, std::chrono::seconds grace) = 0;
  virtual absl::Status RemoveContainer(const std::string& id) = 0;
  virtual absl::StatusOr<runtime::v1::ContainerStatus> ContainerStatus(const std::string& id) = 0;
  virtual absl::StatusOr<runtime::v1::ListContainersResponse> ListContainers() = 0;
  virtual absl::StatusOr<runtime::v1::ExecSyncResponse> ExecSync(const runtime::v1::ExecSyncRequest& request) = 0;

  // The image's id, or empty when it is not there.
  virtual absl::StatusOr<std::string> ImageId(const runtime::v1::ImageSpec& image) = 0;
  virtual absl::Status PullImage(const runtime::v1::PullImageRequest& request) = 0;

  // heterocri only; kUnimplemented from any other runtime.
  virtual absl::StatusOr<v1::PlacementsReply> Placements(const std::string& pod_uid) = 0;
};

}  // namespace heterok8s::ctl
