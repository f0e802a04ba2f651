#include "node-agent/peer/pod_claims.h"

namespace heterok8s::peer {

void PodClaims::Count(pu::Side owner, const ports::PortKey& key, int difference) {
  if (owner != pu::Side::kDpu || key.address.is_loopback()) return;
  const SteeredPort port{key.protocol, key.port};
  auto count = steering_.try_emplace(port, 0).first;
  count->second += difference;
  if (count->second == 0) steering_.erase(count);
  changed_.insert(port);
}

void PodClaims::Open(const ports::PortKey& key, uint64_t epoch_ns) {
  const bool is_new = local_.insert_or_assign(key, epoch_ns).second;
  const bool was_lost = lost_.erase(key) > 0;
  if (is_new || was_lost) Count(self_, key, 1);
}

void PodClaims::Close(const ports::PortKey& key) {
  if (local_.erase(key) == 0) return;
  if (lost_.erase(key) == 0) Count(self_, key, -1);
}

bool PodClaims::Lose(const ports::PortKey& key) {
  if (!local_.contains(key)) return false;
  if (lost_.insert(key).second) Count(self_, key, -1);
  return true;
}

PodClaims::Claims PodClaims::TakeBack(const ports::PortKey& closed) {
  Claims back;
  for (auto it = lost_.begin(); it != lost_.end();) {
    // Whether the addresses overlap is the other PU's to decide again: it answers with a conflict if they do.
    if (it->protocol != closed.protocol || it->port != closed.port) {
      ++it;
      continue;
    }
    back.insert(*local_.find(*it));
    Count(self_, *it, 1);
    it = lost_.erase(it);
  }
  return back;
}

PodClaims::Claims PodClaims::Held() const {
  Claims held = local_;
  for (const ports::PortKey& key : lost_) held.erase(key);
  return held;
}

void PodClaims::OpenRemote(const ports::PortKey& key, uint64_t epoch_ns) {
  const pu::Side other = self_ == pu::Side::kHost ? pu::Side::kDpu : pu::Side::kHost;
  if (remote_.insert_or_assign(key, epoch_ns).second) Count(other, key, 1);
}

void PodClaims::CloseRemote(const ports::PortKey& key) {
  const pu::Side other = self_ == pu::Side::kHost ? pu::Side::kDpu : pu::Side::kHost;
  if (remote_.erase(key) > 0) Count(other, key, -1);
}

std::vector<SteeredPort> PodClaims::Steering() const {
  std::vector<SteeredPort> ports;
  for (const auto& [port, claims] : steering_) ports.push_back(port);
  return ports;
}

}  // namespace heterok8s::peer
