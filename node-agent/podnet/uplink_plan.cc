#include "node-agent/podnet/uplink_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "node-agent/podnet/pod_routes.h"
#include "node-agent/pu/owner_tag.h"

namespace heterok8s::podnet {
namespace {

constexpr int kMinMtu = 68;      // RFC 791
constexpr int kMinMtuV6 = 1280;  // RFC 8200; below it the kernel takes IPv6 off the device

}  // namespace

absl::StatusOr<UplinkPlan> UplinkPlan::Of(const UplinkSpec& spec) {
  UplinkPlan plan;
  plan.alias = spec.owner.ToAlias();
  plan.root_name = pu::InterfaceName(spec.owner, 'u');
  plan.root_mac = pu::DerivedMac(spec.owner, 'u');
  plan.pod_mac = spec.mac.empty() ? pu::DerivedMac(spec.owner, 'p') : spec.mac;
  std::transform(plan.pod_mac.begin(), plan.pod_mac.end(), plan.pod_mac.begin(), ::tolower);  // as the kernel shows it
  plan.addresses = spec.addresses;
  plan.routes = spec.routes;
  if (plan.addresses.empty()) return absl::InvalidArgumentError("an uplink needs an address");
  for (const IpAddress& address : plan.addresses) {
    if (address.is_loopback() || address.is_unspecified()) {
      return absl::InvalidArgumentError(fmt::format("'{}' cannot be a Pod's address", address.ToString()));
    }
  }
  int min_mtu = plan.wants(Family::kV6) ? kMinMtuV6 : kMinMtu;
  if (spec.mtu < min_mtu) {
    return absl::InvalidArgumentError(fmt::format("an uplink's MTU is {} or more, not {}", min_mtu, spec.mtu));
  }
  return plan;
}

bool UplinkPlan::wants(Family family) const {
  return std::any_of(addresses.begin(), addresses.end(), [&](const IpAddress& a) { return a.family == family; });
}

std::vector<netlink::Address> UplinkPlan::PodAddresses(int pod_link) const {
  std::vector<netlink::Address> result;
  for (const IpAddress& address : addresses) {
    bool v6 = address.family == Family::kV6;
    result.push_back({.link = pod_link, .prefix = IpPrefix::Host(address), .no_dad = v6, .no_prefix_route = v6});
  }
  return result;
}

std::vector<netlink::Route> UplinkPlan::PodRoutes(int pod_link) const {
  return RoutesToNode(addresses, routes, pod_link);
}

std::vector<netlink::Neighbor> UplinkPlan::PodNeighbors(int pod_link) const {
  std::vector<netlink::Neighbor> result;
  for (Family family : {Family::kV4, Family::kV6}) {
    if (wants(family)) result.push_back({.link = pod_link, .address = NodeGateway(family), .mac = root_mac});
  }
  return result;
}

std::vector<netlink::Route> UplinkPlan::RootRoutes(int root_link) const {
  std::vector<netlink::Route> result;
  for (const IpAddress& address : addresses) {
    auto scope = address.family == Family::kV4 ? netlink::Scope::kLink : netlink::Scope::kGlobal;
    result.push_back({.destination = IpPrefix::Host(address), .link = root_link, .scope = scope});
  }
  return result;
}

std::vector<netlink::Neighbor> UplinkPlan::RootNeighbors(int root_link) const {
  std::vector<netlink::Neighbor> result;
  for (const IpAddress& address : addresses) {
    result.push_back({.link = root_link, .address = address, .mac = pod_mac});
  }
  return result;
}

}  // namespace heterok8s::podnet
