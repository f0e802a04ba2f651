#include "node-agent/peer/pod_claims.h"

namespace heterok8s::peer {

std::set<SteeredPort> PodClaims::Steering(pu::Side self) const {
  std::set<SteeredPort> steering;
  for (const auto& [key, epoch] : self == pu::Side::kDpu ? local : remote) {
    if (key.address.is_loopback() || (self == pu::Side::kDpu && lost.contains(key))) continue;
    steering.emplace(key.protocol, key.port);
  }
  return steering;
}

std::map<ports::PortKey, uint64_t> PodClaims::TakeBack(const ports::PortKey& closed) {
  std::map<ports::PortKey, uint64_t> back;
  for (auto it = lost.begin(); it != lost.end();) {
    // Whether the addresses overlap is the other PU's to decide again: it answers with a conflict if they do.
    if (it->protocol != closed.protocol || it->port != closed.port) {
      ++it;
      continue;
    }
    if (auto claim = local.find(*it); claim != local.end()) back.insert(*claim);
    it = lost.erase(it);
  }
  return back;
}

}  // namespace heterok8s::peer
