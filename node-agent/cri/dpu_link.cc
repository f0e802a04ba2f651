#include "node-agent/cri/dpu_link.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "node-agent/cri/annotations.h"
#include "node-agent/cri/confined.h"
#include "node-agent/cri/grpc_status.h"
#include "node-agent/cri/termination.h"
#include "node-agent/cri/twin.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kStopTime{10000};  // of a kill: fenced containers get no grace, they have ended for kubelet
constexpr milliseconds kLookForDpu{200};
constexpr milliseconds kCleanTime{30000};
// All containers that ended in one round together: their last lines come before the news of their end.
constexpr milliseconds kDrainTime{1000};
constexpr milliseconds kShortestWait{100};    // for each of them, when the others used it up
constexpr milliseconds kCallDrainTime{3000};  // on the thread of a StopContainer, which waits for one only

std::string Annotation(const google::protobuf::Map<std::string, std::string>& annotations, const char* key) {
  auto found = annotations.find(key);
  return found == annotations.end() ? "" : found->second;
}

uint64_t EpochOf(const rt::Container& container) {
  return std::strtoull(Annotation(container.annotations(), kEpoch).c_str(), nullptr, 10);
}

}  // namespace

DpuLink::DpuLink(DpuLinkOptions options, CriClient& dpu, v1::DpuRuntime::StubInterface& runtime, PodTable& table,
                 LogMirror& mirror, Tasks& tasks)
    : options_(std::move(options)), dpu_(dpu), runtime_(runtime), table_(table), mirror_(mirror), tasks_(tasks) {}

DpuLink::~DpuLink() { Stop(); }

void DpuLink::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void DpuLink::Start() {
  last_good_ = steady_clock::now();  // the first lease counts from here
  thread_ = std::thread([this] { Loop(); });
}

void DpuLink::WaitUntilKnown() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return known_ || stop_; });
}

bool DpuLink::Valid() const {
  std::lock_guard lock(mutex_);
  return here_ && steady_clock::now() - last_good_ < options_.duration;
}

std::string DpuLink::LastError() const {
  std::lock_guard lock(mutex_);
  return last_error_;
}

absl::Status DpuLink::AwayError() const {
  auto age = LeaseAge();
  return absl::UnavailableError(age.count() < 0
                                    ? "the DPU is away: it has not answered yet"
                                    : fmt::format("the DPU is away: no answer for {} s", age.count() / 1000));
}

milliseconds DpuLink::LeaseAge() const {
  std::lock_guard lock(mutex_);
  if (!ever_) return milliseconds(-1);
  return std::chrono::duration_cast<milliseconds>(steady_clock::now() - last_good_);
}

void DpuLink::PollSoon() {
  {
    std::lock_guard lock(mutex_);
    poll_soon_ = true;
  }
  changed_.notify_all();
}

void DpuLink::Loop() {
  while (true) {
    auto begun = steady_clock::now();
    absl::Status round = Round();
    std::unique_lock lock(mutex_);
    if (round.ok()) {
      if (!here_) spdlog::info("the DPU is here");
      here_ = ever_ = known_ = true;
      last_good_ = begun;  // what was true when we asked
      last_error_.clear();
      changed_.notify_all();
    } else {
      if (last_error_ != Message(round)) spdlog::warn("the DPU does not answer: {}", ToString(round));
      last_error_ = Message(round);
      if ((here_ || !known_) && steady_clock::now() - last_good_ >= options_.duration) {
        lock.unlock();
        Lose();
        lock.lock();
        here_ = false;
        known_ = true;
        changed_.notify_all();
      }
    }
    // A DPU that is on its way is met soon: at the start of a Node both PUs come up together.
    auto pause = here_ ? options_.interval : std::min(options_.interval, kLookForDpu);
    changed_.wait_until(lock, begun + pause, [this] { return stop_ || poll_soon_; });
    poll_soon_ = false;
    if (stop_) return;
  }
}

absl::Status DpuLink::Round() {
  HK_RETURN_IF_ERROR(Annotate(
      dpu_.Call<rt::VersionResponse>(kVersion, rt::VersionRequest(), In(options_.interval)).status(), "Version"));
  bool here;
  {
    std::lock_guard lock(mutex_);
    here = here_;
  }
  if (!here) HK_RETURN_IF_ERROR(Annotate(Fence(), "stop what is left of older epochs"));
  return Poll();
}

