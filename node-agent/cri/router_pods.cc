// Sandboxes: the twin first, then the host's; both or none.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/fault/fault.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/bandwidth_check.h"
#include "node-agent/cri/beside.h"
#include "node-agent/cri/pod_limits.h"
#include "node-agent/cri/router.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr std::chrono::seconds kTwinTime{30};  // long enough for a loaded DPU; kubelet allows minutes
constexpr std::chrono::seconds kRollBackTime{20};

std::string NameOf(const rt::PodSandboxMetadata& metadata) {
  return fmt::format("Pod {}/{}", metadata.namespace_(), metadata.name());
}

// These say what heterocri decided; from a Pod's author they would be a claim.
size_t EraseClaims(google::protobuf::Map<std::string, std::string>* annotations) {
  size_t claims = 0;
  for (const char* key : {kPlacement, kPlacementReason, kTwin, kLogDirectory, kRefused, kMark})
    claims += annotations->erase(key);
  return claims;
}

}  // namespace

absl::StatusOr<std::string> Router::MakeTwin(const rt::RunPodSandboxRequest& request, Deadline deadline) {
  if (!parts_.link.Valid()) return parts_.link.AwayError();
  rt::RunPodSandboxRequest twin;
  *twin.mutable_config() = TwinConfig(request.config(), options_.paths);  // a Pod with a runtime_handler has no twin
  deadline = std::min(deadline, In(kTwinTime));
  auto made = parts_.dpu.Call<rt::RunPodSandboxResponse>(kRunPodSandbox, twin, deadline);
  // The twin of an earlier call that nobody heard the end of has the name.
  if (!made.ok() && !IsAway(made.status()) && parts_.link.RemoveLeftover(request.config().metadata(), deadline).ok())
    made = parts_.dpu.Call<rt::RunPodSandboxResponse>(kRunPodSandbox, twin, deadline);
  HK_RETURN_IF_ERROR(made.status());
  HK_FAULT_POINT("cri.pod.after-twin");
  return made->pod_sandbox_id();
}

absl::StatusOr<std::string> Router::EnsureTwin(const SplitPod& seen, const rt::PodSandboxConfig& config,
                                               Deadline deadline) {
  rt::PodSandboxStatusRequest ask;
  ask.set_pod_sandbox_id(seen.twin_id);
  absl::StatusOr<rt::PodSandboxStatusResponse> twin = absl::NotFoundError("not known");
  if (!seen.twin_id.empty()) twin = parts_.dpu.Call<rt::PodSandboxStatusResponse>(kPodSandboxStatus, ask, deadline);
  if (twin.ok() && twin->status().state() == rt::SANDBOX_READY) return seen.twin_id;
  if (!twin.ok() && twin.status().code() != absl::StatusCode::kNotFound) return twin.status();

  const std::string what = "twin sandbox on the DPU, which has died";
  deadline = std::min(deadline, In(kTwinTime));
  absl::StatusOr<sys::KeyedMutex::Guard> alone = remaking_.Lock(seen.sandbox_id, kTwinTime);
  HK_RETURN_IF_ERROR(Annotate(alone.status(), what));
  DpuLink::AtWork at_work(parts_.link, seen.metadata);
  const std::optional<SplitPod> pod = parts_.table.FindPod(seen.sandbox_id);
  if (!pod || pod->stopped) return absl::FailedPreconditionError("the Pod's sandbox has been stopped");
  absl::StatusOr<std::string> live = parts_.link.LiveTwin(*pod, deadline);
  HK_RETURN_IF_ERROR(Annotate(live.status(), what));
  if (!live->empty()) return live;
  ask.set_pod_sandbox_id(pod->sandbox_id);
  auto host = parts_.host.Call<rt::PodSandboxStatusResponse>(kPodSandboxStatus, ask, deadline);
  HK_RETURN_IF_ERROR(Annotate(host.status(), what));
  // As the first one: what the Pod's annotations say today was not looked at.
  rt::RunPodSandboxRequest request;
  *request.mutable_config() = config;
  *request.mutable_config()->mutable_metadata() = pod->metadata;
  *request.mutable_config()->mutable_labels() = host->status().labels();
  *request.mutable_config()->mutable_annotations() = host->status().annotations();
  EraseClaims(request.mutable_config()->mutable_annotations());
  request.set_runtime_handler(host->status().runtime_handler());
  absl::StatusOr<std::string> made = MakeTwin(request, deadline);
  HK_RETURN_IF_ERROR(Annotate(made.status(), what));
  parts_.table.SetTwin(pod->sandbox_id, pod->twin_id, *made);
  spdlog::info("{}: its twin on the DPU is made anew", NameOf(pod->metadata));
  return *made;
}

