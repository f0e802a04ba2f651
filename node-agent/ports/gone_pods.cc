// What a removed Pod leaves in the maps that all Pods share.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "node-agent/ports/bpf_ports.h"
#include "node-agent/ports/clock.h"
#include "node-agent/ports/pace.h"

namespace heterok8s::ports {

// The entries that RemoveLocked left, when no program is under way any more that might add to them; without its share
// nothing is known of a Pod. Its claims are gone.
absl::Status BpfPorts::DropShareLocked(uint64_t cookie) {
  const std::optional<hk_share> share = kernel_->shares.Get(cookie);
  for (int first = 0; share.has_value() && share->callers > 0 && first < 65536 / HK_CALLER_PORTS; ++first) {
    HK_RETURN_IF_ERROR(kernel_->callers.Erase({.netns = cookie, .first = static_cast<uint16_t>(first)}));
  }
  HK_RETURN_IF_ERROR(kernel_->Order(HK_DROP_SHARE, {.netns = cookie}).status());
  gone_.erase(cookie);
  return absl::OkStatus();
}

// For a Pod that is added again before its time has come.
absl::Status BpfPorts::SweepNowLocked(uint64_t cookie) {
  for (const auto& [key, claim] : kernel_->local.All()) {
    if (key.netns == cookie) HK_RETURN_IF_ERROR(kernel_->Order(HK_FORGET_CLAIM, key).status());
  }
  return DropShareLocked(cookie);
}

// A walk passes the room of all Pods, so it is made only where there is something.
void BpfPorts::SweepGone() {
  const uint64_t now = MonotonicNs();
  std::set<uint64_t> due;
  bool walk = false;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [cookie, at_ns] : gone_) {
      if (now < at_ns) continue;
      due.insert(cookie);
      const std::optional<hk_share> share = kernel_->shares.Get(cookie);
      walk |= share.has_value() && share->used > 0;
    }
  }
  if (due.empty()) return;
  Claims left;
  absl::Status swept = absl::OkStatus();
  if (walk) {
    swept = kernel_->local.Walk([&](const auto& batch) {
      for (const auto& [key, claim] : batch) {
        if (due.contains(key.netns)) left.push_back(key);
      }
      Serve();
    });
  }
  for (size_t from = 0; from < left.size() && swept.ok(); from += kClaimsAtOnce) {
    {
      std::lock_guard lock(mutex_);
      for (size_t i = from; i < std::min(from + kClaimsAtOnce, left.size()) && swept.ok(); ++i) {
        // Not of one that was added again.
        if (gone_.contains(left[i].netns)) swept = kernel_->Order(HK_FORGET_CLAIM, left[i]).status();
      }
    }
    Serve();
  }
  std::lock_guard lock(mutex_);
  for (uint64_t cookie : due) {
    if (gone_.contains(cookie) && swept.ok()) swept = DropShareLocked(cookie);
    if (auto late = gone_.find(cookie); late != gone_.end()) late->second = now + kWalkAgainNs;
  }
  if (!swept.ok()) spdlog::warn("ports: what a removed Pod left stays for now: {}", Message(swept));
}

}  // namespace heterok8s::ports
