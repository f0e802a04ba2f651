// What runs on the DPU, read into the table, with the files of what has ended.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "common/fault/fault.h"
#include "node-agent/cri/annotation_of.h"
#include "node-agent/cri/confined.h"
#include "node-agent/cri/dpu_link.h"
#include "node-agent/cri/pod_limits.h"
#include "node-agent/cri/termination.h"
#include "node-agent/cri/twin.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

// All containers that ended in one round together: their last lines come before the news of their end.
constexpr milliseconds kDrainTime{1000};
constexpr milliseconds kCallDrainTime{3000};  // on the thread of a StopContainer, which waits for one only

}  // namespace

absl::StatusOr<DpuContainer> DpuLink::ReadContainer(const SplitPod& pod, const rt::Container& listed,
                                                    Deadline deadline) {
  rt::ContainerStatusRequest request;
  request.set_container_id(listed.id());
  HK_ASSIGN_OR_RETURN(auto response, dpu_.Call<rt::ContainerStatusResponse>(kContainerStatus, request, deadline));
  DpuContainer container;
  container.listed = listed;
  container.twin_id = listed.pod_sandbox_id();
  container.listed.set_pod_sandbox_id(pod.sandbox_id);
  container.status = std::move(*response.mutable_status());
  container.listed.set_state(container.status.state());
  container.epoch = EpochOf(listed);
  // Not in the status of an older runtime, and an annotation stays as it was made: what an update left is remembered.
  std::optional<DpuContainer> known = table_.FindContainer(listed.id());
  container.resources =
      known && !known->lost ? known->resources : ResourcesOf(AnnotationOf(listed.annotations(), kResources));
  const std::string prefix = options_.pod_log_root + "/";
  if (container.status.log_path().rfind(prefix, 0) == 0)
    container.dpu_log = container.status.log_path().substr(prefix.size());
  if (!CheckRelativePath(container.dpu_log).ok()) container.dpu_log.clear();
  container.status.set_log_path(HostLogPath(pod.log_directory, container.dpu_log));
  return container;
}

absl::Status DpuLink::Refresh(const std::string& container_id, Deadline deadline) {
  rt::Container listed;
  if (std::optional<DpuContainer> known = table_.FindContainer(container_id)) {
    listed = known->listed;  // but for the state, which comes with the status, it never changes
    listed.set_pod_sandbox_id(known->twin_id);
  } else {
    rt::ListContainersRequest request;
    request.mutable_filter()->set_id(container_id);
    HK_ASSIGN_OR_RETURN(auto list, dpu_.Call<rt::ListContainersResponse>(kListContainers, request, deadline));
    if (list.containers_size() != 1)
      return absl::NotFoundError(fmt::format("container '{}' is not on the DPU", container_id));
    listed = list.containers(0);
  }
  std::optional<SplitPod> pod = table_.FindPodOfTwin(listed.pod_sandbox_id());
  if (!pod) return absl::NotFoundError(fmt::format("container '{}' is in no twin of ours", container_id));
  HK_ASSIGN_OR_RETURN(DpuContainer container, ReadContainer(*pod, listed, deadline));
  if (container.listed.state() == rt::CONTAINER_EXITED)
    FinishFiles(*pod, &container, steady_clock::now() + kCallDrainTime);
  if (container.running()) mirror_.Ensure(container.id(), container.dpu_log, container.status.log_path(), true);
  if (!table_.PutContainer(std::move(container)))
    return absl::AbortedError(fmt::format("container '{}' was lost with the DPU meanwhile", container_id));
  return absl::OkStatus();
}

void DpuLink::FinishFiles(const SplitPod& pod, DpuContainer* container, steady_clock::time_point until) {
  auto left = [until] {
    return std::max(std::chrono::duration_cast<milliseconds>(until - steady_clock::now()), kShortestWait);
  };
  // The message first: it is one call, and kubelet reads it only once.
  bool message = BringTerminationLog(runtime_, *container, pod.metadata.uid(), In(left())) &&
                 fault::Pass<"cri.end.after-message">().ok();
  mirror_.Ensure(container->id(), container->dpu_log, container->status.log_path(), false);
  bool log = mirror_.Drain(container->id(), left()) && fault::Pass<"cri.end.after-log">().ok();
  container->unfinished = !message || !log;
  if (container->unfinished) {
    spdlog::warn("container {} has ended; {} is still on its way", container->id(),
                 log ? "its message" : "the end of its log");
  }
}

