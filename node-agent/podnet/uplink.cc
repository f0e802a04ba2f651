#include "node-agent/podnet/uplink.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>

#include "common/netlink/delete_link.h"
#include "common/netlink/libnl_netlink.h"
#include "common/sys/file.h"
#include "common/sys/netns.h"
#include "node-agent/podnet/bandwidth.h"
#include "node-agent/podnet/spare_uplink.h"
#include "node-agent/podnet/uplink_plan.h"

namespace heterok8s::podnet {
namespace {

using netlink::Batch;
using netlink::Link;
using netlink::Netlink;
using netlink::SetLink;

constexpr auto kAbsent = absl::StatusCode::kNotFound;

bool HasName(const Link& link, const std::string& name) {
  return link.name == name || std::find(link.altnames.begin(), link.altnames.end(), name) != link.altnames.end();
}

bool Joined(const Link& a, const Link& b) { return a.peer_index == b.index && b.peer_index == a.index; }

// A link is made without an alias and gets it with its other settings, so an end without one is only ours when its
// peer is.
bool IsOurs(const Link& link, const std::string& alias) { return link.alias == alias; }

// kAlreadyExists when either name is taken; nothing is changed then.
absl::StatusOr<UplinkPair> CreatePair(Netlink& root, Netlink& pod_netlink, const sys::NetnsRef& pod,
                                      const UplinkSpec& spec, const UplinkPlan& plan) {
  HK_RETURN_IF_ERROR(root.Do(
      netlink::AddVeth{.end = {.name = plan.root_name, .mac = plan.root_mac, .mtu = spec.mtu},
                       .peer = {.name = spec.ifname, .mac = plan.pod_mac, .mtu = spec.mtu, .netns_fd = pod.fd()}}));
  UplinkPair pair{.fresh = true};
  HK_ASSIGN_OR_RETURN(pair.root, root.FindLink(plan.root_name));
  HK_ASSIGN_OR_RETURN(pair.pod, pod_netlink.FindLink(spec.ifname));
  return pair;
}

// The veth pair of this owner, made anew when what is there does not join this Pod.
absl::StatusOr<UplinkPair> EnsurePair(Netlink& root, Netlink& pod_netlink, const sys::NetnsRef& pod,
                                      const UplinkSpec& spec, const UplinkPlan& plan) {
  // A new Pod has neither end, so looking first would be two questions too many.
  absl::StatusOr<UplinkPair> made = CreatePair(root, pod_netlink, pod, spec, plan);
  if (!absl::IsAlreadyExists(made.status())) return made;
  HK_ASSIGN_OR_RETURN(std::optional<Link> pod_end, FindIfThere(pod_netlink, spec.ifname));
  HK_ASSIGN_OR_RETURN(std::optional<Link> root_end, FindIfThere(root, plan.root_name));
  if (root_end && !root_end->alias.empty() && !IsOurs(*root_end, plan.alias)) {
    return absl::AlreadyExistsError(fmt::format("'{}' belongs to '{}'", plan.root_name, root_end->alias));
  }
  bool joined = pod_end && root_end && Joined(*pod_end, *root_end);
  if (pod_end && !joined && !IsOurs(*pod_end, plan.alias)) {
    return absl::AlreadyExistsError(
        fmt::format("'{}' has an interface '{}' that is not ours", spec.netns_path, spec.ifname));
  }
  if (joined) return UplinkPair{.root = *std::move(root_end), .pod = *std::move(pod_end)};
  // What is left of a Pod's earlier sandbox, or one end that lost its name.
  if (root_end) HK_RETURN_IF_ERROR(root.Do(netlink::DeleteLink{root_end->index}, kAbsent));
  if (pod_end) HK_RETURN_IF_ERROR(pod_netlink.Do(netlink::DeleteLink{pod_end->index}, kAbsent));
  return CreatePair(root, pod_netlink, pod, spec, plan);
}

// Differences between the end as it is and as it is wanted, with `up` left to the caller.
SetLink Settings(const Link& link, const UplinkPlan& plan, const std::string& mac, int mtu) {
  SetLink set{.link = link.index};
  if (link.alias != plan.alias) set.alias = plan.alias;
  if (link.mac != mac) set.mac = mac;
  if (link.mtu != mtu) set.mtu = mtu;
  set.no_link_local = link.inet6 && !link.inet6->no_link_local;
  return set;
}

// IPv6 settings that no link message carries. In the namespace of the calling thread.
absl::Status SetInet6Sysctls(const Link& link, bool wanted, int accepts_ra_from) {
  if (!link.inet6) {
    if (wanted)
      return absl::FailedPreconditionError(fmt::format("IPv6 is off, '{}' cannot have an address", link.name));
    return absl::OkStatus();
  }
  if (wanted && link.inet6->disabled) {
    HK_RETURN_IF_ERROR(sys::SetSysctl(fmt::format("net/ipv6/conf/{}/disable_ipv6", link.name), "0"));
  }
  if (link.inet6->accept_ra >= accepts_ra_from) {
    HK_RETURN_IF_ERROR(sys::SetSysctl(fmt::format("net/ipv6/conf/{}/accept_ra", link.name), "0"));
  }
  return absl::OkStatus();
}

absl::Status RemoveStaleAddresses(Netlink& netlink, const std::vector<netlink::Address>& wanted, int link) {
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Address> now, netlink.Addresses(link));
  Batch batch;
  for (const netlink::Address& address : now) {
    bool keep = address.scope != netlink::Scope::kGlobal ||
                std::any_of(wanted.begin(), wanted.end(), [&](const auto& w) { return w.prefix == address.prefix; });
    if (!keep) batch.Add(netlink::DeleteAddress{address}, kAbsent);
  }
  return batch.empty() ? absl::OkStatus() : netlink.Apply(batch);
}

absl::Status RemoveStaleRoutes(Netlink& netlink, const std::vector<netlink::Route>& wanted, int link) {
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Route> now, netlink.Routes(netlink::kTableMain, link));
  Batch batch;
  for (const netlink::Route& route : now) {
    auto in_the_way = [&](const netlink::Route& w) { return w.destination == route.destination; };
    if (route.protocol != netlink::kOurProtocol && std::none_of(wanted.begin(), wanted.end(), in_the_way)) continue;
    if (std::find(wanted.begin(), wanted.end(), route) == wanted.end()) batch.Add(netlink::DeleteRoute{route}, kAbsent);
  }
  return batch.empty() ? absl::OkStatus() : netlink.Apply(batch);
}

