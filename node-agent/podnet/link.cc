#include "node-agent/podnet/link.h"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "common/netfilter/counters.h"
#include "common/netfilter/libnftables_nft.h"
#include "common/netfilter/nft_script.h"
#include "common/netfilter/port_set.h"
#include "common/netfilter/probe.h"
#include "common/netlink/libnl_netlink.h"
#include "common/sys/file.h"
#include "node-agent/podnet/link_plan.h"
#include "node-agent/podnet/link_table.h"

namespace heterok8s::podnet {
namespace {

using absl::StatusCode;
using netfilter::HasSocketMatch;
using netfilter::Nft;
using netfilter::OpenNft;
using netlink::Netlink;

constexpr char kLinkName[] = "xpu0";

absl::StatusOr<netlink::Link> FindOurs(Netlink& netlink, const LinkSpec& spec) {
  HK_ASSIGN_OR_RETURN(netlink::Link link, netlink.FindLink(spec.ifname));
  if (link.alias != spec.owner.ToAlias()) {
    return absl::AlreadyExistsError(fmt::format("interface '{}' is there but not ours: alias '{}', wanted '{}'",
                                                spec.ifname, link.alias, spec.owner.ToAlias()));
  }
  return link;
}

void SetUp(const LinkSpec& spec, const netlink::Link& link, netlink::Batch& batch) {
  // route_localnet: what a socket bound to 127.0.0.1 sends may leave by the link; the table is the guard.
  netlink::SetLink set{
      .link = link.index, .up = true, .inet4 = {{.rp_filter = 0, .accept_local = 1, .route_localnet = 1}}};
  set.no_link_local = true;
  if (link.mac != spec.mac) set.mac = spec.mac;
  if (link.mtu != spec.mtu) set.mtu = spec.mtu;
  batch.Add(set);
  bool named =
      link.name == kLinkName || std::find(link.altnames.begin(), link.altnames.end(), kLinkName) != link.altnames.end();
  if (!named) batch.Add(netlink::AddAltName{link.index, kLinkName});
}

// From an earlier life of the namespace: other link addresses, another Pod address, an automatic fe80::.
absl::Status DropOtherAddresses(Netlink& netlink, const LinkPlan& plan, int link, netlink::Batch& batch) {
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Address> present, netlink.Addresses(link));
  for (const netlink::Address& address : present) {
    bool wanted = std::any_of(plan.addresses.begin(), plan.addresses.end(),
                              [&](const netlink::Address& a) { return a.prefix == address.prefix; });
    if (!wanted) batch.Add(netlink::DeleteAddress{address}, StatusCode::kNotFound);
  }
  return absl::OkStatus();
}

absl::Status Guard(const LinkSpec& spec) {
  HK_ASSIGN_OR_RETURN(bool has_socket_match, HasSocketMatch());
  HK_RETURN_IF_ERROR(netfilter::RunScript(LinkTableScript(spec, has_socket_match)));
  for (const auto& [name, value] : PlanLink(spec, 0).sysctls) HK_RETURN_IF_ERROR(sys::EnsureSysctl(name, value));
  return absl::OkStatus();
}

absl::Status Ensure(const LinkSpec& spec, Guards guards) {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> netlink, netlink::OpenNetlink());
  HK_ASSIGN_OR_RETURN(netlink::Link link, FindOurs(*netlink, spec));
  LinkPlan plan = PlanLink(spec, link.index);
  // They are there before the device is up.
  if (guards == Guards::kEnsure) HK_RETURN_IF_ERROR(Guard(spec));
  for (const auto& [name, value] : plan.uplink_sysctls) HK_RETURN_IF_ERROR(sys::SetSysctl(name, value));

  netlink::Batch batch;
  SetUp(spec, link, batch);
  HK_RETURN_IF_ERROR(DropOtherAddresses(*netlink, plan, link.index, batch));
  for (const netlink::Address& address : plan.addresses) batch.Add(netlink::ReplaceAddress{address});
  for (const netlink::Neighbor& neighbor : plan.neighbors) batch.Add(netlink::ReplaceNeighbor{neighbor});
  for (const netlink::Route& route : plan.routes) batch.Add(netlink::ReplaceRoute{route});
  // The new rule for `local` before the old one goes: without one the Pod would not know its own addresses.
  for (const netlink::Rule& rule : plan.rules) batch.Add(netlink::AddRule{rule}, StatusCode::kAlreadyExists);
  for (const netlink::Rule& rule : plan.absent_rules) batch.Add(netlink::DeleteRule{rule}, StatusCode::kNotFound);
  return netlink->Apply(batch);
}

