#include "node-agent/cri/pod_table.h"

#include "node-agent/cri/termination_path.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr size_t kShortestPrefix = 12;  // what tools print of an id

template <typename Map>
auto FindByPrefix(Map& map, const std::string& id) {
  auto at = map.lower_bound(id);
  if (at == map.end() || at->first == id) return at;
  if (id.size() < kShortestPrefix || at->first.compare(0, id.size(), id) != 0) return map.end();
  auto next = std::next(at);
  return next != map.end() && next->first.compare(0, id.size(), id) == 0 ? map.end() : at;
}

// As one more element of a ListContainersResponse: field 1 again and again. A message of copies costs the double.
void AppendListed(const rt::Container& listed, std::string* bytes) {
  *bytes += '\x0a';
  size_t size = listed.ByteSizeLong();
  for (; size >= 0x80; size >>= 7) *bytes += static_cast<char>(size | 0x80);
  *bytes += static_cast<char>(size);
  listed.AppendToString(bytes);
}

bool AsksForAll(const rt::ContainerFilter& filter) {
  return filter.id().empty() && !filter.has_state() && filter.pod_sandbox_id().empty() &&
         filter.label_selector().empty();
}

}  // namespace

bool Matches(const rt::Container& container, const rt::ContainerFilter& filter) {
  if (!filter.id().empty() && container.id().compare(0, filter.id().size(), filter.id()) != 0) return false;
  if (filter.has_state() && container.state() != filter.state().state()) return false;
  if (!filter.pod_sandbox_id().empty() &&
      container.pod_sandbox_id().compare(0, filter.pod_sandbox_id().size(), filter.pod_sandbox_id()) != 0) {
    return false;
  }
  for (const auto& [key, value] : filter.label_selector()) {
    auto label = container.labels().find(key);
    if (label == container.labels().end() || label->second != value) return false;
  }
  return true;
}

void PodTable::PutPod(SplitPod pod) {
  std::lock_guard lock(mutex_);
  ++version_;
  if (pod.twin_id.empty()) {
    if (auto saved = saved_twins_.find(pod.sandbox_id); saved != saved_twins_.end()) {
      pod.twin_id = saved->second.id;
      if (!pod.resources) pod.resources = saved->second.resources;
    }
  }
  pods_[pod.sandbox_id] = std::move(pod);
}

std::optional<SplitPod> PodTable::FindPod(const std::string& sandbox_id) const {
  std::lock_guard lock(mutex_);
  auto found = FindByPrefix(pods_, sandbox_id);
  if (found == pods_.end()) return std::nullopt;
  return found->second;
}

std::optional<SplitPod> PodTable::FindPodOfTwin(const std::string& twin_id) const {
  std::lock_guard lock(mutex_);
  for (const auto& [id, pod] : pods_) {
    if (pod.twin_id == twin_id) return pod;
  }
  return std::nullopt;
}

bool PodTable::KnowsTwinOf(const std::string& sandbox_id) const {
  std::lock_guard lock(mutex_);
  return saved_twins_.contains(sandbox_id);
}

std::vector<SplitPod> PodTable::Pods() const {
  std::lock_guard lock(mutex_);
  std::vector<SplitPod> pods;
  for (const auto& [id, pod] : pods_) pods.push_back(pod);
  return pods;
}

void PodTable::SetTwin(const std::string& sandbox_id, const std::string& from, const std::string& to) {
  std::lock_guard lock(mutex_);
  auto found = pods_.find(sandbox_id);
  if (found != pods_.end() && found->second.twin_id == from) found->second.twin_id = to;
}

void PodTable::LearnOfTwin(const std::string& sandbox_id, const std::string& dpu_cgroup,
                           const rt::LinuxContainerResources& resources) {
  std::lock_guard lock(mutex_);
  auto found = pods_.find(sandbox_id);
  if (found == pods_.end()) return;
  if (!found->second.dpu_cgroup) found->second.dpu_cgroup = dpu_cgroup;
  if (!found->second.resources) found->second.resources = resources;
}

void PodTable::SetResources(const std::string& sandbox_id, const rt::LinuxContainerResources& resources) {
  std::lock_guard lock(mutex_);
  ++version_;
  if (auto found = pods_.find(sandbox_id); found != pods_.end()) found->second.resources = resources;
}

