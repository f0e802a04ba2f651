// What a Pod's namespace routes over the interface by which it reaches its Node.
//
// Purpose: the same for an uplink and for the host's end of a link, so that both halves of a split Pod reach the same.
// Threading: pure. Errors: none.
//
//   for (netlink::Route& route : RoutesToNode(spec.addresses, spec.routes, link)) batch.Add(netlink::AddRoute{route});
#pragma once

#include <vector>

#include "common/netlink/types.h"
#include "node-agent/podnet/podnet.h"

namespace heterok8s::podnet {

// In the main table, from the Pod's first address of each route's family; those of a family without one are left out.
// No `routes`: the default routes.
std::vector<netlink::Route> RoutesToNode(const std::vector<IpAddress>& addresses, const std::vector<PodRoute>& routes,
                                         int link);

}  // namespace heterok8s::podnet
