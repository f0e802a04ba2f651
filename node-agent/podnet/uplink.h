// The Pod's routed veth to this PU's root namespace.
//
// Purpose: PodNet's uplink part. See podnet.h for what Ensure, Check and Remove promise.
//
//   root namespace                              Pod
//   hku3f0… (no address)  ─────── veth ───────  eth0  10.88.0.5/32 fd00:88::5/128
//   10.88.0.5 dev hku3f0…                       default via 169.254.1.1 onlink, via fe80::1 onlink
//                                               (or what UplinkSpec::routes names)
//
// Where the pair was made before its Pod was known, hku3f0… is an alternative name of the root end: see spare_uplink.h.
// A route that another interface of the Pod has already stays where it is, and CHECK is content with that: the first
// interface has the default route, and none that comes later takes it along when it goes.
// Both ends know the other's hardware address by permanent neighbour entries, so neither ARP nor NDP is ever spoken.
// Threading: any thread; calls for one Pod are serialised by the caller. The calling thread is in the root namespace.
// Ownership: the kernel's objects stay until RemoveUplink.
// Errors: kNotFound when the Pod's namespace is gone; kAlreadyExists when the Pod has a foreign interface of this
// name; kFailedPrecondition from CheckUplink, with the first difference as its text.
//
//   HK_ASSIGN_OR_RETURN(Uplink uplink, EnsureUplink(spec));
#pragma once

#include <string>
#include <vector>

#include "node-agent/podnet/podnet.h"

namespace heterok8s::podnet {

// Forwarding for both families. A Node that learns its IPv6 routes from router advertisements goes on doing so.
absl::Status EnableForwarding();

absl::StatusOr<Uplink> EnsureUplink(const UplinkSpec& spec);
// Takes the pair that waits in the Pod's namespace, if there is one. `finish` too is called in the root namespace.
absl::StatusOr<PlacedUplink> PlaceUplink(const UplinkSpec& spec);
absl::Status RouteUplink(const UplinkSpec& spec);
absl::Status CheckUplink(const UplinkSpec& spec);
absl::Status RemoveUplink(const pu::OwnerTag& owner, const std::string& netns_path);
absl::StatusOr<std::vector<pu::OwnerTag>> ListUplinks(const std::string& instance);

}  // namespace heterok8s::podnet
