#include "node-agent/podnet/refused_packets.h"

#include <algorithm>

#include "node-agent/podnet/hostports.h"
#include "node-agent/podnet/link.h"

namespace heterok8s::podnet {
namespace {

absl::StatusOr<RefusedByReason> ReadPod(const std::string& netns_path) {
  HK_ASSIGN_OR_RETURN(auto counters, ReadLinkCounters(netns_path));
  RefusedByReason refused;
  for (const auto& [reason, counter] : counters) refused[reason] = counter.packets;
  return refused;
}

void AddTo(RefusedByReason& sum, const RefusedByReason& more) {
  for (const auto& [reason, packets] : more) sum[reason] += packets;
}

// Readings may overtake each other; no counter falls.
void Raise(RefusedByReason& last, const RefusedByReason& now) {
  for (const auto& [reason, packets] : now) last[reason] = std::max(last[reason], packets);
}

}  // namespace

void RefusedPackets::Watch(const std::string& netns_path) {
  std::lock_guard lock(mutex_);
  Pod& pod = pods_[netns_path];
  if (pod.watch == 0) pod.watch = ++watches_;
}

void RefusedPackets::Retire(const std::string& netns_path) {
  {
    std::lock_guard lock(mutex_);
    if (!pods_.contains(netns_path)) return;
  }
  absl::StatusOr<RefusedByReason> now = ReadPod(netns_path);  // without the lock: it enters the namespace
  std::lock_guard lock(mutex_);
  auto pod = pods_.find(netns_path);
  if (pod == pods_.end()) return;
  if (now.ok()) Raise(pod->second.last, *now);
  AddTo(gone_, pod->second.last);
  pods_.erase(pod);
}

void RefusedPackets::Read() {
  std::map<std::string, Pod> seen;
  {
    std::lock_guard lock(mutex_);
    seen = pods_;
  }
  std::map<std::string, absl::StatusOr<RefusedByReason>> read;
  for (const auto& [path, pod] : seen) read.emplace(path, ReadPod(path));
  const uint64_t generation = root_table_.generation();
  absl::StatusOr<RefusedByReason> root = ReadRefusedInRoot(instance_);

  std::lock_guard lock(mutex_);
  if (root.ok()) ReadRootLocked(*root, generation);
  for (const auto& [path, now] : read) {
    auto pod = pods_.find(path);
    if (pod == pods_.end() || pod->second.watch != seen[path].watch) continue;
    if (now.ok()) {
      Raise(pod->second.last, *now);
    } else if (absl::IsNotFound(now.status())) {
      AddTo(gone_, pod->second.last);  // the sandbox took it along
      pods_.erase(pod);
    }
  }
}

RefusedByReason RefusedPackets::SumLocked() const {
  RefusedByReason sum = gone_;
  AddTo(sum, root_);
  for (const auto& [path, pod] : pods_) AddTo(sum, pod.last);
  return sum;
}

void RefusedPackets::CountFromHere() {
  std::lock_guard lock(mutex_);
  before_ = SumLocked();
}

// A table that was made again counts from 0, whoever saw first that it was gone.
void RefusedPackets::ReadRootLocked(const RefusedByReason& now, uint64_t generation) {
  const bool of_one_table = generation == root_table_.generation() && generation % 2 == 0;
  if (!of_one_table || generation < root_generation_) return;  // the next reading has it
  if (generation > root_generation_) {
    AddTo(gone_, root_);
    root_.clear();
    root_generation_ = generation;
  }
  Raise(root_, now);
}

RefusedByReason RefusedPackets::Sum() const {
  std::lock_guard lock(mutex_);
  RefusedByReason sum = SumLocked();
  for (const auto& [reason, packets] : before_) sum[reason] -= packets;
  return sum;
}

}  // namespace heterok8s::podnet
