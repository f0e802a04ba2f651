#include "node-agent/podnet/link_plan.h"

#include <fmt/format.h>

#include "node-agent/podnet/link_table.h"
#include "node-agent/podnet/pod_routes.h"

namespace heterok8s::podnet {
namespace {

using netlink::Address;
using netlink::Neighbor;
using netlink::Route;
using netlink::Rule;
using netlink::Scope;

constexpr Family kFamilies[] = {Family::kV4, Family::kV6};

// The kernel takes the larger of `all` and the device's. A packet from the link may carry our own Pod IP.
constexpr char kAllRpFilter[] = "net/ipv4/conf/all/rp_filter";

IpAddress OfFamily(Family family, const IpAddress& v4) { return family == Family::kV4 ? v4 : LinkAddresses::ToV6(v4); }

IpPrefix Everything(Family family) {
  IpPrefix prefix;
  prefix.address.family = family;
  return prefix;
}

class Planner {
 public:
  Planner(const LinkSpec& spec, int link) : spec_(spec), link_(link) {}

  LinkPlan Plan() {
    // Programs that ask for "the" address of the interface, and nft's redirect, take the first in the kernel's list:
    // the oldest of IPv4, the youngest of IPv6.
    PodAddresses(Family::kV4);
    for (Family family : kFamilies) LinkPair(family);
    PodAddresses(Family::kV6);
    spec_.side == pu::Side::kHost ? RoutesOut() : OtherSidesPod();
    for (Family family : kFamilies) Rules(family);
    Sysctls();
    return std::move(plan_);
  }

 private:
  void AddAddress(const IpAddress& address) {
    // Scope global also for link addresses: the kernel lists IPv4 addresses of narrower scope first. No duplicate
    // address detection: the same address on both PUs is the point.
    plan_.addresses.push_back({.link = link_, .prefix = IpPrefix::Host(address), .no_dad = true});
  }
  void AddNeighbor(const IpAddress& address) {
    plan_.neighbors.push_back({.link = link_, .address = address, .mac = spec_.peer_mac});
  }

  void PodAddresses(Family family) {
    if (spec_.side == pu::Side::kDpu) return;  // there they are on the uplink
    for (const IpAddress& address : spec_.addresses) {
      if (address.family == family) AddAddress(address);
    }
  }

  void LinkPair(Family family) {
    bool host = spec_.side == pu::Side::kHost;
    const LinkAddresses& l = spec_.link;
    std::pair<IpAddress, IpAddress> pairs[] = {
        {host ? l.host_localhost : l.dpu_localhost, host ? l.dpu_localhost : l.host_localhost},
        {host ? l.host_pod : l.dpu_pod, host ? l.dpu_pod : l.host_pod},
    };
    for (const auto& [own_v4, peer_v4] : pairs) {
      AddAddress(OfFamily(family, own_v4));
      ToPeer(OfFamily(family, peer_v4), OfFamily(family, own_v4));
    }
    ToPeer(LinkAddresses::Localhost(family), OfFamily(family, pairs[0].first));
    if (family == Family::kV6) {
      // The kernel takes a packet for ::1 only where the device it came from has a route to it (rt6_need_strict). What
      // a program sends to ::1 takes lo's, whose metric is lower.
      plan_.routes.push_back({.destination = IpPrefix::Host(*IpAddress::Parse("::1")),
                              .link = link_,
                              .table = netlink::kTableLocal,
                              .metric = 4096,
                              .type = netlink::RouteType::kLocal});
    }
  }
  void ToPeer(const IpAddress& address, const IpAddress& source) {
    AddNeighbor(address);
    plan_.routes.push_back({.destination = IpPrefix::Host(address),
                            .link = link_,
                            .source = source,
                            .scope = address.family == Family::kV4 ? Scope::kLink : Scope::kGlobal});
  }

  // pod-h: whatever leaves does so over the link.
  void RoutesOut() {
    for (Family family : kFamilies) {
      const IpAddress* source = FirstPodAddress(family);
      if (source == nullptr) continue;
      AddNeighbor(NodeGateway(family));
      plan_.routes.push_back({.destination = Everything(family),
                              .link = link_,
                              .via = NodeGateway(family),
                              .onlink = true,
                              .source = *source,
                              .table = kOtherSideTable});
    }
    for (Route& route : RoutesToNode(spec_.addresses, spec_.routes, link_)) plan_.routes.push_back(std::move(route));
  }

  // pod-d: what is marked as the host's leaves over the link.
  void OtherSidesPod() {
    for (const IpAddress& address : spec_.addresses) {
      AddNeighbor(address);
      plan_.routes.push_back({.destination = IpPrefix::Host(address),
                              .link = link_,
                              .scope = address.family == Family::kV4 ? Scope::kLink : Scope::kGlobal,
                              .table = kOtherSideTable});
    }
  }

  void Rules(Family family) {
    plan_.rules.push_back({.family = family, .priority = 10, .table = kOtherSideTable, .fwmark = kOtherSideMark});
    plan_.rules.push_back({.family = family, .priority = 100, .table = netlink::kTableLocal});
    plan_.absent_rules.push_back({.family = family, .priority = 0, .table = netlink::kTableLocal});
  }

  void Sysctls() {
    bool host = spec_.side == pu::Side::kHost;
    auto set = [&](std::string name, std::string value) {
      plan_.sysctls.emplace_back(std::move(name), std::move(value));
    };
    const PortRange& range = host ? spec_.host_ephemeral : spec_.dpu_ephemeral;
    set("net/ipv4/ip_local_port_range", fmt::format("{} {}", range.first, range.last));
    if (host) {
      set(kAllRpFilter, "0");
    } else {
      plan_.uplink_sysctls.emplace_back(fmt::format("net/ipv4/conf/{}/rp_filter", spec_.uplink_ifname), "0");
      for (auto& [name, value] : DpuNetnsSysctls()) set(name, value);
    }
  }

  const IpAddress* FirstPodAddress(Family family) const {
    for (const IpAddress& address : spec_.addresses) {
      if (address.family == family) return &address;
    }
    return nullptr;
  }

  const LinkSpec& spec_;
  const int link_;
  LinkPlan plan_;
};

}  // namespace

LinkPlan PlanLink(const LinkSpec& spec, int link_index) { return Planner(spec, link_index).Plan(); }

std::vector<std::pair<std::string, std::string>> DpuNetnsSysctls() {
  return {{kAllRpFilter, "0"}, {"net/ipv4/ip_forward", "1"}, {"net/ipv6/conf/all/forwarding", "1"}};
}

std::vector<std::pair<std::string, std::string>> UnsplitSysctls(const LinkSpec& spec) {
  std::vector<std::pair<std::string, std::string>> sysctls = {{"net/ipv4/ip_local_port_range", "32768 60999"}};
  if (spec.side == pu::Side::kDpu) {
    sysctls.emplace_back("net/ipv4/ip_forward", "0");
    sysctls.emplace_back("net/ipv6/conf/all/forwarding", "0");
  }
  return sysctls;
}

}  // namespace heterok8s::podnet
