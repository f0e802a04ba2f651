// heterocri's heart: every CRI call of kubelet, sent to where it belongs.
//
// Purpose: one Pod stays one Pod. Sandboxes are the host's, each with a twin on the DPU when the Pod is split;
// containers live in one runtime each, under that runtime's id. Nothing that kubelet calls in its loop (List, Status,
// ContainerStatus) waits for the DPU.
// Threading: Handle runs on gRPC's threads and does not block: a call either is forwarded, or gets a thread of `tasks`.
// Ownership: borrows everything; `tasks` must be waited for before the rest goes.
// Errors: the runtimes' own codes and texts; UNIMPLEMENTED by name for what is not served.
//
//   Router router({.rules = …, .paths = …}, parts);
//   HK_RETURN_IF_ERROR(router.RebuildFromHost());
//   ByteService service([&](std::shared_ptr<Call> call) { router.Handle(std::move(call)); });
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "common/sys/keyed_mutex.h"
#include "node-agent/cri/byte_service.h"
#include "node-agent/cri/container_events.h"
#include "node-agent/cri/cri_client.h"
#include "node-agent/cri/dpu_link.h"
#include "node-agent/cri/image_notes.h"
#include "node-agent/cri/log_mirror.h"
#include "node-agent/cri/methods.h"
#include "node-agent/cri/out_stream.h"
#include "node-agent/cri/pod_limits.h"
#include "node-agent/cri/pod_table.h"
#include "node-agent/cri/sandbox_mark.h"
#include "node-agent/cri/stats.h"
#include "node-agent/cri/streaming.h"
#include "node-agent/cri/tasks.h"
#include "node-agent/cri/twin.h"
#include "node-agent/cri/volume_mirror.h"
#include "proto/heterok8s/v1/runtime.grpc.pb.h"

namespace heterok8s::cri {

struct RouterOptions {
  PlacementRules rules;
  DpuPaths paths;
};

struct RouterFigures {
  std::atomic<uint64_t> containers_on_dpu{0};
  std::atomic<uint64_t> pod_fallbacks{0}, container_fallbacks{0};  // could be split, and the DPU did not take them
};

struct RouterParts {
  CriClient& host;
  CriClient& dpu;
  v1::DpuRuntime::StubInterface& runtime;
  PodTable& table;
  DpuLink& link;
  LogMirror& mirror;
  Tasks& tasks;
  StreamingServer& streaming;
  VolumeMirror& volumes;
  ContainerEvents& events;
  const SandboxMark& mark;
};

class Router {
 public:
  Router(RouterOptions options, RouterParts parts) : options_(std::move(options)), parts_(parts) {}

  // Fills the table with the host's sandboxes that asked for a split, after its Load. Before the socket opens.
  absl::Status RebuildFromHost();
  void Handle(std::shared_ptr<Call> call);
  absl::StatusOr<v1::PlacementsReply> Placements(const std::string& pod_uid);
  const RouterFigures& figures() const { return figures_; }

 private:
  using CallPtr = std::shared_ptr<Call>;
  using Handler = void (Router::*)(const CallPtr&);

  // router.cc
  void Special(const Method& method, CallPtr call);
  void OnTask(CallPtr call, Handler handler);
  void ForwardToHost(const CallPtr& call, Transform transform = {});
  void ByContainer(const Method& method, const CallPtr& call);
  void ListContainers(const CallPtr& call);
  void Status(const CallPtr& call);

  // router_pods.cc
  void RunPodSandbox(const CallPtr& call);
  void StopPodSandbox(const CallPtr& call);
  void RemovePodSandbox(const CallPtr& call);
  bool OtherAttempt(const SplitPod& pod) const;
  absl::StatusOr<std::string> MakeTwin(const runtime::v1::RunPodSandboxRequest& request, Deadline deadline);
  // The Pod's twin; made anew when it has died, from what the host's sandbox is and `config`, which CreateContainer
  // has.
  absl::StatusOr<std::string> EnsureTwin(const SplitPod& pod, const runtime::v1::PodSandboxConfig& config,
                                         Deadline deadline);

  // router_create.cc
  void CreateContainer(const CallPtr& call);
  absl::StatusOr<std::string> CreateOnDpu(const SplitPod& pod, const ContainerVerdict& verdict,
                                          const runtime::v1::CreateContainerRequest& request, Deadline deadline);
  absl::Status PlaceMounts(const runtime::v1::CreateContainerRequest& request, const ContainerVerdict& verdict,
                           DpuContainerOptions* options, Deadline deadline);
  absl::StatusOr<std::map<std::string, std::string>> EmptyDirUsers(const SplitPod& pod,
                                                                   const runtime::v1::ContainerConfig& config,
                                                                   Deadline deadline);
  // A profile of the host (Localhost) is a file there; the DPU's runtime gets a copy.
  absl::Status PlaceSeccomp(const runtime::v1::CreateContainerRequest& request, DpuContainerOptions* options,
                            Deadline deadline);
  // Fallback::kFail with the DPU away: the answer to CreateContainer, for one that has ended before it began. Only the
  // table has it; its StartContainer says why.
  absl::StatusOr<grpc::ByteBuffer> CreateEnded(const SplitPod& pod, const runtime::v1::CreateContainerRequest& request,
                                               const std::string& why);
  // That a container on the host, whose reason is given, needs no volume that is on the DPU.
  absl::Status CheckDpuVolumes(const SplitPod& pod, const runtime::v1::ContainerConfig& config,
                               const std::string& why_host) const;

