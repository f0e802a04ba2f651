// What the kernel should hold for one uplink, computed from its spec alone.
//
// Purpose: EnsureUplink writes it, CheckUplink compares with it; so the two cannot disagree. See uplink.h for the
// picture. Threading: values. Errors: kInvalidArgument when the spec cannot be one.
//
//   HK_ASSIGN_OR_RETURN(UplinkPlan plan, UplinkPlan::Of(spec));
#pragma once

#include <string>
#include <vector>

#include "common/netlink/types.h"
#include "node-agent/podnet/podnet.h"

namespace heterok8s::podnet {

struct UplinkPlan {
  std::string alias;      // on both ends
  std::string root_name;  // in the root namespace
  std::string root_mac, pod_mac;
  std::vector<IpAddress> addresses;
  std::vector<PodRoute> routes;

  // kInvalidArgument for a spec without addresses, a link-local or loopback one, an MTU too small for IPv6.
  static absl::StatusOr<UplinkPlan> Of(const UplinkSpec& spec);

  bool wants(Family family) const;
  std::vector<netlink::Address> PodAddresses(int pod_link) const;
  std::vector<netlink::Route> PodRoutes(int pod_link) const;
  std::vector<netlink::Neighbor> PodNeighbors(int pod_link) const;
  std::vector<netlink::Route> RootRoutes(int root_link) const;
  std::vector<netlink::Neighbor> RootNeighbors(int root_link) const;
};

}  // namespace heterok8s::podnet