absl::Status Remove(const LinkSpec& spec) {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> netlink, netlink::OpenNetlink());
  absl::StatusOr<netlink::Link> link = netlink->FindLink(spec.ifname);
  if (!link.ok() && link.status().code() != StatusCode::kNotFound) return link.status();
  bool ours = link.ok() && link->alias == spec.owner.ToAlias();
  // The runtime has made another Pod's namespace at this path, and the guards are that one's.
  if (link.ok() && !ours && pu::OwnerTag::FromAlias(link->alias).ok()) return absl::OkStatus();
  if (ours) {  // before the table that guards it
    HK_RETURN_IF_ERROR(netlink->Do(netlink::SetLink{.link = link->index, .inet4 = {{.route_localnet = 0}}}));
  }
  HK_RETURN_IF_ERROR(netfilter::RunScript(RemoveLinkTableScript()));
  LinkPlan plan = PlanLink(spec, ours ? link->index : 0);

  netlink::Batch batch;
  for (const netlink::Rule& rule : plan.absent_rules) batch.Add(netlink::AddRule{rule}, StatusCode::kAlreadyExists);
  for (const netlink::Rule& rule : plan.rules) batch.Add(netlink::DeleteRule{rule}, StatusCode::kNotFound);
  if (ours) {  // otherwise its routes, addresses and neighbours went with it
    for (const netlink::Route& route : plan.routes) batch.Add(netlink::DeleteRoute{route}, StatusCode::kNotFound);
    for (const netlink::Neighbor& n : plan.neighbors) batch.Add(netlink::DeleteNeighbor{n}, StatusCode::kNotFound);
    for (const netlink::Address& a : plan.addresses) batch.Add(netlink::DeleteAddress{a}, StatusCode::kNotFound);
  }
  HK_RETURN_IF_ERROR(netlink->Apply(batch));
  for (const auto& [name, value] : UnsplitSysctls(spec)) HK_RETURN_IF_ERROR(sys::SetSysctl(name, value));
  return absl::OkStatus();
}

std::string Context(const LinkSpec& spec, const char* verb) {
  return fmt::format("{} link '{}' of {} in '{}'", verb, spec.ifname, spec.owner.pod_key, spec.netns_path);
}

}  // namespace

absl::Status SetDpuNetnsSysctls(const sys::NetnsRef& ns) {
  return sys::InNetns(ns, []() -> absl::Status {
    for (const auto& [name, value] : DpuNetnsSysctls()) HK_RETURN_IF_ERROR(sys::EnsureSysctl(name, value));
    return absl::OkStatus();
  });
}

absl::Status EnsureGuards(const LinkSpec& spec) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(spec.netns_path));
  return Annotate(sys::InNetns(ns, [&] { return Guard(spec); }), Context(spec, "guard"));
}

absl::Status EnsureLink(const LinkSpec& spec, Guards guards) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(spec.netns_path));
  return Annotate(sys::InNetns(ns, [&] { return Ensure(spec, guards); }), Context(spec, "wire"));
}

absl::Status AwaitLink(const LinkSpec& spec, std::chrono::milliseconds timeout) {
  using Clock = std::chrono::steady_clock;
  constexpr auto kLongestPause = std::chrono::microseconds(20000);
  const auto deadline = Clock::now() + timeout;
  HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(spec.netns_path));
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> netlink, netlink::OpenNetlinkIn(ns));
  auto pause = std::chrono::microseconds(200);
  netlink::Link link;
  while (true) {
    HK_ASSIGN_OR_RETURN(link, FindOurs(*netlink, spec));
    if (link.running) break;
    if (Clock::now() >= deadline) {
      return absl::DeadlineExceededError(
          fmt::format("{}: its other end is not up after {} ms", Context(spec, "await"), timeout.count()));
    }
    std::this_thread::sleep_for(pause);
    pause = std::min(pause * 2, kLongestPause);
  }
  HK_RETURN_IF_ERROR(netlink->SyncCarrier(spec.ifname));  // only now: it may have come up first
  std::vector<IpAddress> addresses;
  for (const netlink::Address& address : PlanLink(spec, link.index).addresses) {
    addresses.push_back(address.prefix.address);
  }
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
  return Annotate(
      netlink::WaitForLocalRoutes(*netlink, link.index, addresses, std::max(left, std::chrono::milliseconds(0))),
      Context(spec, "await"));
}

absl::Status RemoveLink(const LinkSpec& spec) {
  absl::StatusOr<sys::NetnsRef> ns = sys::NetnsRef::Open(spec.netns_path);
  if (ns.status().code() == StatusCode::kNotFound) return absl::OkStatus();
  HK_RETURN_IF_ERROR(ns.status());
  return Annotate(sys::InNetns(*ns, [&] { return Remove(spec); }), Context(spec, "unwire"));
}

absl::Status SetPort(const LinkSpec& spec, Protocol protocol, uint16_t port, bool present) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(spec.netns_path));
  absl::Status set = netfilter::SetPortElement(ns, {kPodTableName, kPortSet}, protocol, port, present);
  return Annotate(
      set, fmt::format("{} port {} {} of {}", present ? "steer" : "release", Name(protocol), port, spec.owner.pod_key));
}

absl::Status ReplacePorts(const LinkSpec& spec, const std::vector<std::pair<Protocol, uint16_t>>& ports) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(spec.netns_path));
  absl::Status set = netfilter::ReplacePortElements(ns, {kPodTableName, kPortSet}, ports);
  return Annotate(set, fmt::format("steer {} ports of {}", ports.size(), spec.owner.pod_key));
}

absl::StatusOr<std::map<std::string, netfilter::NftCounter>> ReadLinkCounters(const std::string& netns_path) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(netns_path));
  std::map<std::string, netfilter::NftCounter> counters;
  HK_RETURN_IF_ERROR(sys::InNetns(ns, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(counters, netfilter::ReadCounters(kPodTableName));
    return absl::OkStatus();
  }));
  return counters;
}

}  // namespace heterok8s::podnet
