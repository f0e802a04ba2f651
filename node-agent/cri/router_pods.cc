// Sandboxes: the twin first, then the host's; both or none.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <future>

#include "common/fault/fault.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/bandwidth_check.h"
#include "node-agent/cri/router.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr std::chrono::seconds kTwinTime{30};  // long enough for a loaded DPU; kubelet allows minutes
constexpr std::chrono::seconds kRollBackTime{20};

std::string NameOf(const rt::PodSandboxMetadata& metadata) {
  return fmt::format("Pod {}/{}", metadata.namespace_(), metadata.name());
}

}  // namespace

absl::StatusOr<std::string> Router::MakeTwin(const rt::RunPodSandboxRequest& request, Deadline deadline) {
  if (!parts_.link.Valid()) return parts_.link.AwayError();
  rt::RunPodSandboxRequest twin;
  *twin.mutable_config() = TwinConfig(request.config(), options_.paths);  // runtime_handler names one of the host's
  deadline = std::min(deadline, In(kTwinTime));
  auto made = parts_.dpu.Call<rt::RunPodSandboxResponse>(kRunPodSandbox, twin, deadline);
  // The twin of an earlier call that nobody heard the end of has the name.
  if (!made.ok() && !IsAway(made.status()) && parts_.link.RemoveLeftover(request.config().metadata(), deadline).ok())
    made = parts_.dpu.Call<rt::RunPodSandboxResponse>(kRunPodSandbox, twin, deadline);
  HK_RETURN_IF_ERROR(made.status());
  HK_FAULT_POINT("cri.pod.after-twin");
  return made->pod_sandbox_id();
}

void Router::RunPodSandbox(const CallPtr& call) {
  rt::RunPodSandboxRequest request;
  if (!ParseRequest(*call, &request)) return;
  rt::PodSandboxConfig& config = *request.mutable_config();
  auto& annotations = *config.mutable_annotations();
  // These say what heterocri decided; from a Pod's author they would be a claim.
  size_t claims = 0;
  for (const char* key : {kPlacement, kPlacementReason, kTwin, kLogDirectory, kRefused})
    claims += annotations.erase(key);
  if (absl::Status bandwidth = CheckBandwidth(annotations); !bandwidth.ok()) {
    Answer(*call, bandwidth);
    return;
  }
  SplitPod pod;
  pod.metadata = config.metadata();
  pod.verdict = DecidePod(config, options_.rules);
  pod.log_directory = config.log_directory();
  if (!pod.verdict.wanted) {
    ForwardBytes(parts_.host.stub(), call, claims == 0 ? call->request() : ToBuffer(request.SerializeAsString()), {});
    return;
  }

  const std::string name = NameOf(pod.metadata);
  DpuLink::AtWork at_work(parts_.link, pod.metadata);
  if (pod.verdict.split) {
    absl::StatusOr<std::string> twin = MakeTwin(request, LimitOf(*call));
    if (twin.ok()) {
      pod.twin_id = *twin;
    } else {
      const std::string reason = fmt::format("twin sandbox on the DPU: {}", Message(twin.status()));
      const std::string refusal = fmt::format("{} (fallback is '{}')", reason, Name(pod.verdict.fallback));
      if (pod.verdict.fallback == Fallback::kHost) {
        ++figures_.pod_fallbacks;
      } else if (pod.verdict.fallback == Fallback::kFail && IsAway(twin.status())) {
        pod.verdict.refused = refusal;  // a Pod can fail by its containers only
        annotations[kRefused] = refusal;
      } else {
        Answer(*call, absl::Status(twin.status().code(), refusal));
        return;
      }
      pod.verdict.split = false;
      pod.verdict.reason = reason;
    }
  }
  annotations[kPlacement] = pod.verdict.split ? "split" : "host";
  annotations[kPlacementReason] = pod.verdict.reason;
  annotations[kLogDirectory] = pod.log_directory;
  spdlog::info("{}: {}: {}", name, pod.verdict.split ? "split" : "on the host", pod.verdict.reason);

  absl::StatusOr<rt::RunPodSandboxResponse> made =
      parts_.host.Call<rt::RunPodSandboxResponse>(kRunPodSandbox, request, LimitOf(*call));
  if (!made.ok()) {
    if (!pod.twin_id.empty()) {
      absl::Status undone = parts_.link.RemoveTwin(pod.twin_id, pod.metadata, In(kRollBackTime));
      if (!undone.ok()) spdlog::warn("{}: roll back the twin: {}; tried again later", name, ToString(undone));
    }
    Answer(*call, made.status());
    return;
  }
  if (absl::Status failed = fault::Pass<"cri.pod.after-host">(); !failed.ok()) return Answer(*call, failed);
  pod.sandbox_id = made->pod_sandbox_id();
  parts_.table.PutPod(pod);
  call->Finish(grpc::Status::OK, ToBuffer(made->SerializeAsString()));
}

