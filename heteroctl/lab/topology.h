// The lab's wires: three network namespaces, two veth pairs, addresses, routes, forwarding.
//
//   client ── eth0 198.51.100.2          uplink0 198.51.100.1 ── DPU ── node0 192.0.2.2     192.0.2.1 node0 ── host
//             fd00:100::2                fd00:100::1                    fd00:2::2           fd00:2::1
//
// As on a machine with a DPU in front, every packet of the Node passes the DPU: the host's default route is the DPU,
// and the DPU routes the Pod ranges to the host. The /32 and /128 of a split Pod, which heterod adds on the DPU, win
// over that. A packet that comes from the host for a Pod address that nobody has is answered "unreachable" by the DPU
// instead of being sent back and forth.
//
// Threading: any. Errors: what `ip` said, with the line it said it about.
#pragma once

#include <string>

#include "common/status/status.h"
#include "heteroctl/lab/layout.h"

namespace heterok8s::lab {

inline constexpr const char* kHostAddress = "192.0.2.1";
inline constexpr const char* kDpuAddress = "192.0.2.2";
inline constexpr const char* kClientAddress = "198.51.100.2";
inline constexpr const char* kHostAddress6 = "fd00:2::1";
inline constexpr const char* kDpuAddress6 = "fd00:2::2";
inline constexpr const char* kClientAddress6 = "fd00:100::2";
inline constexpr const char* kPodRange = "10.88.0.0/16";
inline constexpr const char* kPodRange6 = "fd00:88::/64";

// Makes the namespaces at layout.Netns(…) and everything in them. On failure what was made stays for Down to remove.
absl::Status MakeTopology(const Layout& layout);

}  // namespace heterok8s::lab