absl::Status DpuLink::Poll() {
  uint64_t version = table_.version();
  const std::vector<SplitPod> pods = table_.Pods();
  const std::set<std::string> removed = table_.Removed();  // kubelet has forgotten these
  HK_ASSIGN_OR_RETURN(auto sandboxes, dpu_.Call<rt::ListPodSandboxResponse>(
                                          kListPodSandbox, rt::ListPodSandboxRequest(), In(options_.duration / 2)));
  HK_ASSIGN_OR_RETURN(auto list, dpu_.Call<rt::ListContainersResponse>(kListContainers, rt::ListContainersRequest(),
                                                                       In(options_.duration / 2)));
  FinishRemovals(list, removed);
  std::map<std::string, std::string> unfenced;
  {
    std::lock_guard lock(mutex_);
    for (const rt::Container& listed : list.containers()) {
      if (listed.state() != rt::CONTAINER_EXITED && unfenced_.contains(listed.id()))
        unfenced[listed.id()] = listed.pod_sandbox_id();
    }
    unfenced_ = unfenced;
  }
  FindTwins(pods, sandboxes);
  std::map<std::string, DpuContainer> known;
  for (DpuContainer& container : table_.Containers()) known[container.id()] = std::move(container);
  std::vector<DpuContainer> seen;
  bool news = false;
  auto drain_until = steady_clock::now() + kDrainTime;
  for (const rt::Container& listed : list.containers()) {
    std::optional<SplitPod> pod = table_.FindPodOfTwin(listed.pod_sandbox_id());
    if (!pod || removed.contains(listed.id())) continue;
    auto found = known.find(listed.id());
    if (found != known.end() && found->second.lost) {  // stopped by Fence; Replace keeps what is shown of it
      // One that never started has no log.
      if (listed.state() == rt::CONTAINER_CREATED || DrainLost(found->second, drain_until))
        RemoveOnDpu(listed, "was lost with the DPU");
      continue;
    }
    if (found == known.end() && unfenced.contains(listed.id())) {
      RemoveOnDpu(listed, "is of an older epoch");
      continue;
    }
    // The answer to its CreateContainer never came through the loss; kubelet, or the fallback, has made another.
    if (found == known.end() && listed.state() == rt::CONTAINER_CREATED && EpochOf(listed) < table_.epoch()) {
      RemoveOnDpu(listed, "was made for an older epoch");
      continue;
    }
    if (found != known.end() && found->second.listed.state() == listed.state() && !found->second.status.id().empty()) {
      seen.push_back(std::move(found->second));
    } else {
      absl::StatusOr<DpuContainer> read = ReadContainer(*pod, listed, In(options_.duration / 2));
      if (read.status().code() == absl::StatusCode::kNotFound) continue;  // removed meanwhile
      if (IsAway(read.status())) return read.status();
      if (!read.ok()) {  // one container that the runtime cannot describe is no reason to lose all
        spdlog::warn("container {} on the DPU: {}", listed.id(), ToString(read.status()));
        if (found != known.end()) seen.push_back(std::move(found->second));
        continue;
      }
      news = true;
      seen.push_back(*std::move(read));
      seen.back().unfinished = seen.back().listed.state() == rt::CONTAINER_EXITED;
    }
    DpuContainer& container = seen.back();
    if (container.unfinished) FinishFiles(*pod, &container, drain_until);
    if (container.listed.state() != rt::CONTAINER_CREATED) {
      mirror_.Ensure(container.id(), container.dpu_log, container.status.log_path(), container.running());
    }
  }
  // Lost ones, and those that were kept when their twin went, are shown whatever the DPU has.
  auto is_of_dpu = [](const DpuContainer& container) { return !container.lost && !container.kept; };
  news |= std::count_if(seen.begin(), seen.end(), is_of_dpu) !=
          std::count_if(known.begin(), known.end(), [&](const auto& item) { return is_of_dpu(item.second); });
  if (!table_.Replace(version, std::move(seen))) {
    PollSoon();  // something changed while we read: read again
    return absl::OkStatus();
  }
  // Also for calls that changed the table since: none of them waits for the disk.
  if (news || unsaved_ || version != saved_version_) SaveTable(version);
  if (!swept_) SweepLogs(list);
  swept_ = true;
  PutTwinsRight(sandboxes);
  return absl::OkStatus();
}

// Of what went while no heterocri ran, or died before it had put away all that was of it.
void DpuLink::SweepLogs(const rt::ListContainersResponse& list) {
  std::set<std::string> ids;
  for (const rt::Container& container : list.containers()) ids.insert(container.id());
  for (const DpuContainer& container : table_.Containers()) ids.insert(container.id());
  mirror_.KeepOnly(ids);
}

}  // namespace heterok8s::cri