absl::Status DpuLink::Fence() {
  HK_ASSIGN_OR_RETURN(auto list, dpu_.Call<rt::ListContainersResponse>(kListContainers, rt::ListContainersRequest(),
                                                                       In(options_.duration)));
  uint64_t epoch = table_.epoch();
  for (const rt::Container& container : list.containers()) {
    std::string epoch_text = Annotation(container.annotations(), kEpoch);
    if (epoch_text.empty()) continue;  // not of ours
    // A lost state file must not make the newest containers look like survivors of a later epoch.
    table_.RaiseEpoch(EpochOf(container));
    bool old = EpochOf(container) < epoch;
    if (old && container.state() != rt::CONTAINER_EXITED) {
      spdlog::info("container '{}' ({}) is of epoch {}, it is now {}: stopped", container.metadata().name(),
                   container.id(), epoch_text, epoch);
      rt::StopContainerRequest stop;
      stop.set_container_id(container.id());
      stop.set_timeout(0);
      absl::Status stopped = dpu_.Call<rt::StopContainerResponse>(kStopContainer, stop, In(kStopTime)).status();
      if (!stopped.ok() && stopped.code() != absl::StatusCode::kNotFound)
        return Annotate(stopped, "StopContainer " + container.id());
    }
  }
  return table_.Save();
}

absl::Status DpuLink::FinishRemovals(const rt::ListContainersResponse& list, const std::set<std::string>& removed) {
  if (removed.empty()) return absl::OkStatus();
  for (const rt::Container& container : list.containers()) {
    if (!removed.contains(container.id())) continue;
    rt::RemoveContainerRequest remove;  // also of one that runs
    remove.set_container_id(container.id());
    absl::Status done = dpu_.Call<rt::RemoveContainerResponse>(kRemoveContainer, remove, In(kStopTime)).status();
    if (!done.ok() && done.code() != absl::StatusCode::kNotFound)
      return Annotate(done, "RemoveContainer " + container.id());
  }
  for (const std::string& id : removed) table_.EraseRemoved(id);
  return table_.Save();
}

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
  table_.PutContainer(std::move(container));
  return absl::OkStatus();
}

void DpuLink::FinishFiles(const SplitPod& pod, DpuContainer* container, steady_clock::time_point until) {
  auto left = [until] {
    return std::max(std::chrono::duration_cast<milliseconds>(until - steady_clock::now()), kShortestWait);
  };
  // The message first: it is one call, and kubelet reads it only once.
  bool message = BringTerminationLog(runtime_, *container, pod.metadata.uid(), In(left()));
  mirror_.Ensure(container->id(), container->dpu_log, container->status.log_path(), false);
  bool log = mirror_.Drain(container->id(), left());
  container->unfinished = !message || !log;
  if (container->unfinished) {
    spdlog::warn("container {} has ended; {} is still on its way", container->id(),
                 log ? "its message" : "the end of its log");
  }
}

absl::Status DpuLink::Poll() {
  uint64_t version = table_.version();
  HK_ASSIGN_OR_RETURN(auto sandboxes, dpu_.Call<rt::ListPodSandboxResponse>(
                                          kListPodSandbox, rt::ListPodSandboxRequest(), In(options_.duration / 2)));
  HK_ASSIGN_OR_RETURN(auto list, dpu_.Call<rt::ListContainersResponse>(kListContainers, rt::ListContainersRequest(),
                                                                       In(options_.duration / 2)));
  // Before anything of them is read: kubelet has forgotten these.
  const std::set<std::string> removed = table_.Removed();
  HK_RETURN_IF_ERROR(FinishRemovals(list, removed));
  FindTwins(sandboxes);
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
  auto is_lost = [](const auto& item) { return item.second.lost; };
  news |= seen.size() + std::count_if(known.begin(), known.end(), is_lost) != known.size();
  if (!table_.Replace(version, std::move(seen))) {
    PollSoon();  // something changed while we read: read again
    return absl::OkStatus();
  }
  // Also for calls that changed the table since: none of them waits for the disk.
  if (news || version != saved_version_) HK_RETURN_IF_ERROR(table_.Save());
  saved_version_ = version;
  PutTwinsRight(sandboxes);
  return absl::OkStatus();
}

