// CheckLink: the wanted state against the kernel's, first difference as the error's text.
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <sstream>
#include <thread>

#include "common/netfilter/libnftables_nft.h"
#include "common/netfilter/probe.h"
#include "common/netlink/libnl_netlink.h"
#include "common/sys/file.h"
#include "node-agent/podnet/link.h"
#include "node-agent/podnet/link_plan.h"
#include "node-agent/podnet/link_table.h"

namespace heterok8s::podnet {
namespace {

using netlink::Netlink;

template <typename... Args>
absl::Status Differs(fmt::format_string<Args...> format, Args&&... args) {
  return absl::FailedPreconditionError(fmt::format(format, std::forward<Args>(args)...));
}

template <typename T, typename Match>
bool Has(const std::vector<T>& present, Match match) {
  return std::any_of(present.begin(), present.end(), match);
}

absl::Status CheckDevice(const LinkSpec& spec, const netlink::Link& link) {
  if (link.alias != spec.owner.ToAlias()) return Differs("'{}' has alias '{}'", spec.ifname, link.alias);
  if (!link.up) return Differs("'{}' is down", spec.ifname);
  if (link.mtu != spec.mtu) return Differs("'{}' has MTU {}, wanted {}", spec.ifname, link.mtu, spec.mtu);
  if (link.mac != spec.mac) return Differs("'{}' has MAC {}, wanted {}", spec.ifname, link.mac, spec.mac);
  return absl::OkStatus();
}

absl::Status CheckAddresses(Netlink& netlink, const LinkSpec& spec, const LinkPlan& plan, int link) {
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Address> addresses, netlink.Addresses(link));
  for (const netlink::Address& wanted : plan.addresses) {
    if (!Has(addresses, [&](const netlink::Address& a) { return a.prefix == wanted.prefix; })) {
      return Differs("address {} is missing on '{}'", wanted.prefix.ToString(), spec.ifname);
    }
  }
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Neighbor> neighbors, netlink.Neighbors(link));
  for (const netlink::Neighbor& wanted : plan.neighbors) {
    if (!Has(neighbors, [&](const netlink::Neighbor& n) { return n == wanted; })) {
      return Differs("neighbour {} at {} is missing on '{}'", wanted.address.ToString(), wanted.mac, spec.ifname);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRouting(Netlink& netlink, const LinkSpec& spec, const LinkPlan& plan) {
  for (uint32_t table : {netlink::kTableMain, netlink::kTableLocal, kOtherSideTable}) {
    HK_ASSIGN_OR_RETURN(std::vector<netlink::Route> routes, netlink.Routes(table));
    for (const netlink::Route& wanted : plan.routes) {
      if (wanted.table != table) continue;
      if (!Has(routes, [&](const netlink::Route& r) {
            return r.destination == wanted.destination && r.link == wanted.link && r.via == wanted.via &&
                   r.mtu == wanted.mtu && (!wanted.source || r.source == wanted.source);
          })) {
        return Differs("route to {} over '{}' is missing in table {}", wanted.destination.ToString(), spec.ifname,
                       table);
      }
    }
  }
  for (Family family : {Family::kV4, Family::kV6}) {
    HK_ASSIGN_OR_RETURN(std::vector<netlink::Rule> rules, netlink.Rules(family));
    auto present = [&](const netlink::Rule& wanted) {
      return Has(rules, [&](const netlink::Rule& r) {
        return r.priority == wanted.priority && r.table == wanted.table && r.fwmark == wanted.fwmark;
      });
    };
    int version = static_cast<int>(family);
    for (const netlink::Rule& wanted : plan.rules) {
      if (wanted.family == family && !present(wanted)) {
        return Differs("IPv{} rule {} for table {} is missing", version, wanted.priority, wanted.table);
      }
    }
    for (const netlink::Rule& unwanted : plan.absent_rules) {
      if (unwanted.family == family && present(unwanted)) {
        return Differs("IPv{} rule {} for table {} is back", version, unwanted.priority, unwanted.table);
      }
    }
  }
  return absl::OkStatus();
}

// /proc/sys shows a pair of numbers with a tab between them.
std::string Normalized(std::string text) {
  std::replace(text.begin(), text.end(), '\t', ' ');
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

absl::Status CheckSysctls(const LinkPlan& plan) {
  std::vector<std::pair<std::string, std::string>> sysctls = plan.sysctls;
  sysctls.insert(sysctls.end(), plan.uplink_sysctls.begin(), plan.uplink_sysctls.end());
  for (const auto& [name, wanted] : sysctls) {
    HK_ASSIGN_OR_RETURN(std::string text, sys::ReadFile("/proc/sys/" + name));
    if (Normalized(text) != wanted) return Differs("{} is '{}', wanted '{}'", name, Normalized(text), wanted);
  }
  return absl::OkStatus();
}

// What the kernel shows after loading the script: it prints rules in words of its own, so the wanted text can only come
// from the same printer. A namespace that nobody else sees is the paper to print on.
absl::StatusOr<std::string> WantedTable(const LinkSpec& spec) {
  absl::StatusOr<std::string> printed = absl::InternalError("not run");
  std::thread worker([&] {
    if (unshare(CLONE_NEWNET) != 0) {
      printed = ErrnoToStatus(errno, "make a network namespace to compare nft tables in");
      return;
    }
    auto print = [&]() -> absl::StatusOr<std::string> {
      HK_ASSIGN_OR_RETURN(std::unique_ptr<netfilter::Nft> nft, netfilter::OpenNft());
      HK_ASSIGN_OR_RETURN(bool has_socket_match, netfilter::HasSocketMatch());
      HK_RETURN_IF_ERROR(nft->Run(LinkTableScript(spec, has_socket_match)));
      return nft->Print(kPodTable);
    };
    printed = print();
  });
  worker.join();
  return printed;
}

absl::Status CheckTable(const LinkSpec& spec) {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<netfilter::Nft> nft, netfilter::OpenNft());
  absl::StatusOr<std::string> present = nft->Print(kPodTable);
  if (present.status().code() == absl::StatusCode::kNotFound) return Differs("table {} is missing", kPodTable);
  HK_RETURN_IF_ERROR(present.status());
  HK_ASSIGN_OR_RETURN(std::string wanted, WantedTable(spec));
  std::istringstream present_lines(*present), wanted_lines(wanted);
  std::string is, should;
  while (true) {
    bool more_present = static_cast<bool>(std::getline(present_lines, is));
    bool more_wanted = static_cast<bool>(std::getline(wanted_lines, should));
    if (!more_present && !more_wanted) return absl::OkStatus();
    if (!more_present) is = "(nothing)";
    if (!more_wanted) should = "(nothing)";
    if (is != should) return Differs("table {} has '{}' where '{}' is wanted", kPodTable, is, should);
  }
}

absl::Status Check(const LinkSpec& spec) {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> netlink, netlink::OpenNetlink());
  absl::StatusOr<netlink::Link> link = netlink->FindLink(spec.ifname);
  if (link.status().code() == absl::StatusCode::kNotFound) return Differs("interface '{}' is missing", spec.ifname);
  HK_RETURN_IF_ERROR(link.status());
  LinkPlan plan = PlanLink(spec, link->index);
  HK_RETURN_IF_ERROR(CheckDevice(spec, *link));
  HK_RETURN_IF_ERROR(CheckAddresses(*netlink, spec, plan, link->index));
  HK_RETURN_IF_ERROR(CheckRouting(*netlink, spec, plan));
  HK_RETURN_IF_ERROR(CheckSysctls(plan));
  return CheckTable(spec);
}

}  // namespace

absl::Status CheckLink(const LinkSpec& spec) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(spec.netns_path));
  return Annotate(sys::InNetns(ns, [&] { return Check(spec); }), fmt::format("check link '{}'", spec.ifname));
}

}  // namespace heterok8s::podnet
