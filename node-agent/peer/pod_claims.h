// Who claims which ports of one Pod, as far as this PU knows.
//
// Purpose: the bookkeeping of the port stream, without kernel or network: this PU's claims, those of them that an older
// claim of the other PU beats, the other PU's claims, and what the Pod's packets are to be steered by.
// Threading: not thread-safe; PortSync's worker owns it. Errors: none.
//
//   claims.local[key] = change.epoch_ns;
//   for (const SteeredPort& port : claims.Steering(pu::Side::kDpu)) …
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>

#include "node-agent/ports/ports.h"

namespace heterok8s::peer {

using SteeredPort = std::pair<Protocol, uint16_t>;

struct PodClaims {
  std::map<ports::PortKey, uint64_t> local;   // to epoch_ns
  std::set<ports::PortKey> lost;              // of local: an older claim of the other PU holds the port
  std::map<ports::PortKey, uint64_t> remote;  // as the other PU reports; to epoch_ns

  // The DPU's ports: packets for them are its own, everything else goes to the host. On the DPU these are its local
  // claims, on the host the remote ones. A socket bound to localhost gets no packets from the network, so it counts
  // for nothing here.
  std::set<SteeredPort> Steering(pu::Side self) const;

  // The lost claims that `closed` of the other PU may have held; they are no longer lost.
  std::map<ports::PortKey, uint64_t> TakeBack(const ports::PortKey& closed);
};

}  // namespace heterok8s::peer
