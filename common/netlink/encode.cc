#include "common/netlink/encode.h"

#include <fmt/format.h>
#include <linux/fib_rules.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <cstdio>

namespace heterok8s::netlink {
namespace {

constexpr int kAdd = NLM_F_CREATE | NLM_F_EXCL;
constexpr int kReplace = NLM_F_CREATE | NLM_F_REPLACE;

absl::Status EncodeAddress(int type, int flags, const Address& address, std::vector<Request>& out) {
  ifaddrmsg header{};
  header.ifa_family = FamilyNumber(address.prefix.address.family);
  header.ifa_prefixlen = address.prefix.length;
  header.ifa_scope = static_cast<uint8_t>(address.scope);
  header.ifa_index = address.link;
  nl_msg* message = NewRequest(out, type, flags, header);
  PutIp(message, IFA_LOCAL, address.prefix.address);
  PutIp(message, IFA_ADDRESS, address.prefix.address);
  uint32_t address_flags = (address.no_dad ? IFA_F_NODAD : 0) | (address.no_prefix_route ? IFA_F_NOPREFIXROUTE : 0);
  nla_put_u32(message, IFA_FLAGS, address_flags);
  return absl::OkStatus();
}

absl::Status EncodeRoute(int type, int flags, const Route& route, std::vector<Request>& out) {
  Family family = route.destination.address.family;
  for (const auto& other : {route.via, route.source}) {
    if (other && other->family != family) {
      return absl::InvalidArgumentError(fmt::format("'{}' is of the other family", other->ToString()));
    }
  }
  bool remove = type == RTM_DELROUTE;
  rtmsg header{};
  header.rtm_family = FamilyNumber(family);
  header.rtm_dst_len = route.destination.length;
  header.rtm_table = route.table < 256 ? route.table : RT_TABLE_UNSPEC;
  // Nowhere, no protocol and no type match everything when a route is deleted.
  header.rtm_scope = remove ? RT_SCOPE_NOWHERE : family == Family::kV4 ? static_cast<uint8_t>(route.scope) : 0;
  header.rtm_protocol = remove ? 0 : route.protocol;
  header.rtm_type = remove ? 0 : static_cast<uint8_t>(route.type);
  header.rtm_flags = !remove && route.onlink ? RTNH_F_ONLINK : 0;
  nl_msg* message = NewRequest(out, type, flags, header);
  if (route.destination.length > 0) PutIp(message, RTA_DST, route.destination.address);
  nla_put_u32(message, RTA_TABLE, route.table);
  if (route.link != 0) nla_put_u32(message, RTA_OIF, route.link);
  if (route.via) PutIp(message, RTA_GATEWAY, *route.via);
  if (route.metric != 0) nla_put_u32(message, RTA_PRIORITY, route.metric);
  if (!remove && route.source) PutIp(message, RTA_PREFSRC, *route.source);
  if (!remove && route.mtu != 0) {
    nlattr* metrics = nla_nest_start(message, RTA_METRICS);
    nla_put_u32(message, RTAX_MTU, route.mtu);
    nla_nest_end(message, metrics);
  }
  return absl::OkStatus();
}

absl::Status EncodeRule(int type, int flags, const Rule& rule, std::vector<Request>& out) {
  fib_rule_hdr header{};
  header.family = FamilyNumber(rule.family);
  header.table = rule.table < 256 ? rule.table : RT_TABLE_UNSPEC;
  header.action = FR_ACT_TO_TBL;
  nl_msg* message = NewRequest(out, type, flags, header);
  nla_put_u32(message, FRA_PRIORITY, rule.priority);
  nla_put_u32(message, FRA_TABLE, rule.table);
  if (rule.fwmark) {
    nla_put_u32(message, FRA_FWMARK, *rule.fwmark);
    nla_put_u32(message, FRA_FWMASK, rule.fwmask);
  }
  if (!rule.iif.empty()) nla_put_string(message, FRA_IIFNAME, rule.iif.c_str());
  // Not when deleting: the kernel's own rule for the local table has another protocol.
  if (type == RTM_NEWRULE) nla_put_u8(message, FRA_PROTOCOL, kOurProtocol);
  return absl::OkStatus();
}

absl::Status EncodeNeighbor(int type, int flags, const Neighbor& neighbor, std::vector<Request>& out) {
  ndmsg header{};
  header.ndm_family = FamilyNumber(neighbor.address.family);
  header.ndm_ifindex = neighbor.link;
  header.ndm_state = type == RTM_NEWNEIGH ? NUD_PERMANENT : 0;
  nl_msg* message = NewRequest(out, type, flags, header);
  PutIp(message, NDA_DST, neighbor.address);
  return type == RTM_NEWNEIGH ? PutMac(message, NDA_LLADDR, neighbor.mac) : absl::OkStatus();
}

struct Encoder {
  std::vector<Request>& out;

