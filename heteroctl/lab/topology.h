// The lab's wires: three network namespaces, two veth pairs, addresses, routes, forwarding.
//
//   client ── eth0 198.51.100.2          uplink0 198.51.100.1 ── DPU ── node0 192.0.2.2     192.0.2.1 node0 ── host
//             fd00:100::2                fd00:100::1                    fd00:2::2           fd00:2::1
//
// As on a machine with a DPU in front, every packet of the Node passes the DPU: the host's default route is the DPU,
// and the DPU routes the Pod ranges to the host. The /32 and /128 of a split Pod, which heterod adds on the DPU, win
// over that. Further Nodes (demo.2) are the same with other numbers, and all DPUs meet in the outside. A packet that
// comes from the host for a Pod address that nobody has is answered "unreachable" by the DPU instead of being sent back
// and forth.
//
// Threading: any. Ownership: the namespaces stay at their paths until they are deleted. Errors: what `ip` said, with
// the line it said it about.
#pragma once

#include <string>

#include "common/status/status.h"
#include "heteroctl/lab/layout.h"

namespace heterok8s::lab {

struct Addresses {
  std::string host, dpu;    // of the link between them, a /28
  std::string uplink;       // the DPU's, outside
  std::string client;       // the outside itself; the same for every Node
  std::string nodes, pods;  // ranges
  std::string host6, dpu6, uplink6, client6, nodes6, pods6;
};
Addresses AddressesOf(int node);

// All of them together, for whoever must tell Pods from the rest.
inline constexpr const char* kAllPods = "10.88.0.0/13";

// Makes the namespaces at layout.Netns(…) and everything in them; with `several`, the outside is a bridge and has the
// other Nodes' ranges in its routes. A further Node is plugged into the first one's. On failure what was made stays for
// Down to remove.
absl::Status MakeTopology(const Layout& layout, bool several);

}  // namespace heterok8s::lab