void PodTable::MarkStopped(const std::string& sandbox_id) {
  std::lock_guard lock(mutex_);
  ++version_;
  if (auto found = pods_.find(sandbox_id); found != pods_.end()) found->second.stopped = true;
}

void PodTable::ErasePod(const std::string& sandbox_id) {
  std::lock_guard lock(mutex_);
  ++version_;
  pods_.erase(sandbox_id);
  std::erase_if(Changing(), [&](const auto& item) {
    if (item.second.listed.pod_sandbox_id() != sandbox_id) return false;
    Tell(&item.second.listed, nullptr);
    return true;
  });
}

bool PodTable::PutContainer(DpuContainer container) {
  std::lock_guard lock(mutex_);
  auto before = containers_.find(container.id());
  if (removed_.contains(container.id()) || (before != containers_.end() && before->second.lost)) return false;
  if (container.epoch < epoch_ && container.listed.state() != rt::CONTAINER_EXITED) return false;
  ++version_;
  Tell(before == containers_.end() ? nullptr : &before->second.listed, &container.listed);
  Changing()[container.id()] = std::move(container);
  return true;
}

const DpuContainer* PodTable::Find(const std::string& id) const {
  if (id.empty()) return nullptr;
  auto found = FindByPrefix(containers_, id);
  return found == containers_.end() ? nullptr : &found->second;
}

std::optional<DpuContainer> PodTable::FindContainer(const std::string& id) const {
  std::lock_guard lock(mutex_);
  const DpuContainer* found = Find(id);
  return found == nullptr ? std::nullopt : std::optional(*found);
}

std::vector<DpuContainer> PodTable::Containers() const {
  std::lock_guard lock(mutex_);
  std::vector<DpuContainer> containers;
  for (const auto& [id, container] : containers_) containers.push_back(container);
  return containers;
}

void PodTable::KeepEnded(const std::string& twin_id) {
  std::lock_guard lock(mutex_);
  ++version_;
  for (auto& [id, container] : containers_)
    container.kept |= container.twin_id == twin_id && container.listed.state() == rt::CONTAINER_EXITED;
}

bool PodTable::AnyContainer() const {
  std::lock_guard lock(mutex_);
  return !containers_.empty();
}

void PodTable::SetContainerResources(const std::string& id, const rt::LinuxContainerResources& resources) {
  std::lock_guard lock(mutex_);
  ++version_;
  if (containers_.contains(id)) Changing()[id].resources = resources;
}

void PodTable::EraseContainer(const std::string& id) {
  std::lock_guard lock(mutex_);
  ++version_;
  if (auto gone = containers_.find(id); gone != containers_.end()) {
    Tell(&gone->second.listed, nullptr);
    Changing().erase(gone);
  }
}

std::string PodTable::ListBytes(const rt::ContainerFilter& filter) const {
  std::lock_guard lock(mutex_);
  if (AsksForAll(filter)) return Everything();
  std::string bytes;
  for (const auto& [id, container] : containers_) {
    if (Matches(container.listed, filter)) AppendListed(container.listed, &bytes);
  }
  return bytes;
}

std::vector<std::string> PodTable::ListChunks(const rt::ContainerFilter& filter, size_t most) const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> chunks;
  for (const auto& [id, container] : containers_) {
    if (!Matches(container.listed, filter)) continue;
    if (chunks.empty() || chunks.back().size() >= most) chunks.emplace_back();
    AppendListed(container.listed, &chunks.back());
  }
  return chunks;
}

const std::string& PodTable::Everything() const {
  if (!everything_) {
    everything_.emplace();
    for (const auto& [id, container] : containers_) AppendListed(container.listed, &*everything_);
  }
  return *everything_;
}

rt::ContainerStatus PodTable::Shown(const DpuContainer& container) const {
  std::lock_guard lock(mutex_);
  return ShownLocked(container);
}

rt::ContainerStatus PodTable::ShownLocked(const DpuContainer& container) const {
  rt::ContainerStatus status = container.status;
  auto pod = pods_.find(container.listed.pod_sandbox_id());
  if (pod == pods_.end()) return status;
  if (auto path = TerminationPathOf(container.listed, pod->second.metadata.uid())) ShowOnHost(*path, &status);
  return status;
}