  // router_containers.cc
  void StartContainer(const CallPtr& call);
  void StopContainer(const CallPtr& call);
  void RemoveContainer(const CallPtr& call);
  void ContainerStatus(const CallPtr& call);
  void ReopenContainerLog(const CallPtr& call);
  void OpenStream(const CallPtr& call);
  std::optional<DpuContainer> OnDpu(const CallPtr& call, bool* answered);
  // Of one that is `lost`: it runs nowhere, and its status says why.
  static void FailEnded(const CallPtr& call, grpc::StatusCode code, const DpuContainer& container);

  // router_limits.cc
  void UpdateContainerResources(const CallPtr& call);
  void UpdatePodSandboxResources(const CallPtr& call);
  // Whether the DPU's runtime takes the files of cgroup v2 that are in `resources`.
  absl::StatusOr<bool> TakesUnified(const runtime::v1::LinuxContainerResources& resources, Deadline deadline);
  // The limits that the DPU's half of a Pod has in common, before `made` is one of its containers. With limits_ held.
  absl::Status LimitForNew(const SplitPod& pod, const runtime::v1::CreateContainerRequest& made, Deadline deadline);
  // Of the containers that the table has, and one more or other than there.
  PodLimits LimitsOfPod(const SplitPod& pod, const std::string& name, uint32_t attempt,
                        const runtime::v1::LinuxContainerResources* resources) const;
  void SaveLimits();
  absl::Status LimitOnDpu(const SplitPod& pod, const PodLimits& limits, Deadline deadline);

  // router_stats.cc
  void ListContainerStats(const CallPtr& call);
  void PodSandboxStats(const CallPtr& call);
  void ListPodSandboxStats(const CallPtr& call);
  void ListMetricDescriptors(const CallPtr& call);
  void ListPodSandboxMetrics(const CallPtr& call);
  void RuntimeConfig(const CallPtr& call);
  template <typename Response>
  void MergeLists(const CallPtr& call, const char* method,
                  const std::function<void(const Response& dpu, Response* host)>& merge);
  void AddTwins(const runtime::v1::ListPodSandboxStatsResponse& dpu, runtime::v1::PodSandboxStats* pod);
  // With what its containers' emptyDirs hold.
  void AddTwinCharged(runtime::v1::PodSandboxStats twin, runtime::v1::PodSandboxStats* pod);

  void AddContainerStats(const runtime::v1::ListContainerStatsResponse& dpu,
                         const runtime::v1::ContainerStatsFilter& filter,
                         runtime::v1::ListContainerStatsResponse* response);
  // Of emptyDirs on the DPU; asked at most every few seconds, and only when a container has one.
  v1::UsedByVolumesReply UsedByVolumes(const ContainerStatsList& on_dpu);
  void AddTwinMetrics(const runtime::v1::ListPodSandboxMetricsResponse& dpu,
                      runtime::v1::ListPodSandboxMetricsResponse* response);
  // The DPU's answer to a List without a filter, or its last one; nothing when it never answered.
  std::optional<std::string> AskDpuBytes(const char* method);
  template <typename Response>
  std::optional<Response> AskDpu(const char* method) {
    std::optional<std::string> bytes = AskDpuBytes(method);
    Response response;
    if (!bytes || !response.ParseFromString(*bytes)) return std::nullopt;
    return response;
  }

  // router_streams.cc
  // The host's parts, each changed by `each`; after the last, those of `more`.
  void HostStream(const CallPtr& call, TransformEach each = {}, std::function<std::vector<std::string>()> more = {});
  void StreamContainers(const CallPtr& call);
  void StreamContainerStats(const CallPtr& call);
  void StreamPodSandboxStats(const CallPtr& call);
  void StreamPodSandboxMetrics(const CallPtr& call);
  void GetContainerEvents(const CallPtr& call);
  void PodSandboxStatus(const CallPtr& call);

  // router_images.cc
  void ImageStatus(const CallPtr& call);
  void PullImage(const CallPtr& call);
  // By which name the DPU has the image of this container; pulled there when it does not.
  absl::StatusOr<std::string> DpuImage(const runtime::v1::CreateContainerRequest& request, Deadline deadline);

  RouterOptions options_;
  RouterParts parts_;
  ImageNotes image_notes_;
  RouterFigures figures_;
  sys::KeyedMutex remaking_;  // twins, by the host's sandbox
  sys::KeyedMutex limits_;    // by sandbox on the host: one call at a time makes the sum of its containers
  std::atomic<bool> said_missing_{false};
  std::mutex figures_mutex_;
  std::map<std::string, std::string> last_figures_;  // of the DPU, by method: its last answer
  v1::UsedByVolumesReply used_;                      // its last answer
  std::chrono::steady_clock::time_point used_asked_;
};

inline constexpr std::chrono::seconds kLimitsPatience{30};

// How long one call may take at all, whatever its caller allows. Not for the two that may take longer than anybody can
// say beforehand, a pull and a stop with its grace: these have their caller's deadline and end when it gives up.
Deadline LimitOf(const Call& call);
void Answer(Call& call, const absl::Status& status);
void Answer(Call& call, const absl::StatusOr<grpc::ByteBuffer>& response);
template <typename Message>
bool ParseRequest(Call& call, Message* message) {
  if (message->ParseFromString(BytesOf(call.request()))) return true;
  call.Fail(grpc::StatusCode::INVALID_ARGUMENT, call.method() + ": the request is no such message");
  return false;
}

}  // namespace heterok8s::cri
