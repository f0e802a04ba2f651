// What the other PU claims, in force here.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "node-agent/peer/convert.h"
#include "node-agent/peer/port_sync.h"

namespace heterok8s::peer {

// What ports holds of the other PU's stays in force until its snapshot of the Pod says otherwise: an earlier heterod
// was told of it, and programs of this PU must not get the port meanwhile. Without its epoch it counts as older than
// any claim of this PU. After a snapshot only what that names is the other PU's; a stream may be up before this PU has
// its Pods, so the snapshot may have come first.
void PortSync::EnforceRemote(const std::string& pod_key, Pod& pod) {
  PodClaims::Claims named = pod.claims.remote();
  for (const ports::PortKey& held : ports_->Remote(pod_key)) {
    if (!named.contains(held)) pod.claims.OpenRemote(held, /*epoch_ns=*/0);
  }
  if (pod.told) {
    named.insert(pod.refused.begin(), pod.refused.end());
    return ReplaceRemote(pod_key, pod, named);
  }
  const PodClaims::Claims remote = pod.claims.remote();
  for (const auto& [key, epoch_ns] : remote) ClaimRemote(pod_key, pod, key, epoch_ns);
}

// A port that stays the other PU's by another address is not free in between: claims first. What a full list leaves
// behind makes room before.
void PortSync::ReplaceRemote(const std::string& pod_key, Pod& pod, const PodClaims::Claims& claimed) {
  std::set<SteeredPort> numbers;
  for (const auto& [key, epoch_ns] : claimed) numbers.insert({key.protocol, key.port});
  pod.refused.clear();
  std::vector<ports::PortKey> moved;
  const PodClaims::Claims before = pod.claims.remote();
  for (const auto& [key, epoch_ns] : before) {
    if (claimed.contains(key)) continue;
    if (numbers.contains({key.protocol, key.port})) {
      moved.push_back(key);
    } else {
      DropRemote(pod_key, pod, key);
    }
  }
  for (const auto& [key, epoch_ns] : claimed) ClaimRemote(pod_key, pod, key, epoch_ns);
  for (const ports::PortKey& key : moved) DropRemote(pod_key, pod, key);
}

// Ports refuse a remote claim that is not older than the local one, on both PUs: of two in the same nanosecond each
// would refuse the other's, and both would lose. The host's counts as the older one.
uint64_t PortSync::RankOf(uint64_t remote_epoch_ns) const {
  return self_ == pu::Side::kDpu && remote_epoch_ns > 0 ? remote_epoch_ns - 1 : remote_epoch_ns;
}

void PortSync::ClaimRemote(const std::string& pod_key, Pod& pod, const ports::PortKey& key, uint64_t epoch_ns) {
  if (pod.claims.remote().size() >= ports::kMostClaimsOfAPod && !pod.claims.remote().contains(key)) {
    return Refuse(pod_key, pod, key, epoch_ns);
  }
  pod.claims.OpenRemote(key, epoch_ns);
  unsteered_.insert(pod_key);
  if (!pod.in_kernel) {  // OnPodAdded enforces it
    pod.refused.erase(key);
    return;
  }
  const absl::Status status = ports_->SetRemote(pod_key, key, true, RankOf(epoch_ns));
  if (!absl::IsResourceExhausted(status)) pod.refused.erase(key);
  if (status.code() == absl::StatusCode::kFailedPrecondition) {
    pod.claims.CloseRemote(key);
    Remember(pod_key, pod, key, Other(self_), Message(status));
    Count(&Counters::conflicts_won);
    v1::PortMessage message;
    message.mutable_conflict()->set_pod_key(pod_key);
    *message.mutable_conflict()->mutable_port() = ToProto(key);
    message.mutable_conflict()->set_holder(Message(status));
    if (session_ != nullptr) session_->Send(std::move(message), std::nullopt);
  } else if (absl::IsResourceExhausted(status)) {
    pod.claims.CloseRemote(key);
    Refuse(pod_key, pod, key, epoch_ns);
  } else if (!status.ok()) {
    Failed(fmt::format("pod {}: enforce {} of the other PU", pod_key, key.ToString()), status);
  }
}

// Kept for as many as a Pod may have. An other PU that works as it should tells no more.
void PortSync::Refuse(const std::string& pod_key, Pod& pod, const ports::PortKey& key, uint64_t epoch_ns) {
  if (crowded_.empty()) claim_refused_at_ = std::chrono::steady_clock::now() + kLongestRetry;
  crowded_.insert(pod_key);
  const bool is_known = pod.refused.contains(key);
  if (is_known || pod.refused.size() < ports::kMostClaimsOfAPod) pod.refused[key] = epoch_ns;
  if (is_known) return;
  Count(&Counters::failures);
  if (!pod.warn_refused.Now()) return;
  spdlog::warn(
      "pod {}: the other PU reports more ports than there is room for (at most {} of one Pod); {} and others are "
      "not enforced here until there is",
      pod_key, ports::kMostClaimsOfAPod, key.ToString());
}

// What found no room gets it when any Pod has let go of enough. The first that finds none speaks for its Pod's others.
void PortSync::ClaimRefused() {
  const auto now = std::chrono::steady_clock::now();
  if (crowded_.empty() || now < claim_refused_at_) return;
  claim_refused_at_ = now + kLongestRetry;
  for (const std::string& pod_key : std::exchange(crowded_, {})) {
    auto found = pods_.find(pod_key);
    if (found == pods_.end()) continue;
    Pod& pod = found->second;
    while (!pod.refused.empty()) {
      const auto [key, epoch_ns] = *pod.refused.begin();
      ClaimRemote(pod_key, pod, key, epoch_ns);
      if (pod.refused.contains(key)) break;
    }
  }
}

void PortSync::DropRemote(const std::string& pod_key, Pod& pod, const ports::PortKey& key) {
  pod.refused.erase(key);
  pod.claims.CloseRemote(key);
  unsteered_.insert(pod_key);
  if (pod.in_kernel) {
    if (absl::Status s = ports_->SetRemote(pod_key, key, false, 0); !s.ok()) {
      Failed(fmt::format("pod {}: let go of {}", pod_key, key.ToString()), s);
    }
  }
  for (const auto& [lost, epoch_ns] : pod.claims.TakeBack(key)) {
    SendDelta(pod_key, pod, lost, true, epoch_ns);
  }
}

}  // namespace heterok8s::peer
