// What must not be on a DPU that returns: containers of older epochs, and what kubelet removed meanwhile.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "common/fault/fault.h"
#include "node-agent/cri/annotation_of.h"
#include "node-agent/cri/dpu_link.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kStopTime{10000};  // of a kill: fenced containers get no grace, they have ended for kubelet

}  // namespace

void DpuLink::Lose() {
  absl::Status saved = table_.SaveNextEpoch();
  if (saved.ok()) saved = fault::Pass<"cri.lose.after-epoch">();
  auto now = std::chrono::system_clock::now().time_since_epoch();
  table_.LoseAll(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
  spdlog::error("the DPU is lost ({}); its containers count as ended, epoch {} begins", LastError(), table_.epoch());
  if (saved.ok()) saved = fault::Pass<"cri.lose.after-table">();
  saved.Update(table_.Save());
  if (!saved.ok()) {
    spdlog::error("epoch {} is not on disk: {}; after a restart survivors on the DPU would not be stopped",
                  table_.epoch(), ToString(saved));
  }
}

absl::Status DpuLink::Fence() {
  HK_ASSIGN_OR_RETURN(auto list, dpu_.Call<rt::ListContainersResponse>(kListContainers, rt::ListContainersRequest(),
                                                                       In(options_.duration)));
  uint64_t epoch = table_.epoch();
  for (const rt::Container& container : list.containers()) {
    std::string epoch_text = AnnotationOf(container.annotations(), kEpoch);
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
      if (stopped.code() == absl::StatusCode::kUnavailable) return Annotate(stopped, "StopContainer");
      if (!stopped.ok() && stopped.code() != absl::StatusCode::kNotFound) {
        spdlog::error("container {} of an older epoch cannot be stopped ({}); its Pod gets no other on the DPU",
                      container.id(), ToString(stopped));
        std::lock_guard lock(mutex_);
        unfenced_[container.id()] = container.pod_sandbox_id();
        continue;
      }
      HK_FAULT_POINT("cri.fence.after-stop");
    }
  }
  unsaved_ = true;  // the epoch: with the round that follows
  return absl::OkStatus();
}

absl::Status DpuLink::CheckFenced(const std::string& twin_id) const {
  std::lock_guard lock(mutex_);
  for (const auto& [id, twin] : unfenced_) {
    if (twin == twin_id)
      return absl::FailedPreconditionError(fmt::format("container {} of an older epoch still runs on the DPU", id));
  }
  return absl::OkStatus();
}

void DpuLink::FinishRemovals(const rt::ListContainersResponse& list, const std::set<std::string>& removed) {
  std::set<std::string> gone = removed;
  for (const rt::Container& container : list.containers()) {
    if (gone.erase(container.id()) == 0) continue;
    RemoveOnDpu(container, "was removed while the DPU was away",
                [] { fault::Pass<"cri.removed.after-dpu">().IgnoreError(); });
  }
  for (const std::string& id : gone) table_.EraseRemoved(id);
  unsaved_ |= !gone.empty();
}

void DpuLink::SaveTable(uint64_t version) {
  absl::Status saved = table_.Save();
  if (!saved.ok() && Message(saved) != save_error_) spdlog::error("{}; tried again with each look", ToString(saved));
  save_error_ = Message(saved);
  unsaved_ = !saved.ok();
  if (saved.ok()) saved_version_ = version;
}

bool DpuLink::DrainLost(const DpuContainer& container, steady_clock::time_point until) {
  auto left = std::chrono::duration_cast<milliseconds>(until - steady_clock::now());
  mirror_.Ensure(container.id(), container.dpu_log, container.status.log_path(), false);
  return mirror_.Drain(container.id(), std::max(left, kShortestWait));
}

void DpuLink::RemoveOnDpu(const rt::Container& container, const std::string& why, std::function<void()> then) {
  {
    std::lock_guard lock(mutex_);
    if (!cleaning_.insert(container.id()).second) return;
  }
  bool started = tasks_.Run([this, id = container.id(), name = container.metadata().name(), why, then] {
    rt::RemoveContainerRequest remove;  // also of one that runs
    remove.set_container_id(id);
    absl::Status done = dpu_.Call<rt::RemoveContainerResponse>(kRemoveContainer, remove, In(kStopTime)).status();
    if (done.ok()) done = fault::Pass<"cri.lost.after-removal">();
    if (done.ok() && then) then();
    spdlog::info("container '{}' ({}) {} and is removed there: {}", name, id, why, ToString(done));
    std::lock_guard lock(mutex_);
    cleaning_.erase(id);
  });
  if (started) return;
  std::lock_guard lock(mutex_);
  cleaning_.erase(container.id());
}

}  // namespace heterok8s::cri
