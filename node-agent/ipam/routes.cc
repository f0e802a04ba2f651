#include "node-agent/ipam/routes.h"

#include <fmt/format.h>

#include <algorithm>

namespace heterok8s::ipam {
namespace {

using Json = nlohmann::json;

absl::Status Wrong(const std::string& where, size_t index, const char* key, const std::string& problem) {
  return cni::MakeError(cni::kInvalidConfig, fmt::format("'{}[{}].{}' {}", where, index, key, problem));
}

bool IsSet(const Json& value) { return !value.is_null() && value != 0; }

std::string Names(const std::vector<IpAddress>& addresses) {
  std::string names;
  for (const IpAddress& address : addresses) names += (names.empty() ? "" : ", ") + address.ToString();
  return names.empty() ? "none" : names;
}

}  // namespace

absl::Status CheckRouteKeys(const Json& routes, const std::string& where) {
  if (!routes.is_array()) return absl::OkStatus();  // the parser says what is wrong with it
  for (size_t i = 0; i < routes.size(); ++i) {
    if (!routes[i].is_object()) continue;
    for (const char* key : {"priority", "table", "scope", "advmss"}) {
      auto found = routes[i].find(key);
      if (found == routes[i].end() || !IsSet(*found)) continue;
      return Wrong(where, i, key, "is not supported: a Pod's routes have 'dst', 'gw' and 'mtu'");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<cni::Route>> UsableRoutes(const std::vector<cni::Route>& routes, const std::string& where,
                                                     const std::vector<IpAddress>& addresses,
                                                     const std::vector<IpAddress>& gateways) {
  std::vector<cni::Route> usable;
  for (size_t i = 0; i < routes.size(); ++i) {
    cni::Route route = routes[i];
    if (route.dst != route.dst.Masked()) {
      return Wrong(
          where, i, "dst",
          fmt::format("{} has host bits set; did you mean {}?", route.dst.ToString(), route.dst.Masked().ToString()));
    }
    if (route.gw && std::find(gateways.begin(), gateways.end(), *route.gw) == gateways.end()) {
      return Wrong(where, i, "gw",
                   fmt::format("{} is not the network's gateway ({}): a Pod is routed by its Node",
                               route.gw->ToString(), Names(gateways)));
    }
    route.gw.reset();  // the Node, whatever address it is called by
    auto of_family = [&](const IpAddress& address) { return address.family == route.dst.address.family; };
    if (std::none_of(addresses.begin(), addresses.end(), of_family)) continue;
    auto same = std::find_if(usable.begin(), usable.end(), [&](const cni::Route& r) { return r.dst == route.dst; });
    if (same == usable.end()) {
      usable.push_back(std::move(route));
    } else if (same->mtu != route.mtu) {
      return Wrong(where, i, "mtu", fmt::format("{} differs from that of the same 'dst' before", route.mtu));
    }
  }
  if (usable.empty() && !routes.empty()) {
    return cni::MakeError(cni::kInvalidConfig,
                          fmt::format("'{}' names no destination of a family that the Pod has", where));
  }
  return usable;
}

}  // namespace heterok8s::ipam
