#include "node-agent/podnet/pod_routes.h"

#include <algorithm>

namespace heterok8s::podnet {

std::vector<netlink::Route> RoutesToNode(const std::vector<IpAddress>& addresses, const std::vector<PodRoute>& routes,
                                         int link) {
  static const std::vector<PodRoute> everything = {{.destination = {.address = {.family = Family::kV4}}},
                                                   {.destination = {.address = {.family = Family::kV6}}}};
  std::vector<netlink::Route> result;
  for (const PodRoute& route : routes.empty() ? everything : routes) {
    const Family family = route.destination.address.family;
    auto source =
        std::find_if(addresses.begin(), addresses.end(), [&](const IpAddress& a) { return a.family == family; });
    if (source == addresses.end()) continue;
    result.push_back({.destination = route.destination,
                      .link = link,
                      .via = NodeGateway(family),
                      .onlink = true,
                      .source = *source,
                      .mtu = route.mtu});
  }
  return result;
}

}  // namespace heterok8s::podnet
