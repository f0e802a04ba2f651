#include "node-agent/podnet/loopback_ways.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "common/netlink/libnl_netlink.h"
#include "common/sys/file.h"

namespace heterok8s::podnet {
namespace {

using netlink::Netlink;

// Of our routes to ::1; each device's is one more, because the kernel knows routes by destination and metric.
constexpr uint32_t kBehindLo = 4096;

netlink::Route RouteToLoopback6(int link) {
  return {.destination = IpPrefix::Host(*IpAddress::Parse("::1")),
          .link = link,
          .table = netlink::kTableLocal,
          .metric = kBehindLo + static_cast<uint32_t>(link),
          .type = netlink::RouteType::kLocal};
}

int LinkTowards(const std::vector<netlink::Route>& routes, const IpAddress& address) {
  const netlink::Route* best = nullptr;
  for (const netlink::Route& route : routes) {
    if (route.destination.address.family != address.family || !route.destination.Contains(address)) continue;
    if (best == nullptr || route.destination.length > best->destination.length) best = &route;
  }
  return best == nullptr ? 0 : best->link;
}

// The devices that a host port of the table needs for localhost.
std::set<int> Needed(const std::vector<netlink::Route>& routes, const HostPortElements& present) {
  std::set<int> links;
  for (const char* map : {"any4", "any6", "one4", "one6"}) {
    auto elements = present.find(map);
    if (elements == present.end()) continue;
    for (const netfilter::NftElement& element : elements->second) {
      if (element.value.empty()) continue;
      absl::StatusOr<IpAddress> pod = IpAddress::Parse(element.value[0]);
      if (element.key.size() == 3) {  // of one address of the Node
        absl::StatusOr<IpAddress> host = IpAddress::Parse(element.key[0]);
        if (!host.ok() || !host->is_loopback()) continue;
      }
      if (pod.ok()) links.insert(LinkTowards(routes, *pod));
    }
  }
  return links;
}

bool ServesLoopback(const HostPortSpec& spec) {
  return podnet::ServesLoopback(spec, Family::kV4) || podnet::ServesLoopback(spec, Family::kV6);
}

}  // namespace

absl::StatusOr<WayToPod> FindWay(Netlink& netlink, const HostPortSpec& spec) {
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Route> routes, netlink.Routes(netlink::kTableMain));
  WayToPod way;
  for (const IpAddress& address : spec.addresses) {
    const int link = LinkTowards(routes, address);
    if (link != 0 && (way.link == 0 || address.family == Family::kV4)) way.link = link;
  }
  if (way.link == 0) return absl::FailedPreconditionError(fmt::format("no route to Pod {}", spec.pod_key));
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Link> links, netlink.Links());
  for (const netlink::Link& link : links) {
    if (link.index != way.link) continue;
    way.ifname = link.name;
    absl::StatusOr<pu::OwnerTag> owner = pu::OwnerTag::FromAlias(link.alias);
    way.own_interface = owner.ok() && owner->pod_key == spec.pod_key;
  }
  return way;
}

absl::StatusOr<std::string> MarkLoopback(const std::string& table, const HostPortElements& present,
                                         const HostPortSpec& spec, const WayToPod& way) {
  if (way.own_interface || !ServesLoopback(spec)) return std::string();
  if (auto marked = present.find(kLocalnetSet); marked != present.end()) {
    for (const netfilter::NftElement& element : marked->second) {
      if (element.key == std::vector{way.ifname}) return std::string();
    }
  }
  HK_ASSIGN_OR_RETURN(const std::string now,
                      sys::ReadFile(fmt::format("/proc/sys/net/ipv4/conf/{}/route_localnet", way.ifname)));
  if (!now.starts_with('0')) return std::string();
  return fmt::format("add element {} {} {{ \"{}\" }}\n", table, kLocalnetSet, way.ifname);
}

absl::Status ServeLoopback(Netlink& netlink, const HostPortSpec& spec, const WayToPod& way) {
  if (podnet::ServesLoopback(spec, Family::kV4)) {
    // Without it Linux neither sends 127.0.0.1 through an interface nor takes the answer for it.
    HK_RETURN_IF_ERROR(netlink.Do(netlink::SetLink{.link = way.link, .inet4 = {{.route_localnet = 1}}}));
  }
  if (!podnet::ServesLoopback(spec, Family::kV6)) return absl::OkStatus();
  // IPv6 has no such switch. Sending is no problem; the answer, translated back to ::1, is looked up with its input
  // device (rt6_need_strict includes the loopback address), and the only route of ::1 is lo's. A second one for this
  // device, behind lo's for all else. What arrives for ::1 untranslated the kernel drops before (ip6_rcv_core).
  absl::Status added = netlink.Do(netlink::AddRoute{RouteToLoopback6(way.link)});
  return absl::IsAlreadyExists(added) ? absl::OkStatus() : added;
}

absl::Status LeaveLoopback(netfilter::Nft& nft, const std::string& table, const HostPortElements& before) {
  auto marked = before.find(kLocalnetSet);
  if (marked == before.end() || marked->second.empty()) return absl::OkStatus();
  HK_ASSIGN_OR_RETURN(HostPortElements present, nft.AllElements(table));
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> netlink, netlink::OpenNetlink());
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Route> routes, netlink->Routes(netlink::kTableMain));
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Link> links, netlink->Links());
  const std::set<int> needed = Needed(routes, present);
  for (const netfilter::NftElement& element : marked->second) {
    auto link = std::find_if(links.begin(), links.end(), [&](const auto& l) { return element.key[0] == l.name; });
    if (link != links.end()) {
      if (needed.contains(link->index)) continue;
      HK_RETURN_IF_ERROR(netlink->Do(netlink::SetLink{.link = link->index, .inet4 = {{.route_localnet = 0}}}));
      absl::Status removed = netlink->Do(netlink::DeleteRoute{RouteToLoopback6(link->index)});
      if (!removed.ok() && !absl::IsNotFound(removed)) return removed;
    }
    HK_RETURN_IF_ERROR(
        nft.Run(fmt::format("delete element {} {} {{ \"{}\" }}\n", table, kLocalnetSet, element.key[0])));
  }
  return absl::OkStatus();
}

}  // namespace heterok8s::podnet
