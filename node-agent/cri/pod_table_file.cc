// The table's state file.
#include <fmt/format.h>

#include "common/fault/fault.h"
#include "common/sys/file.h"
#include "node-agent/cri/pod_table.h"
#include "node-agent/cri/state.pb.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

}  // namespace

absl::Status PodTable::Load() {
  sys::RemoveUnfinished(state_file_);
  HK_ASSIGN_OR_RETURN(std::string bytes, sys::ReadFile(state_file_, 256u << 20));
  return Annotate(FromBytes(bytes), fmt::format("'{}'", state_file_));
}

absl::Status PodTable::FromBytes(const std::string& bytes) {
  state::State file;
  if (!file.ParseFromString(bytes)) return absl::DataLossError("this is no state file of heterocri");
  std::lock_guard lock(mutex_);
  epoch_ = file.epoch();
  removed_ = {file.removed().begin(), file.removed().end()};
  for (const state::Twin& twin : file.twins()) {
    SavedTwin& saved = saved_twins_[twin.host_sandbox_id()];
    saved.id = twin.twin_id();
    rt::LinuxContainerResources resources;
    if (twin.has_resources() && resources.ParseFromString(twin.resources())) saved.resources = std::move(resources);
  }
  for (const state::Container& saved : file.containers()) {
    DpuContainer container;
    if (!container.listed.ParseFromString(saved.listed()) || !container.status.ParseFromString(saved.status()) ||
        container.id().empty()) {
      continue;
    }
    container.twin_id = saved.twin_id();
    container.dpu_log = saved.dpu_log();
    container.epoch = saved.epoch();
    container.lost = saved.lost();
    container.kept = saved.kept();
    // The file does not say whether all of its log and message came: they are asked for once more.
    container.unfinished = container.listed.state() == rt::CONTAINER_EXITED && !container.lost && !container.kept;
    if (!container.resources.ParseFromString(saved.resources())) continue;
    Changing()[container.id()] = std::move(container);
  }
  return absl::OkStatus();
}

std::string PodTable::ToBytes() const {
  state::State file;
  std::lock_guard lock(mutex_);
  file.set_epoch(std::max(epoch_, file_epoch_));
  for (const auto& [id, container] : containers_) {
    state::Container& saved = *file.add_containers();
    saved.set_listed(container.listed.SerializeAsString());
    saved.set_status(container.status.SerializeAsString());
    saved.set_twin_id(container.twin_id);
    saved.set_dpu_log(container.dpu_log);
    saved.set_epoch(container.epoch);
    saved.set_lost(container.lost);
    saved.set_kept(container.kept);
    saved.set_resources(container.resources.SerializeAsString());
  }
  for (const std::string& id : removed_) file.add_removed(id);
  for (const auto& [id, pod] : pods_) {
    if (pod.twin_id.empty()) continue;
    state::Twin& twin = *file.add_twins();
    twin.set_host_sandbox_id(id);
    twin.set_twin_id(pod.twin_id);
    if (pod.resources) twin.set_resources(pod.resources->SerializeAsString());
  }
  return file.SerializeAsString();
}

absl::Status PodTable::SaveNextEpoch() {
  {
    std::lock_guard lock(mutex_);
    file_epoch_ = epoch_ + 1;
  }
  return Save();
}

absl::Status PodTable::Save() {
  std::lock_guard save_lock(save_mutex_);
  const std::string bytes = ToBytes();
  HK_FAULT_POINT("cri.state.before-write");
  HK_RETURN_IF_ERROR(sys::WriteFileAtomic(state_file_, bytes, 0600));
  HK_FAULT_POINT("cri.state.after-write");
  return absl::OkStatus();
}

}  // namespace heterok8s::cri
