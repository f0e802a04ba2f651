#include "node-agent/podnet/spare_uplink.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "common/netlink/libnl_netlink.h"
#include "common/sys/file.h"

namespace heterok8s::podnet {
namespace {

using netlink::Batch;
using netlink::Link;
using netlink::Netlink;
using netlink::SetLink;

constexpr char kPodName[] = "eth0";
constexpr char kSpareAlias[] = "heterok8s:spare";  // no owner's tag: those have three parts

// No two live namespaces have the same, and "hku" is what the root table's guard goes by. Never an owner's name: an
// 's' is no hexadecimal digit.
std::string RootName(const sys::NetnsRef& spare) { return fmt::format("hkus{:x}", spare.inode()); }

// What an end needs whoever will have it.
absl::Status Furnish(Netlink& netlink, const std::string& name, std::optional<std::string> alias) {
  HK_ASSIGN_OR_RETURN(Link link, netlink.FindLink(name));
  SetLink set{.link = link.index, .alias = std::move(alias), .no_link_local = link.inet6.has_value()};
  return set.alias || set.no_link_local ? netlink.Do(set) : absl::OkStatus();
}

}  // namespace

absl::Status MakeSpareUplink(const sys::NetnsRef& spare) {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> root, netlink::OpenNetlink());
  const std::string root_name = RootName(spare);
  HK_RETURN_IF_ERROR(
      root->Do(netlink::AddVeth{.end = {.name = root_name}, .peer = {.name = kPodName, .netns_fd = spare.fd()}}));
  HK_RETURN_IF_ERROR(Furnish(*root, root_name, std::nullopt));
  return sys::InNetns(spare, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> pod, netlink::OpenNetlink());
    HK_RETURN_IF_ERROR(Furnish(*pod, kPodName, kSpareAlias));
    absl::Status set = sys::SetSysctl(fmt::format("net/ipv6/conf/{}/accept_ra", kPodName), "0");
    return absl::IsNotFound(set) ? absl::OkStatus() : set;  // a kernel without IPv6
  });
}

absl::StatusOr<std::optional<UplinkPair>> TakeSpareUplink(Netlink& root, Netlink& pod_netlink, const sys::NetnsRef& pod,
                                                          const UplinkSpec& spec, const UplinkPlan& plan) {
  constexpr std::optional<UplinkPair> kNone;
  HK_ASSIGN_OR_RETURN(std::optional<Link> pod_end, FindIfThere(pod_netlink, kPodName));
  if (!pod_end || pod_end->alias != kSpareAlias) return kNone;
  HK_ASSIGN_OR_RETURN(std::optional<Link> root_end, FindIfThere(root, RootName(pod)));
  if (!root_end || root_end->peer_index != pod_end->index) return kNone;

  absl::Status named = absl::AlreadyExistsError("another name is wanted");
  if (spec.ifname == kPodName) {
    const auto& names = root_end->altnames;
    Batch batch;
    if (std::find(names.begin(), names.end(), plan.root_name) == names.end()) {
      batch.Add(netlink::AddAltName{root_end->index, plan.root_name});
    }
    batch.Add(SetLink{.link = root_end->index, .alias = plan.alias});
    named = root.Apply(batch);
  }
  if (named.ok()) {
    root_end->alias = plan.alias;
    return std::optional(UplinkPair{.root = *std::move(root_end), .pod = *std::move(pod_end), .fresh = true});
  }
  // It would be in the way of the one that is made instead.
  HK_RETURN_IF_ERROR(root.Do(netlink::DeleteLink{root_end->index}, absl::StatusCode::kNotFound));
  // Alternative names came with Linux 5.5.
  if (absl::IsAlreadyExists(named) || absl::IsUnimplemented(named)) return kNone;
  return named;
}

}  // namespace heterok8s::podnet
