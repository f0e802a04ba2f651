// The routes of an IPAM configuration, or of a plugin's answer, as a routed Pod can have them.
//
// Purpose: a Pod's next hop is its Node, so a route has a destination and perhaps an MTU. What cannot be had so is
// refused by name rather than left out: another gateway than the network's, a priority, table, scope or advmss.
// Threading: pure functions. Errors: kInvalidConfig (CNI code) that names the key.
//
//   HK_RETURN_IF_ERROR(CheckRouteKeys(ipam["routes"], "ipam.routes"));
//   HK_ASSIGN_OR_RETURN(lease.routes, UsableRoutes(std::move(routes), "ipam.routes", addresses, gateways));
#pragma once

#include <string>
#include <vector>

#include "common/cni/types.h"

namespace heterok8s::ipam {

// Those keys that cni::Route does not have; 0, which means "unset" in all of them, is none.
absl::Status CheckRouteKeys(const nlohmann::json& routes, const std::string& where);

// Each once and without its gateway, which may be one of `gateways`. Those of a family without an address are left out;
// that none is left is an error, because no routes at all would mean the default routes.
absl::StatusOr<std::vector<cni::Route>> UsableRoutes(const std::vector<cni::Route>& routes, const std::string& where,
                                                     const std::vector<IpAddress>& addresses,
                                                     const std::vector<IpAddress>& gateways);

}  // namespace heterok8s::ipam
