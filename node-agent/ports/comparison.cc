// What events did not tell: the map `local` against what the listener was told.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>

#include "node-agent/ports/bpf_ports.h"
#include "node-agent/ports/claims.h"
#include "node-agent/ports/clock.h"
#include "node-agent/ports/pace.h"

namespace heterok8s::ports {
namespace {

bool ClaimLess(const hk_claim_key& a, const hk_claim_key& b) { return std::memcmp(&a, &b, sizeof a) < 0; }

}  // namespace

bool BpfPorts::CompareIsDue() {
  std::lock_guard lock(mutex_);
  const uint64_t lost = kernel_->Stat(HK_STAT_LOST);
  if (lost != lost_seen_) {
    if (!compare_all_)
      spdlog::warn("ports: {} events found the ring full; comparing all claims instead", lost - lost_seen_);
    lost_seen_ = lost;
    compare_all_ = true;
  }
  const uint64_t now = MonotonicNs();
  if (now < compare_after_ns_) return false;
  return compare_all_ || std::any_of(pods_.begin(), pods_.end(), [&](const auto& pod) {
           return pod.second.compare_at_ns != 0 && now >= pod.second.compare_at_ns;
         });
}

// Every Pod after lost events, but for those that are to wait, else those whose time has come. What the walk finds is
// old by then and may have missed what came or went meanwhile, so each difference is looked up again.
void BpfPorts::Compare() {
  const uint64_t started = MonotonicNs();
  std::map<uint64_t, Claims> open;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [pod_key, pod] : pods_) {
      const bool waits = pod.compare_at_ns != 0 && started < pod.compare_at_ns;
      if (!waits && (compare_all_ || pod.compare_at_ns != 0)) open[pod.cookie];
    }
  }
  absl::Status walked = kernel_->local.Walk([&](const auto& batch) {
    for (const auto& [key, claim] : batch) {
      auto pod = open.find(key.netns);
      if (pod != open.end() && IsOpen(claim)) pod->second.push_back(key);
    }
    Serve();
  });
  if (!walked.ok()) {
    spdlog::warn("ports: {}; what changed unseen is looked for again", Message(walked));
    compare_after_ns_ = MonotonicNs() + kWalkAgainNs;
    return;
  }
  for (auto& [cookie, claims] : open) {
    ComparePod(cookie, std::move(claims), started);
    Serve();
  }
  std::lock_guard lock(mutex_);
  compare_all_ = false;
  ++comparisons_;
  compare_after_ns_ = MonotonicNs() + kComparePauseNs;
}

void BpfPorts::ComparePod(uint64_t cookie, Claims open, uint64_t started) {
  std::sort(open.begin(), open.end(), ClaimLess);
  size_t different = 0;
  for (size_t from = 0; from < open.size(); from += kClaimsAtOnce) {
    {
      std::lock_guard lock(mutex_);
      auto name = key_of_cookie_.find(cookie);
      if (name == key_of_cookie_.end()) return;
      const Pod& pod = pods_[name->second];
      for (size_t i = from; i < std::min(from + kClaimsAtOnce, open.size()); ++i) {
        const PortKey key = FromWire(open[i]);
        if (NeedsScan(pod, key)) udp_inserts_.insert(cookie);
        if (IsReported(pod, key)) continue;
        CheckLocked(open[i]);
        ++different;
      }
    }
    Serve();
  }
  std::lock_guard lock(mutex_);
  auto name = key_of_cookie_.find(cookie);
  if (name == key_of_cookie_.end()) return;
  Pod& pod = pods_[name->second];
  Claims closed;
  for (const auto& [number, claims] : pod.reported) {
    for (const auto& [key, epoch_ns] : claims) {
      const hk_claim_key wire = ToWire(cookie, key);
      if (!std::binary_search(open.begin(), open.end(), wire, ClaimLess)) closed.push_back(wire);
    }
  }
  for (const hk_claim_key& key : closed) CheckLocked(key);
  pod.compare_next_ns = started + (different + closed.size()) * kPauseForAChangeNs;
  // It fell behind again meanwhile.
  const bool again = pod.behind_until_ns > started;
  pod.compare_at_ns = again ? std::max(pod.behind_until_ns, pod.compare_next_ns) : 0;
}

}  // namespace heterok8s::ports