bool DpuLink::DrainLost(const DpuContainer& container, steady_clock::time_point until) {
  auto left = std::chrono::duration_cast<milliseconds>(until - steady_clock::now());
  mirror_.Ensure(container.id(), container.dpu_log, container.status.log_path(), false);
  return mirror_.Drain(container.id(), std::max(left, kShortestWait));
}

void DpuLink::RemoveOnDpu(const rt::Container& container, std::string_view why) {
  rt::RemoveContainerRequest remove;
  remove.set_container_id(container.id());
  absl::Status done = dpu_.Call<rt::RemoveContainerResponse>(kRemoveContainer, remove, In(kStopTime)).status();
  spdlog::info("container '{}' ({}) {} and is removed there: {}", container.metadata().name(), container.id(), why,
               ToString(done));
}

void DpuLink::FindTwins(const rt::ListPodSandboxResponse& sandboxes) {
  std::vector<SplitPod> pods = table_.Pods();
  for (const rt::PodSandbox& twin : sandboxes.items()) {
    if (Annotation(twin.annotations(), kTwin) != "true") continue;
    for (const SplitPod& pod : pods) {
      if (pod.twin_id.empty() && pod.verdict.split && pod.metadata.uid() == twin.metadata().uid() &&
          pod.metadata.attempt() == twin.metadata().attempt()) {
        table_.SetTwin(pod.sandbox_id, twin.id());
      }
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
    if (pod.verdict.split) pods[{pod.metadata.uid(), pod.metadata.attempt()}] = std::move(pod);
  }
  for (const rt::PodSandbox& twin : sandboxes.items()) {
    if (Annotation(twin.annotations(), kTwin) != "true") continue;
    std::pair<std::string, uint32_t> key(twin.metadata().uid(), twin.metadata().attempt());
    auto pod = pods.find(key);
    bool remove = pod == pods.end();
    bool stop = !remove && pod->second.stopped && twin.state() == rt::SANDBOX_READY;
    if (!remove && !stop) continue;
    {
      std::lock_guard lock(mutex_);
      if (at_work.contains(key) || !cleaning_.insert(twin.id()).second) continue;
    }
    bool started = tasks_.Run([this, remove, id = twin.id(), metadata = twin.metadata()] {
      absl::Status done;
      if (remove) {
        done = RemoveTwin(id, metadata, In(kCleanTime));
      } else {
        rt::StopPodSandboxRequest request;
        request.set_pod_sandbox_id(id);
        done = dpu_.Call<rt::StopPodSandboxResponse>(kStopPodSandbox, request, In(kCleanTime)).status();
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
                                 Deadline deadline) {
  rt::StopPodSandboxRequest stop;
  stop.set_pod_sandbox_id(twin_id);
  absl::Status stopped = dpu_.Call<rt::StopPodSandboxResponse>(kStopPodSandbox, stop, deadline).status();
  if (!stopped.ok() && stopped.code() != absl::StatusCode::kNotFound)
    return Annotate(stopped, "StopPodSandbox on the DPU");
  rt::RemovePodSandboxRequest remove;
  remove.set_pod_sandbox_id(twin_id);
  absl::Status removed = dpu_.Call<rt::RemovePodSandboxResponse>(kRemovePodSandbox, remove, deadline).status();
  if (!removed.ok() && removed.code() != absl::StatusCode::kNotFound)
    return Annotate(removed, "RemovePodSandbox on the DPU");
  for (const SplitPod& pod : table_.Pods()) {  // a newer attempt of the same Pod still needs the files
    if (pod.metadata.uid() == metadata.uid() && pod.twin_id != twin_id && pod.verdict.split) return absl::OkStatus();
  }
  grpc::ClientContext context;
  context.set_deadline(deadline);
  v1::RemovePodRequest request;
  request.set_pod_uid(metadata.uid());
  request.set_log_directory(LogFolderName(metadata));
  v1::RemovePodReply reply;
  return Annotate(FromGrpc(runtime_.RemovePod(&context, request, &reply)), "RemovePod on the DPU");
}

void DpuLink::Lose() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  table_.LoseAll(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
  spdlog::error("the DPU is lost: no answer for {} ms; its containers count as ended, epoch {} begins",
                options_.duration.count(), table_.epoch());
  if (absl::Status saved = table_.Save(); !saved.ok()) {
    spdlog::error("epoch {} is not on disk: {}; after a restart survivors on the DPU would not be stopped",
                  table_.epoch(), ToString(saved));
  }
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