std::vector<rt::ContainerStatus> PodTable::Statuses(const std::string& sandbox_id) const {
  std::lock_guard lock(mutex_);
  std::vector<rt::ContainerStatus> statuses;
  for (const auto& [id, container] : containers_) {
    if (container.listed.pod_sandbox_id() == sandbox_id && !container.status.id().empty())
      statuses.push_back(ShownLocked(container));
  }
  return statuses;
}

void PodTable::Tell(const rt::Container* before, const rt::Container* after) const {
  if (!observer_) return;
  const rt::Container& known = after != nullptr ? *after : *before;
  auto tell = [&](rt::ContainerEventType type) { observer_({known.id(), known.pod_sandbox_id(), type}); };
  if (after == nullptr) return tell(rt::CONTAINER_DELETED_EVENT);
  rt::ContainerState now = after->state();
  if (before == nullptr) {
    tell(rt::CONTAINER_CREATED_EVENT);
  } else if (before->state() == now) {
    return;
  }
  bool ran = before != nullptr && before->state() == rt::CONTAINER_RUNNING;
  // One that started and ended between two looks did both.
  if (!ran && (now == rt::CONTAINER_RUNNING || now == rt::CONTAINER_EXITED)) tell(rt::CONTAINER_STARTED_EVENT);
  if (now == rt::CONTAINER_EXITED) tell(rt::CONTAINER_STOPPED_EVENT);
}

uint64_t PodTable::version() const {
  std::lock_guard lock(mutex_);
  return version_;
}

bool PodTable::Replace(uint64_t version, std::vector<DpuContainer> seen) {
  std::lock_guard lock(mutex_);
  if (version != version_) return false;
  std::map<std::string, DpuContainer> now;
  for (DpuContainer& container : seen) {
    if (!removed_.contains(container.id())) now[container.id()] = std::move(container);
  }
  for (auto& [id, container] : containers_) {
    if ((container.lost || container.kept) && pods_.contains(container.listed.pod_sandbox_id())) now[id] = container;
  }
  for (const auto& [id, container] : containers_) {
    if (!now.contains(id)) Tell(&container.listed, nullptr);
  }
  for (const auto& [id, container] : now) {
    auto before = containers_.find(id);
    Tell(before == containers_.end() ? nullptr : &before->second.listed, &container.listed);
  }
  Changing() = std::move(now);
  Everything();  // here, where nobody waits for it
  return true;
}

uint64_t PodTable::epoch() const {
  std::lock_guard lock(mutex_);
  return epoch_;
}

void PodTable::RaiseEpoch(uint64_t at_least) {
  std::lock_guard lock(mutex_);
  epoch_ = std::max(epoch_, at_least);
}

void PodTable::LoseAll(int64_t now_ns) {
  std::lock_guard lock(mutex_);
  ++version_;
  ++epoch_;
  for (auto& [id, container] : Changing()) {
    if (container.listed.state() == rt::CONTAINER_EXITED) continue;
    container.lost = true;
    container.listed.set_state(rt::CONTAINER_EXITED);
    if (observer_) observer_({id, container.listed.pod_sandbox_id(), rt::CONTAINER_STOPPED_EVENT});
    container.status.set_state(rt::CONTAINER_EXITED);
    container.status.set_reason("DPULost");
    container.status.set_message("the DPU did not answer for longer than the lease");
    container.status.set_exit_code(137);  // what a container that was killed shows
    container.status.set_finished_at(now_ns);
  }
}

void PodTable::AddRemoved(const std::string& id) {
  std::lock_guard lock(mutex_);
  ++version_;
  removed_.insert(id);
  if (auto gone = containers_.find(id); gone != containers_.end()) {
    Tell(&gone->second.listed, nullptr);
    Changing().erase(gone);
  }
}

std::set<std::string> PodTable::Removed() const {
  std::lock_guard lock(mutex_);
  return removed_;
}

void PodTable::EraseRemoved(const std::string& id) {
  std::lock_guard lock(mutex_);
  removed_.erase(id);
}

}  // namespace heterok8s::cri