// In the Pod's namespace.
absl::Status ConfigurePod(Netlink& netlink, const UplinkPair& pair, const UplinkSpec& spec, const UplinkPlan& plan) {
  int link = pair.pod.index;
  // 1 accepts advertisements where nothing is forwarded, as in a Pod.
  HK_RETURN_IF_ERROR(SetInet6Sysctls(pair.pod, plan.wants(Family::kV6), 1));
  if (!pair.fresh) {
    HK_RETURN_IF_ERROR(RemoveStaleAddresses(netlink, plan.PodAddresses(link), link));
    HK_RETURN_IF_ERROR(RemoveStaleRoutes(netlink, plan.PodRoutes(link), link));
  }
  Batch batch;
  SetLink settings = Settings(pair.pod, plan, plan.pod_mac, spec.mtu);
  settings.up = true;
  batch.Add(settings);
  for (auto& address : plan.PodAddresses(link)) batch.Add(netlink::ReplaceAddress{address});
  for (auto& neighbor : plan.PodNeighbors(link)) batch.Add(netlink::ReplaceNeighbor{neighbor});
  // Not replaced: one over another interface of the Pod, which was there first, would go with this one's end.
  for (auto& route : plan.PodRoutes(link)) batch.Add(netlink::AddRoute{route}, absl::StatusCode::kAlreadyExists);
  return netlink.Apply(batch);
}

