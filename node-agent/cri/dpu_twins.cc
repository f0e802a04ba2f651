// Twins: each with the sandbox on the host that it belongs to, and none without.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/fault/fault.h"
#include "node-agent/cri/annotation_of.h"
#include "node-agent/cri/dpu_link.h"
#include "node-agent/cri/grpc_status.h"
#include "node-agent/cri/pod_limits.h"
#include "node-agent/cri/twin.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr std::chrono::milliseconds kCleanTime{30000};
constexpr std::chrono::milliseconds kReadTime{5000};

// A runtime has no two sandboxes of one name, attempt and UID.
bool IsTwinOf(const SplitPod& pod, const rt::PodSandbox& sandbox) {
  return pod.verdict.split && AnnotationOf(sandbox.annotations(), kTwin) == "true" &&
         pod.metadata.uid() == sandbox.metadata().uid() && pod.metadata.attempt() == sandbox.metadata().attempt();
}

}  // namespace

void DpuLink::FindTwins(const std::vector<SplitPod>& pods, const rt::ListPodSandboxResponse& sandboxes) {
  for (const rt::PodSandbox& twin : sandboxes.items()) {
    for (const SplitPod& pod : pods) {
      if (!IsTwinOf(pod, twin)) continue;
      // Another than the one we know: made by a heterocri that died before it could write that down.
      if (pod.twin_id != twin.id()) table_.SetTwin(pod.sandbox_id, pod.twin_id, twin.id());
      if (pod.dpu_cgroup && pod.resources) continue;
      table_.LearnOfTwin(pod.sandbox_id, AnnotationOf(twin.annotations(), kCgroup),
                         ResourcesOf(AnnotationOf(twin.annotations(), kResources)));
    }
  }
}

void DpuLink::PutTwinsRight(const rt::ListPodSandboxResponse& sandboxes) {
  // Before the table is read: a Pod is entered there before it leaves at_work_, so a twin that is on its way is seen in
  // one of both.
  std::multiset<std::pair<std::string, uint32_t>> at_work;
  {
    std::lock_guard lock(mutex_);
    at_work = at_work_;
  }
  std::map<std::pair<std::string, uint32_t>, SplitPod> pods;
  for (SplitPod& pod : table_.Pods()) {
    if (pod.verdict.split || pod.unproved) pods[{pod.metadata.uid(), pod.metadata.attempt()}] = std::move(pod);
  }
  for (const rt::PodSandbox& twin : sandboxes.items()) {
    if (AnnotationOf(twin.annotations(), kTwin) != "true") continue;
    std::pair<std::string, uint32_t> key(twin.metadata().uid(), twin.metadata().attempt());
    auto pod = pods.find(key);
    bool remove = pod == pods.end();
    bool stop = !remove && pod->second.stopped && twin.state() == rt::SANDBOX_READY;
    if (!remove && !stop) continue;
    {
      std::lock_guard lock(mutex_);
      if (at_work.contains(key) || !cleaning_.insert(twin.id()).second) continue;
    }
    bool started = tasks_.Run(
        [this, remove, id = twin.id(), metadata = twin.metadata(), cgroup = AnnotationOf(twin.annotations(), kCgroup)] {
          absl::Status done;
          if (remove) {
            done = RemoveTwin(id, metadata, cgroup, In(kCleanTime));
          } else {
            rt::StopPodSandboxRequest request;
            request.set_pod_sandbox_id(id);
            done = dpu_.Call<rt::StopPodSandboxResponse>(kStopPodSandbox, request, In(kCleanTime)).status();
            if (done.ok()) done = fault::Pass<"cri.twin-stop.after-stop">();
          }
          spdlog::info("Pod {}/{} {} on the host; its twin is {}: {}", metadata.namespace_(), metadata.name(),
                       remove ? "is gone" : "has stopped", remove ? "removed" : "stopped", ToString(done));
          std::lock_guard lock(mutex_);
          cleaning_.erase(id);
        });
    if (!started) {
      std::lock_guard lock(mutex_);
      cleaning_.erase(twin.id());
    }
  }
}

