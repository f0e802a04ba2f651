// Ports in and out of an nft set, without libnftables.
//
// Purpose: the hot path of port ownership. libnftables reads a whole set before it changes one element of it, and
// parses a script for many; this is one message for one port, whatever the size of the set, and some for a thousand.
// Threading: any thread; calls for the same namespace wait for each other.
// Ownership: a socket per namespace stays open (and with it the namespace) while ports change and up to 200 ms longer;
// see reaper.h for why.
// Errors: kNotFound when there is no such table or set (when adding); kDeadlineExceeded when the kernel is silent for
// two seconds. Adding what is there and removing what is not are OK.
//
//   HK_RETURN_IF_ERROR(SetPortElement(pod, {.table = "heterok8s", .set = "dpu_ports"}, Protocol::kTcp, 80, true));
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "common/net/ip.h"
#include "common/status/status.h"
#include "common/sys/netns.h"

namespace heterok8s::netfilter {

struct PortSet {  // family inet, type inet_proto . inet_service
  std::string table, set;
};

absl::Status SetPortElement(const sys::NetnsRef& ns, const PortSet& set, Protocol protocol, uint16_t port,
                            bool present);

// Exactly these, in one transaction. kNotFound when there is no such table or set.
absl::Status ReplacePortElements(const sys::NetnsRef& ns, const PortSet& set,
                                 const std::vector<std::pair<Protocol, uint16_t>>& ports);

}  // namespace heterok8s::netfilter