// What is not to outlive an earlier life of the root end, and what is to be there before it is up.
absl::Status ReadyRoot(Netlink& netlink, const UplinkPair& pair, const UplinkSpec& spec, const UplinkPlan& plan) {
  const int link = pair.root.index;
  if (!pair.fresh) HK_RETURN_IF_ERROR(RemoveStaleRoutes(netlink, plan.RootRoutes(link), link));
  if (pair.fresh && !spec.bandwidth) return absl::OkStatus();
  Link root_end = pair.root;
  root_end.mtu = spec.mtu;  // what ConfigureRoot makes of it: a bucket is no smaller than its largest packet
  return EnsureBandwidth(netlink, root_end, spec.owner, spec.bandwidth);
}

absl::Status ConfigureRoot(Netlink& netlink, const Link& root_end, const UplinkSpec& spec, const UplinkPlan& plan) {
  const int link = root_end.index;
  // The root namespace forwards, so only 2 accepts a Pod's router advertisements.
  HK_RETURN_IF_ERROR(SetInet6Sysctls(root_end, plan.wants(Family::kV6), 2));
  Batch batch;
  SetLink settings = Settings(root_end, plan, plan.root_mac, spec.mtu);
  // A Pod sends from its own IPv4 addresses only: everything else fails the reverse path check. The root table's guard
  // (hostport_table.cc) says the same for both families, and counts.
  settings.inet4 = netlink::Inet4Conf{.rp_filter = 1, .forwarding = 1};
  settings.up = true;
  batch.Add(settings);
  for (auto& neighbor : plan.RootNeighbors(link)) batch.Add(netlink::ReplaceNeighbor{neighbor});
  for (auto& route : plan.RootRoutes(link)) batch.Add(netlink::ReplaceRoute{route});
  return netlink.Apply(batch);
}

// What PlaceUplink hands to its second part.
struct Placed {
  UplinkSpec spec;
  UplinkPlan plan;
  sys::NetnsRef pod;
  std::unique_ptr<Netlink> root, pod_netlink;
  UplinkPair pair;
};

absl::Status Finish(Placed& placed) {
  HK_RETURN_IF_ERROR(sys::InNetns(
      placed.pod, [&] { return ConfigurePod(*placed.pod_netlink, placed.pair, placed.spec, placed.plan); }));
  return ReadyRoot(*placed.root, placed.pair, placed.spec, placed.plan);
}

absl::Status Open(Netlink& root, Netlink& pod_netlink, const Link& root_end, int pod_end, const UplinkSpec& spec,
                  const UplinkPlan& plan) {
  HK_RETURN_IF_ERROR(ConfigureRoot(root, root_end, spec, plan));
  HK_RETURN_IF_ERROR(pod_netlink.SyncCarrier(spec.ifname));  // it came up first
  // What the kernel does behind our back is done when we answer: a Pod's first packet is not lost.
  return plan.wants(Family::kV6) ? netlink::WaitForLocalRoutes(pod_netlink, pod_end, plan.addresses) : absl::OkStatus();
}

enum class Spare { kTake, kNone };

absl::StatusOr<std::shared_ptr<Placed>> Place(const UplinkSpec& spec, Spare spare) {
  HK_ASSIGN_OR_RETURN(UplinkPlan plan, UplinkPlan::Of(spec));
  HK_ASSIGN_OR_RETURN(sys::NetnsRef pod, sys::NetnsRef::Open(spec.netns_path));
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> root, netlink::OpenNetlink());
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> pod_netlink, netlink::OpenNetlinkIn(pod));
  std::optional<UplinkPair> pair;
  if (spare == Spare::kTake) {
    HK_ASSIGN_OR_RETURN(pair, TakeSpareUplink(*root, *pod_netlink, pod, spec, plan));
  }
  if (!pair.has_value()) {
    HK_ASSIGN_OR_RETURN(pair, EnsurePair(*root, *pod_netlink, pod, spec, plan));
  }
  return std::make_shared<Placed>(
      Placed{spec, std::move(plan), std::move(pod), std::move(root), std::move(pod_netlink), *std::move(pair)});
}

}  // namespace

