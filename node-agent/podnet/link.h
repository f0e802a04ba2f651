// A split Pod's end of the link to the other PU.
//
// Purpose: PodNet's link part. See podnet.h for what Ensure, Check and Remove promise. The device itself is made by
// pu::Backend; here it gets its addresses, routes, neighbours and rules, and the namespace its sysctls and nft table.
//
//   pod-h                                                   pod-d
//   eth0 (altname xpu0)                                     xpu0                       eth0
//     P (Pod address)                                         dpu_localhost, dpu_pod     P (by EnsureUplink)
//     host_localhost, host_pod     ────── link ──────         host_* dev xpu0
//     dpu_* dev eth0                                          table 100: P dev xpu0
//     default via 169.254.1.1, table 100 too
//   rules of both: 10: fwmark 0x10 → table 100; 100: local (moved from 0, so that a packet for P can leave); main
//
// Threading: any thread, in any namespace; calls for one Pod are serialised by the caller.
// Errors: kNotFound when the namespace or the link is gone; kAlreadyExists when the interface is not this owner's;
// kFailedPrecondition from CheckLink, with the first difference as its text.
//
//   HK_RETURN_IF_ERROR(EnsureLink(spec));
//   HK_RETURN_IF_ERROR(SetPort(spec, Protocol::kTcp, 15001, true));
#pragma once

#include <chrono>
#include <map>
#include <string>

#include "common/netfilter/nft.h"
#include "node-agent/podnet/podnet.h"

namespace heterok8s::podnet {

// Ports set by SetPort stay as they are when the table exists already; in a new table there are none.
absl::Status EnsureGuards(const LinkSpec& spec);
absl::Status EnsureLink(const LinkSpec& spec, Guards guards = Guards::kEnsure);
absl::Status AwaitLink(const LinkSpec& spec, std::chrono::milliseconds timeout);
absl::Status CheckLink(const LinkSpec& spec);
absl::Status RemoveLink(const LinkSpec& spec);

// The part of EnsureGuards that is the same for every DPU half.
absl::Status SetDpuNetnsSysctls(const sys::NetnsRef& ns);

// Both: kNotFound when there is no table (EnsureLink has not run).
absl::Status SetPort(const LinkSpec& spec, Protocol protocol, uint16_t port, bool present);
absl::Status ReplacePorts(const LinkSpec& spec, const std::vector<std::pair<Protocol, uint16_t>>& ports);

// What the Pod's table refused, by the names in link_table.h.
absl::StatusOr<std::map<std::string, netfilter::NftCounter>> ReadLinkCounters(const std::string& netns_path);

}  // namespace heterok8s::podnet
