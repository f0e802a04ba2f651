#include "node-agent/podnet/hostports.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <mutex>
#include <string_view>

#include "common/netfilter/conntrack.h"
#include "common/netfilter/counters.h"
#include "common/netfilter/libnftables_nft.h"
#include "common/netlink/libnl_netlink.h"
#include "node-agent/podnet/hostport_table.h"
#include "node-agent/podnet/loopback_ways.h"

namespace heterok8s::podnet {
namespace {

using netfilter::Nft;
using netlink::Netlink;

constexpr std::string_view kFamily = "inet ";  // of our table

constexpr char kIpvsDevice[] = "kube-ipvs0";  // pkg/proxy/ipvs, defaultDummyDevice

// Between reading who has a port and taking it nobody else may. Only heterod changes the table, so a lock of this
// process is enough.
std::mutex& TableLock() {
  static std::mutex lock;
  return lock;
}

// The same in every build: the table of an earlier heterod is found by it.
uint32_t Fnv1a(const std::string& text) {
  uint32_t hash = 2166136261u;
  for (unsigned char c : text) hash = (hash ^ c) * 16777619u;
  return hash;
}

absl::Status Apply(Nft& nft, const HostPortChange& change) {
  if (change.script.empty()) return absl::OkStatus();
  HK_RETURN_IF_ERROR(nft.Run(change.script));
  for (const HostPort& port : change.affected) {
    if (port.protocol != Protocol::kUdp) continue;
    std::optional<IpAddress> to = port.host_ip;
    HK_RETURN_IF_ERROR(
        netfilter::DeleteFlows({.protocol = Protocol::kUdp, .destination = to, .port = port.host_port}).status());
  }
  return absl::OkStatus();
}

absl::Status Ensure(const std::string& table, const HostPortSpec& spec) {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Nft> nft, netfilter::OpenNft());
  std::lock_guard lock(TableLock());
  // First: without the table there is no guard, and then nothing is served on localhost.
  HK_ASSIGN_OR_RETURN(HostPortElements present, nft->AllElements(table));
  if (spec.ports.empty()) {
    HK_ASSIGN_OR_RETURN(HostPortChange change, PlanHostPorts(table, present, spec, false));
    HK_RETURN_IF_ERROR(Apply(*nft, change));
    return LeaveLoopback(*nft, table, present);
  }
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> netlink, netlink::OpenNetlink());
  HK_ASSIGN_OR_RETURN(WayToPod way, FindWay(*netlink, spec));
  HK_ASSIGN_OR_RETURN(HostPortChange change, PlanHostPorts(table, present, spec, !way.own_interface));
  HK_ASSIGN_OR_RETURN(const std::string mark, MarkLoopback(table, present, spec, way));
  change.script += mark;
  HK_RETURN_IF_ERROR(Apply(*nft, change));
  return ServeLoopback(*netlink, spec, way);
}

}  // namespace

std::string HostPortTable(const std::string& instance) {
  std::string name = instance;
  std::replace_if(
      name.begin(), name.end(), [](unsigned char c) { return !std::isalnum(c); }, '_');
  // Two instances that differ only in what an nft name cannot hold stay apart.
  if (name != instance) name += fmt::format("_{:08x}", Fnv1a(instance));
  return fmt::format("{}heterok8s_{}", kFamily, name);
}

absl::StatusOr<std::vector<IpAddress>> NodeAddresses() {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> netlink, netlink::OpenNetlink());
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Link> links, netlink->Links());
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Address> addresses, netlink->Addresses(0));
  std::vector<IpAddress> found;
  for (const netlink::Address& address : addresses) {
    auto link = std::find_if(links.begin(), links.end(), [&](const auto& l) { return l.index == address.link; });
    const bool to_pod = link != links.end() && pu::OwnerTag::FromAlias(link->alias).ok();
    const bool of_services = link != links.end() && link->name == kIpvsDevice;
    if (!to_pod && !of_services && address.scope == netlink::Scope::kGlobal && !address.prefix.address.is_loopback())
      found.push_back(address.prefix.address);
  }
  return found;
}

absl::StatusOr<std::map<std::string, uint64_t>> ReadRefusedInRoot(const std::string& instance) {
  HK_ASSIGN_OR_RETURN(auto counters, netfilter::ReadCounters(HostPortTable(instance).substr(kFamily.size())));
  std::map<std::string, uint64_t> refused;
  for (const auto& [reason, counter] : counters) refused[reason] = counter.packets;
  return refused;
}

absl::Status PrepareHostPorts(const std::string& instance, const RootGuard& guard) {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Nft> nft, netfilter::OpenNft());
  return Annotate(nft->Run(HostPortTableScript(HostPortTable(instance), guard)), "make the host port table");
}

absl::Status EnsureHostPorts(const std::string& instance, const HostPortSpec& spec) {
  if (spec.empty()) return RemoveHostPorts(instance, spec.pod_key);
  return Annotate(Ensure(HostPortTable(instance), spec), fmt::format("host ports of {}", spec.pod_key));
}

absl::Status CheckHostPorts(const std::string& instance, const HostPortSpec& spec) {
  const std::string table = HostPortTable(instance);
  auto differs = [&](const std::string& what) {
    return absl::FailedPreconditionError(fmt::format("host ports of {}: {}", spec.pod_key, what));
  };
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Nft> nft, netfilter::OpenNft());
  absl::StatusOr<HostPortElements> present = nft->AllElements(table);
  if (absl::IsNotFound(present.status())) return differs(fmt::format("table {} is missing", table));
  HK_RETURN_IF_ERROR(present.status());
  WayToPod way;
  if (!spec.ports.empty()) {
    HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> netlink, netlink::OpenNetlink());
    HK_ASSIGN_OR_RETURN(way, FindWay(*netlink, spec));
  }
  absl::StatusOr<HostPortChange> change = PlanHostPorts(table, *present, spec, !way.own_interface);
  if (!change.ok()) return differs(Message(change.status()));
  if (change->script.empty()) return absl::OkStatus();
  return differs(fmt::format("the table wants '{}'", change->script.substr(0, change->script.find('\n'))));
}

absl::Status RemoveHostPorts(const std::string& instance, const std::string& pod_key) {
  std::string table = HostPortTable(instance);
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Nft> nft, netfilter::OpenNft());
  std::lock_guard lock(TableLock());
  absl::StatusOr<HostPortElements> present = nft->AllElements(table);
  if (present.status().code() == absl::StatusCode::kNotFound) return absl::OkStatus();
  HK_RETURN_IF_ERROR(present.status());
  HK_ASSIGN_OR_RETURN(HostPortChange change, PlanHostPorts(table, *present, {.pod_key = pod_key}, false));
  absl::Status removed = Apply(*nft, change);
  if (removed.ok()) removed = LeaveLoopback(*nft, table, *present);
  return Annotate(removed, fmt::format("remove host ports of {}", pod_key));
}

}  // namespace heterok8s::podnet