absl::StatusOr<PlacedUplink> PlaceUplink(const UplinkSpec& spec) {
  HK_ASSIGN_OR_RETURN(std::shared_ptr<Placed> placed, Place(spec, Spare::kTake));
  return PlacedUplink{.mac = placed->plan.pod_mac, .finish = [placed] { return Finish(*placed); }};
}

absl::Status RouteUplink(const UplinkSpec& spec) {
  HK_ASSIGN_OR_RETURN(UplinkPlan plan, UplinkPlan::Of(spec));
  HK_ASSIGN_OR_RETURN(sys::NetnsRef pod, sys::NetnsRef::Open(spec.netns_path));
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> root, netlink::OpenNetlink());
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> pod_netlink, netlink::OpenNetlinkIn(pod));
  HK_ASSIGN_OR_RETURN(Link root_end, root->FindLink(plan.root_name));
  HK_ASSIGN_OR_RETURN(Link pod_end, pod_netlink->FindLink(spec.ifname));
  if (!Joined(root_end, pod_end)) {
    return absl::NotFoundError(fmt::format("'{}' and '{}' are not two ends of one link", plan.root_name, spec.ifname));
  }
  return Open(*root, *pod_netlink, root_end, pod_end.index, spec, plan);
}

absl::StatusOr<Uplink> EnsureUplink(const UplinkSpec& spec) {
  HK_ASSIGN_OR_RETURN(std::shared_ptr<Placed> placed, Place(spec, Spare::kNone));
  HK_RETURN_IF_ERROR(Finish(*placed));
  const UplinkPair& pair = placed->pair;
  HK_RETURN_IF_ERROR(Open(*placed->root, *placed->pod_netlink, pair.root, pair.pod.index, spec, placed->plan));
  return Uplink{.mac = placed->plan.pod_mac, .root_ifname = placed->plan.root_name, .root_mac = placed->plan.root_mac};
}

absl::Status RemoveUplink(const pu::OwnerTag& owner, const std::string& netns_path) {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> root, netlink::OpenNetlink());
  HK_RETURN_IF_ERROR(RemoveBandwidth(*root, owner));
  HK_ASSIGN_OR_RETURN(std::optional<Link> root_end, FindIfThere(*root, pu::InterfaceName(owner, 'u')));
  // Without an alias it is ours too: nobody else makes such names, and a call may have ended before it gave one.
  if (root_end && (root_end->alias.empty() || IsOurs(*root_end, owner.ToAlias()))) {
    // The Pod's end, the addresses, routes and neighbours go with it.
    HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> requester, netlink::OpenNetlink());
    return netlink::DeleteLinkSoon(std::move(requester), *root, *root_end);
  }
  absl::StatusOr<sys::NetnsRef> pod = sys::NetnsRef::Open(netns_path);
  if (!pod.ok()) return absl::IsNotFound(pod.status()) ? absl::OkStatus() : pod.status();
  return sys::InNetns(*pod, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> pod_netlink, netlink::OpenNetlink());
    HK_ASSIGN_OR_RETURN(std::optional<Link> pod_end, FindIfThere(*pod_netlink, owner.ifname));
    if (!pod_end || pod_end->kind != "veth" || !IsOurs(*pod_end, owner.ToAlias())) return absl::OkStatus();
    return pod_netlink->Do(netlink::DeleteLink{pod_end->index}, kAbsent);
  });
}

absl::StatusOr<std::vector<pu::OwnerTag>> ListUplinks(const std::string& instance) {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> root, netlink::OpenNetlink());
  HK_ASSIGN_OR_RETURN(std::vector<Link> links, root->Links());
  std::set<pu::OwnerTag> tags;
  for (const Link& link : links) {
    absl::StatusOr<pu::OwnerTag> tag = pu::OwnerTag::FromAlias(link.alias);
    if (!tag.ok() || tag->instance != instance) continue;
    // An ifb without its uplink is an orphan too: it outlives a namespace that is removed under us.
    if (HasName(link, pu::InterfaceName(*tag, 'u')) || link.name == pu::InterfaceName(*tag, 'b')) tags.insert(*tag);
  }
  return std::vector<pu::OwnerTag>(tags.begin(), tags.end());
}

}  // namespace heterok8s::podnet
