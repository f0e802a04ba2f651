// Who claims which ports of one Pod, as far as this PU knows.
//
// Purpose: the bookkeeping of the port stream, without kernel or network: this PU's claims, those of them that an older
// claim of the other PU beats, the other PU's claims, and what the Pod's packets are to be steered by: the DPU's ports.
// On the DPU these are its own claims, on the host the other PU's. A socket bound to localhost gets no packets from the
// network, so it does not steer any.
// Every change costs the same, however many ports the Pod has.
// Threading: not thread-safe; PortSync's worker owns it. Errors: none.
//
//   PodClaims claims(pu::Side::kDpu);
//   claims.Open(change.key, change.epoch_ns);
//   for (const SteeredPort& port : claims.changed()) … claims.Steers(port) …
#pragma once

#include <map>
#include <set>
#include <utility>
#include <vector>

#include "node-agent/ports/ports.h"

namespace heterok8s::peer {

using SteeredPort = std::pair<Protocol, uint16_t>;

class PodClaims {
 public:
  using Claims = std::map<ports::PortKey, uint64_t>;  // to epoch_ns

  explicit PodClaims(pu::Side self) : self_(self) {}

  // Of this PU. A claim that is opened (again) is not lost.
  void Open(const ports::PortKey& key, uint64_t epoch_ns);
  void Close(const ports::PortKey& key);
  // An older claim of the other PU holds the port. False when there is no such claim.
  bool Lose(const ports::PortKey& key);
  // The lost claims that `closed` of the other PU may have held; they are no longer lost.
  Claims TakeBack(const ports::PortKey& closed);
  const Claims& local() const { return local_; }
  // Those that are not lost.
  Claims Held() const;

  // Of the other PU.
  void OpenRemote(const ports::PortKey& key, uint64_t epoch_ns);
  void CloseRemote(const ports::PortKey& key);
  const Claims& remote() const { return remote_; }

  bool Steers(const SteeredPort& port) const { return steering_.contains(port); }
  std::vector<SteeredPort> Steering() const;
  // What may steer differently since Settled() was called for it.
  const std::set<SteeredPort>& changed() const { return changed_; }
  void Settled(const SteeredPort& port) { changed_.erase(port); }
  void SettledAll() { changed_.clear(); }

 private:
  void Count(pu::Side owner, const ports::PortKey& key, int difference);

  const pu::Side self_;
  Claims local_, remote_;
  std::set<ports::PortKey> lost_;        // of local_
  std::map<SteeredPort, int> steering_;  // how many claims of the DPU make it so
  std::set<SteeredPort> changed_;
};

}  // namespace heterok8s::peer