void Router::RunPodSandbox(const CallPtr& call) {
  rt::RunPodSandboxRequest request;
  if (!ParseRequest(*call, &request)) return;
  rt::PodSandboxConfig& config = *request.mutable_config();
  auto& annotations = *config.mutable_annotations();
  const size_t claims = EraseClaims(&annotations);
  if (absl::Status bandwidth = CheckBandwidth(annotations); !bandwidth.ok()) {
    Answer(*call, bandwidth);
    return;
  }
  SplitPod pod;
  pod.metadata = config.metadata();
  pod.verdict = DecidePod(config, request.runtime_handler(), options_.rules);
  pod.log_directory = config.log_directory();
  if (!pod.verdict.wanted) {
    ForwardBytes(parts_.host.stub(), call, claims == 0 ? call->request() : ToBuffer(request.SerializeAsString()), {});
    return;
  }

  const std::string name = NameOf(pod.metadata);
  std::optional<DpuLink::AtWork> at_work(std::in_place, parts_.link, pod.metadata);
  // kubelet may ask again as soon as it has its answer, and must not find us at work.
  auto refuse = [&](const absl::Status& status) {
    at_work.reset();
    Answer(*call, status);
  };
  if (pod.verdict.split) {
    absl::StatusOr<std::string> twin = MakeTwin(request, LimitOf(*call));
    if (twin.ok()) {
      pod.twin_id = *twin;
      pod.dpu_cgroup = PodCgroupOf(TwinConfig(config, options_.paths));
      pod.resources = LimitsAlone(config.linux().resources());
    } else {
      const std::string reason = fmt::format("twin sandbox on the DPU: {}", Message(twin.status()));
      const std::string refusal = fmt::format("{} (fallback is '{}')", reason, Name(pod.verdict.fallback));
      if (pod.verdict.fallback == Fallback::kHost) {
        ++figures_.pod_fallbacks;
      } else if (pod.verdict.fallback == Fallback::kFail && IsAway(twin.status()) && !parts_.link.Valid()) {
        pod.verdict.refused = refusal;  // a Pod can fail by its containers only
        annotations[kRefused] = refusal;
      } else {
        return refuse(absl::Status(twin.status().code(), refusal));
      }
      pod.verdict.split = false;
      pod.verdict.reason = reason;
    }
  }
  annotations[kPlacement] = pod.verdict.split ? "split" : "host";
  annotations[kPlacementReason] = pod.verdict.reason;
  annotations[kLogDirectory] = pod.log_directory;
  annotations[kMark] = parts_.mark.Of(pod.metadata, annotations);
  spdlog::info("{}: {}: {}", name, pod.verdict.split ? "split" : "on the host", pod.verdict.reason);

  absl::StatusOr<rt::RunPodSandboxResponse> made =
      parts_.host.Call<rt::RunPodSandboxResponse>(kRunPodSandbox, request, LimitOf(*call));
  if (!made.ok()) {
    if (!pod.twin_id.empty()) {
      absl::Status undone = parts_.link.RemoveTwin(pod.twin_id, pod.metadata, *pod.dpu_cgroup, In(kRollBackTime));
      if (!undone.ok()) spdlog::warn("{}: roll back the twin: {}; tried again later", name, ToString(undone));
    }
    return refuse(made.status());
  }
  if (absl::Status failed = fault::Pass<"cri.pod.after-host">(); !failed.ok()) return refuse(failed);
  pod.sandbox_id = made->pod_sandbox_id();
  parts_.table.PutPod(pod);
  at_work.reset();
  call->Finish(grpc::Status::OK, ToBuffer(made->SerializeAsString()));
}

void Router::StopPodSandbox(const CallPtr& call) {
  rt::StopPodSandboxRequest request;
  if (!ParseRequest(*call, &request)) return;
  std::optional<SplitPod> pod = parts_.table.FindPod(request.pod_sandbox_id());
  if (!pod || !pod->verdict.split) {
    if (pod && pod->unproved) parts_.table.MarkStopped(pod->sandbox_id);
    ForwardToHost(call);
    return;
  }
  DpuLink::AtWork at_work(parts_.link, pod->metadata);
  parts_.table.MarkStopped(pod->sandbox_id);
  Deadline deadline = LimitOf(*call);
  std::future<absl::Status> twin = Beside([&]() -> absl::Status {
    if (!parts_.link.Valid()) return parts_.link.AwayError();
    if (pod->twin_id.empty()) return absl::OkStatus();  // one that turns up is stopped then
    rt::StopPodSandboxRequest stop;
    stop.set_pod_sandbox_id(pod->twin_id);
    HK_RETURN_IF_ERROR(
        parts_.dpu.Call<rt::StopPodSandboxResponse>(kStopPodSandbox, stop, std::min(deadline, In(kTwinTime))).status());
    HK_FAULT_POINT("cri.pod-stop.after-twin");
    return absl::OkStatus();
  });
  absl::StatusOr<grpc::ByteBuffer> host = parts_.host.CallBytes(kStopPodSandbox, call->request(), deadline, call);
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
      removed = parts_.link.RemoveTwin(pod->twin_id, pod->metadata, pod->dpu_cgroup.value_or(""),
                                       std::min(deadline, In(kTwinTime)));
    if (IsAway(removed)) {
      spdlog::warn("{}: the twin is removed when the DPU returns: {}", NameOf(pod->metadata), ToString(removed));
    } else if (!removed.ok()) {
      Answer(*call, removed);
      return;
    }
  }
  absl::StatusOr<grpc::ByteBuffer> host = parts_.host.CallBytes(kRemovePodSandbox, call->request(), deadline, call);
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
