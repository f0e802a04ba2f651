#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "common/netlink/libnl_netlink.h"
#include "common/sys/netns.h"
#include "node-agent/podnet/bandwidth.h"
#include "node-agent/podnet/uplink.h"
#include "node-agent/podnet/uplink_plan.h"

namespace heterok8s::podnet {
namespace {

using netlink::Link;
using netlink::Netlink;

absl::Status Differs(const std::string& text) { return absl::FailedPreconditionError(text); }

absl::StatusOr<Link> Find(Netlink& netlink, const std::string& name, const std::string& where) {
  absl::StatusOr<Link> link = netlink.FindLink(name);
  if (absl::IsNotFound(link.status())) return Differs(fmt::format("interface '{}' is missing in {}", name, where));
  return link;
}

absl::Status CheckEnd(const Link& link, const std::string& alias, const std::string& mac, int mtu) {
  if (link.alias != alias) return Differs(fmt::format("interface '{}' has the owner '{}'", link.name, link.alias));
  if (!link.up) return Differs(fmt::format("interface '{}' is down", link.name));
  // The other end reaches it by this address and never asks.
  if (link.mac != mac) return Differs(fmt::format("interface '{}' has the MAC {}, not {}", link.name, link.mac, mac));
  // A plugin that runs after us may have made it smaller.
  if (link.mtu > mtu) return Differs(fmt::format("interface '{}' has the MTU {}, not {}", link.name, link.mtu, mtu));
  return absl::OkStatus();
}

template <typename T>
bool Contains(const std::vector<T>& all, const T& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

absl::Status CheckNeighbors(Netlink& netlink, const Link& link, const std::vector<netlink::Neighbor>& wanted) {
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Neighbor> now, netlink.Neighbors(link.index));
  for (const netlink::Neighbor& neighbor : wanted) {
    if (!Contains(now, neighbor)) {
      return Differs(fmt::format("'{}' has no permanent neighbour {} at {}", link.name, neighbor.address.ToString(),
                                 neighbor.mac));
    }
  }
  return absl::OkStatus();
}

enum class Elsewhere { kIsWrong, kWasFirst };

absl::Status CheckRoutes(Netlink& netlink, const Link& link, const std::vector<netlink::Route>& wanted,
                         Elsewhere elsewhere) {
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Route> now, netlink.Routes(netlink::kTableMain));
  for (const netlink::Route& route : wanted) {
    auto is_first = [&](const netlink::Route& other) {
      return other.destination == route.destination && other.metric == route.metric && other.link != link.index;
    };
    const bool is_there =
        Contains(now, route) || (elsewhere == Elsewhere::kWasFirst && std::any_of(now.begin(), now.end(), is_first));
    if (!is_there) {
      return Differs(fmt::format("'{}' has no route to {}{}", link.name, route.destination.ToString(),
                                 route.via ? " via " + route.via->ToString() : ""));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckPod(Netlink& netlink, const Link& link, const UplinkSpec& spec, const UplinkPlan& plan) {
  HK_RETURN_IF_ERROR(CheckEnd(link, plan.alias, plan.pod_mac, spec.mtu));
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Address> now, netlink.Addresses(link.index));
  for (const netlink::Address& address : plan.PodAddresses(link.index)) {
    if (!Contains(now, address)) {
      return Differs(fmt::format("'{}' has no address {}", link.name, address.prefix.ToString()));
    }
  }
  HK_RETURN_IF_ERROR(CheckRoutes(netlink, link, plan.PodRoutes(link.index), Elsewhere::kWasFirst));
  return CheckNeighbors(netlink, link, plan.PodNeighbors(link.index));
}

absl::Status CheckRoot(Netlink& netlink, const Link& link, const UplinkSpec& spec, const UplinkPlan& plan) {
  HK_RETURN_IF_ERROR(CheckEnd(link, plan.alias, plan.root_mac, spec.mtu));
  HK_RETURN_IF_ERROR(CheckRoutes(netlink, link, plan.RootRoutes(link.index), Elsewhere::kIsWrong));
  HK_RETURN_IF_ERROR(CheckNeighbors(netlink, link, plan.RootNeighbors(link.index)));
  return CheckBandwidth(netlink, link, spec.owner, spec.bandwidth);
}

}  // namespace

absl::Status CheckUplink(const UplinkSpec& spec) {
  HK_ASSIGN_OR_RETURN(UplinkPlan plan, UplinkPlan::Of(spec));
  HK_ASSIGN_OR_RETURN(sys::NetnsRef pod, sys::NetnsRef::Open(spec.netns_path));
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> root, netlink::OpenNetlink());
  return sys::InNetns(pod, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> pod_netlink, netlink::OpenNetlink());
    HK_ASSIGN_OR_RETURN(Link pod_end, Find(*pod_netlink, spec.ifname, "the Pod"));
    HK_RETURN_IF_ERROR(CheckPod(*pod_netlink, pod_end, spec, plan));
    HK_ASSIGN_OR_RETURN(Link root_end, Find(*root, plan.root_name, "the root namespace"));
    if (root_end.peer_index != pod_end.index || pod_end.peer_index != root_end.index) {
      return Differs(fmt::format("'{}' and '{}' are not two ends of one link", spec.ifname, plan.root_name));
    }
    return CheckRoot(*root, root_end, spec, plan);
  });
}

}  // namespace heterok8s::podnet
