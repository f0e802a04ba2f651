// Netlink answers to values.
//
// Threading: pure functions. An answer that is not of interest (another protocol's neighbour, a cached route) decodes
// to nothing.
#pragma once

#include <linux/netlink.h>

#include <optional>
#include <vector>

#include "common/netlink/types.h"

namespace heterok8s::netlink {

std::optional<Link> DecodeLink(nlmsghdr* message);          // RTM_NEWLINK
std::optional<Address> DecodeAddress(nlmsghdr* message);    // RTM_NEWADDR
std::vector<Route> DecodeRoutes(nlmsghdr* message);         // RTM_NEWROUTE: one for each next hop
std::optional<Rule> DecodeRule(nlmsghdr* message);          // RTM_NEWRULE
std::optional<Neighbor> DecodeNeighbor(nlmsghdr* message);  // RTM_NEWNEIGH, permanent ones
// RTM_NEWQDISC. The kernel keeps the burst as a time, so it is read back rounded.
std::optional<Tbf> DecodeTbf(nlmsghdr* message);
std::optional<int> DecodeRedirect(nlmsghdr* message);  // RTM_NEWTFILTER: where to

}  // namespace heterok8s::netlink