absl::Status DpuLink::RemoveTwin(const std::string& twin_id, const rt::PodSandboxMetadata& metadata,
                                 const std::string& cgroup, Deadline deadline) {
  rt::StopPodSandboxRequest stop;
  stop.set_pod_sandbox_id(twin_id);
  absl::Status stopped = dpu_.Call<rt::StopPodSandboxResponse>(kStopPodSandbox, stop, deadline).status();
  if (!stopped.ok() && stopped.code() != absl::StatusCode::kNotFound)
    return Annotate(stopped, "StopPodSandbox on the DPU");
  HK_FAULT_POINT("cri.twin-remove.after-stop");
  // Before the twin, which stands for them: while there are files somebody finds it and comes back.
  bool last = true;  // a newer attempt of the same Pod still needs them
  for (const SplitPod& pod : table_.Pods())
    last &= pod.metadata.uid() != metadata.uid() || pod.twin_id == twin_id || !pod.verdict.split;
  if (last) {
    grpc::ClientContext context;
    context.set_deadline(deadline);
    v1::RemovePodRequest request;
    request.set_pod_uid(metadata.uid());
    request.set_log_directory(LogFolderName(metadata));
    request.set_cgroup_parent(cgroup);
    v1::RemovePodReply reply;
    HK_RETURN_IF_ERROR(Annotate(FromGrpc(runtime_.RemovePod(&context, request, &reply)), "RemovePod on the DPU"));
  }
  HK_FAULT_POINT("cri.twin-remove.after-files");
  rt::RemovePodSandboxRequest remove;
  remove.set_pod_sandbox_id(twin_id);
  absl::Status removed = dpu_.Call<rt::RemovePodSandboxResponse>(kRemovePodSandbox, remove, deadline).status();
  if (!removed.ok() && removed.code() != absl::StatusCode::kNotFound)
    return Annotate(removed, "RemovePodSandbox on the DPU");
  HK_FAULT_POINT("cri.twin-remove.after-removal");
  return absl::OkStatus();
}

absl::Status DpuLink::RemoveLeftover(const rt::PodSandboxMetadata& metadata, Deadline deadline) {
  const std::pair<std::string, uint32_t> key(metadata.uid(), metadata.attempt());
  HK_ASSIGN_OR_RETURN(auto sandboxes,
                      dpu_.Call<rt::ListPodSandboxResponse>(kListPodSandbox, rt::ListPodSandboxRequest(), deadline));
  for (const rt::PodSandbox& twin : sandboxes.items()) {
    if (AnnotationOf(twin.annotations(), kTwin) != "true" || twin.metadata().uid() != key.first ||
        twin.metadata().attempt() != key.second || table_.FindPodOfTwin(twin.id())) {
      continue;
    }
    {
      std::lock_guard lock(mutex_);
      if (at_work_.count(key) > 1) return absl::AbortedError("another call is at work on this twin");
    }
    spdlog::info("Pod {}/{} has a twin of an earlier call; removed", metadata.namespace_(), metadata.name());
    return RemoveTwin(twin.id(), metadata, AnnotationOf(twin.annotations(), kCgroup), deadline);
  }
  return absl::NotFoundError("no twin is left over");
}

absl::StatusOr<std::string> DpuLink::LiveTwin(const SplitPod& pod, Deadline deadline) {
  HK_ASSIGN_OR_RETURN(auto sandboxes,
                      dpu_.Call<rt::ListPodSandboxResponse>(kListPodSandbox, rt::ListPodSandboxRequest(), deadline));
  for (const rt::PodSandbox& twin : sandboxes.items()) {
    if (!IsTwinOf(pod, twin)) continue;
    if (twin.state() == rt::SANDBOX_READY) {
      table_.SetTwin(pod.sandbox_id, pod.twin_id, twin.id());
      return twin.id();
    }
    spdlog::warn("Pod {}/{}: its twin on the DPU has died; it is made anew", pod.metadata.namespace_(),
                 pod.metadata.name());
    rt::StopPodSandboxRequest stop;  // its network, and what outlived it
    stop.set_pod_sandbox_id(twin.id());
    HK_RETURN_IF_ERROR(dpu_.Call<rt::StopPodSandboxResponse>(kStopPodSandbox, stop, deadline).status());
    HK_FAULT_POINT("cri.remake.after-stop");
    // They go with the twin: first all that kubelet may ask of them.
    for (const DpuContainer& container : table_.Containers()) {
      if (container.twin_id != twin.id() || container.lost || container.kept) continue;
      absl::Status read = Refresh(container.id(), std::min(deadline, In(kReadTime)));
      if (!read.ok() && read.code() != absl::StatusCode::kNotFound)
        return Annotate(read, "what ended in the twin that has died");
      // Poll goes on bringing it as long as the DPU has it, and kubelet asks again.
      if (std::optional<DpuContainer> now = table_.FindContainer(container.id()); now && now->unfinished)
        return absl::AbortedError(fmt::format(
            "container '{}' ended with its twin, and its log or message is not all on the host yet", container.id()));
    }
    table_.KeepEnded(twin.id());
    HK_RETURN_IF_ERROR(table_.Save());
    HK_FAULT_POINT("cri.remake.after-keep");
    rt::RemovePodSandboxRequest remove;
    remove.set_pod_sandbox_id(twin.id());
    HK_RETURN_IF_ERROR(dpu_.Call<rt::RemovePodSandboxResponse>(kRemovePodSandbox, remove, deadline).status());
    HK_FAULT_POINT("cri.remake.after-removal");
  }
  return "";
}

DpuLink::AtWork::AtWork(DpuLink& link, const rt::PodSandboxMetadata& metadata)
    : link_(link), key_(metadata.uid(), metadata.attempt()) {
  std::lock_guard lock(link_.mutex_);
  link_.at_work_.insert(key_);
}

DpuLink::AtWork::~AtWork() {
  std::lock_guard lock(link_.mutex_);
  link_.at_work_.erase(link_.at_work_.find(key_));
}

}  // namespace heterok8s::cri