  absl::Status operator()(const AddAddress& c) { return EncodeAddress(RTM_NEWADDR, kAdd, c.address, out); }
  absl::Status operator()(const ReplaceAddress& c) { return EncodeAddress(RTM_NEWADDR, kReplace, c.address, out); }
  absl::Status operator()(const DeleteAddress& c) { return EncodeAddress(RTM_DELADDR, 0, c.address, out); }
  absl::Status operator()(const AddRoute& c) { return EncodeRoute(RTM_NEWROUTE, kAdd, c.route, out); }
  absl::Status operator()(const ReplaceRoute& c) { return EncodeRoute(RTM_NEWROUTE, kReplace, c.route, out); }
  absl::Status operator()(const DeleteRoute& c) { return EncodeRoute(RTM_DELROUTE, 0, c.route, out); }
  absl::Status operator()(const AddRule& c) { return EncodeRule(RTM_NEWRULE, kAdd, c.rule, out); }
  absl::Status operator()(const DeleteRule& c) { return EncodeRule(RTM_DELRULE, 0, c.rule, out); }
  absl::Status operator()(const ReplaceNeighbor& c) { return EncodeNeighbor(RTM_NEWNEIGH, kReplace, c.neighbor, out); }
  absl::Status operator()(const DeleteNeighbor& c) { return EncodeNeighbor(RTM_DELNEIGH, 0, c.neighbor, out); }
  absl::Status operator()(const ReplaceTbf& c) { return EncodeQueue(c, out); }
  absl::Status operator()(const DeleteRootQueue& c) { return EncodeQueue(c, out); }
  absl::Status operator()(const AddRedirect& c) { return EncodeQueue(c, out); }
  absl::Status operator()(const DeleteRedirect& c) { return EncodeQueue(c, out); }
  template <typename LinkChange>
  absl::Status operator()(const LinkChange& c) {
    return EncodeLink(c, out);
  }
};

}  // namespace

int FamilyNumber(Family family) { return family == Family::kV4 ? AF_INET : AF_INET6; }

absl::Status PutMac(nl_msg* message, int attribute, const std::string& mac) {
  unsigned part[6];
  int used = 0;
  if (std::sscanf(mac.c_str(), "%2x:%2x:%2x:%2x:%2x:%2x%n", &part[0], &part[1], &part[2], &part[3], &part[4], &part[5],
                  &used) != 6 ||
      static_cast<size_t>(used) != mac.size()) {
    return absl::InvalidArgumentError(fmt::format("'{}' is not a MAC address", mac));
  }
  uint8_t bytes[6];
  for (int i = 0; i < 6; ++i) bytes[i] = static_cast<uint8_t>(part[i]);
  nla_put(message, attribute, sizeof bytes, bytes);
  return absl::OkStatus();
}

void PutIp(nl_msg* message, int attribute, const IpAddress& address) {
  nla_put(message, attribute, static_cast<int>(address.size()), address.bytes.data());
}

absl::Status Encode(const Change& change, std::vector<Request>& out) { return std::visit(Encoder{out}, change); }

}  // namespace heterok8s::netlink
