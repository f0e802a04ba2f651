// Claims as values: what overlaps what, and how they look in the BPF maps.
//
// Threading: pure functions. Errors: kInvalidArgument for a Pod that does not fit the maps.
//
//   if (Overlaps(remote_key, local_key)) return absl::FailedPreconditionError(local_key.ToString());
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "common/status/status.h"
#include "node-agent/ports/layout.h"
#include "node-agent/ports/ports.h"

namespace heterok8s::ports {

// The rule of PortKey: equal protocol and port, and an address that both would answer for.
bool Overlaps(const PortKey& a, const PortKey& b);

// Puts a v4-mapped v6 address into its v4 form and drops `dual_stack` where it means nothing, so that equal claims are
// equal values.
PortKey Normalized(PortKey key);

hk_addr ToWire(const IpAddress& address);
IpAddress FromWire(const hk_addr& address);
hk_claim_key ToWire(uint64_t netns_cookie, const PortKey& key);
PortKey FromWire(const hk_claim_key& key);

// All claims on one port. More than the map's value holds become one that overlaps them all: then a bind is refused
// here that one kernel would have allowed, but none is allowed that it would have refused.
hk_remote ToWire(const std::set<PortKey>& claims_of_one_port);
std::set<PortKey> FromWire(const hk_port_key& port, const hk_remote& claims);

// False: a program is just removing it.
inline bool IsOpen(const hk_local& claim) { return HK_SOCKETS(claim.life) > 0; }

absl::StatusOr<hk_pod> ToWire(const PodPorts& pod);
absl::StatusOr<hk_pod_name> NameToWire(const PodPorts& pod);
PodPorts FromWire(const hk_pod& pod, const hk_pod_name& name);

}  // namespace heterok8s::ports