void Router::StopPodSandbox(const CallPtr& call) {
  rt::StopPodSandboxRequest request;
  if (!ParseRequest(*call, &request)) return;
  std::optional<SplitPod> pod = parts_.table.FindPod(request.pod_sandbox_id());
  if (!pod || pod->twin_id.empty()) {
    ForwardToHost(call);
    return;
  }
  DpuLink::AtWork at_work(parts_.link, pod->metadata);
  parts_.table.MarkStopped(pod->sandbox_id);
  Deadline deadline = LimitOf(*call);
  std::future<absl::Status> twin = std::async(std::launch::async, [&]() -> absl::Status {
    if (!parts_.link.Valid()) return parts_.link.AwayError();
    rt::StopPodSandboxRequest stop;
    stop.set_pod_sandbox_id(pod->twin_id);
    HK_RETURN_IF_ERROR(
        parts_.dpu.Call<rt::StopPodSandboxResponse>(kStopPodSandbox, stop, std::min(deadline, In(kTwinTime))).status());
    HK_FAULT_POINT("cri.pod-stop.after-twin");
    return absl::OkStatus();
  });
  absl::StatusOr<grpc::ByteBuffer> host = parts_.host.CallBytes(kStopPodSandbox, call->request(), deadline);
  if (absl::Status failed = fault::Pass<"cri.pod-stop.after-host">(); !failed.ok()) host = failed;
  absl::Status on_dpu = twin.get();
  parts_.link.PollSoon();
  if (IsAway(on_dpu)) {
    spdlog::warn("{}: the twin is stopped when the DPU returns: {}", NameOf(pod->metadata), ToString(on_dpu));
  } else if (host.ok() && !on_dpu.ok() && on_dpu.code() != absl::StatusCode::kNotFound) {
    Answer(*call, Annotate(on_dpu, "twin sandbox on the DPU"));
    return;
  }
  Answer(*call, host);
}

// A newer sandbox of the same Pod, which has the same volumes.
bool Router::OtherAttempt(const SplitPod& pod) const {
  for (const SplitPod& other : parts_.table.Pods()) {
    if (other.metadata.uid() == pod.metadata.uid() && other.sandbox_id != pod.sandbox_id) return true;
  }
  return false;
}

void Router::RemovePodSandbox(const CallPtr& call) {
  rt::RemovePodSandboxRequest request;
  if (!ParseRequest(*call, &request)) return;
  std::optional<SplitPod> pod = parts_.table.FindPod(request.pod_sandbox_id());
  if (!pod) {
    ForwardToHost(call);
    return;
  }
  DpuLink::AtWork at_work(parts_.link, pod->metadata);
  Deadline deadline = LimitOf(*call);
  if (!OtherAttempt(*pod)) parts_.volumes.ForgetPod(pod->metadata.uid());  // before the DPU removes them
  if (absl::Status failed = fault::Pass<"cri.pod-remove.after-volumes">(); !failed.ok()) return Answer(*call, failed);
  if (!pod->twin_id.empty()) {
    absl::Status removed = parts_.link.AwayError();
    if (parts_.link.Valid())
      removed = parts_.link.RemoveTwin(pod->twin_id, pod->metadata, std::min(deadline, In(kTwinTime)));
    if (IsAway(removed)) {
      spdlog::warn("{}: the twin is removed when the DPU returns: {}", NameOf(pod->metadata), ToString(removed));
    } else if (!removed.ok()) {
      Answer(*call, removed);
      return;
    }
  }
  absl::StatusOr<grpc::ByteBuffer> host = parts_.host.CallBytes(kRemovePodSandbox, call->request(), deadline);
  if (absl::Status failed = fault::Pass<"cri.pod-remove.after-host">(); !failed.ok()) return Answer(*call, failed);
  if (host.ok()) {
    std::vector<DpuContainer> containers = parts_.table.Containers();
    parts_.table.ErasePod(pod->sandbox_id);
    for (const DpuContainer& container : containers) {
      if (container.listed.pod_sandbox_id() == pod->sandbox_id) parts_.mirror.Forget(container.id());
    }
  }
  Answer(*call, host);
}

}  // namespace heterok8s::cri
