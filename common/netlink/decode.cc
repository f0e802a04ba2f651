#include "common/netlink/decode.h"

#include <fmt/format.h>
#include <linux/fib_rules.h>
#include <linux/if.h>
#include <linux/if_link.h>
#include <linux/ipv6.h>
#include <linux/neighbour.h>
#include <linux/pkt_cls.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/tc_act/tc_mirred.h>
#include <netlink/msg.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

namespace heterok8s::netlink {
namespace {

constexpr uint32_t kV6DefaultMetric = 1024;  // IP6_RT_PRIO_USER: what the kernel makes of "no metric"

// Attributes of one level. Ones with a greater number than any we ask for are skipped, missing ones read as absent.
class Attributes {
 public:
  Attributes(nlattr* head, int length) { nla_parse(table_.data(), kMax, head, length, nullptr); }
  explicit Attributes(nlattr* nest) : Attributes(static_cast<nlattr*>(nla_data(nest)), nla_len(nest)) {}

  nlattr* operator[](int id) const { return table_[id]; }
  uint32_t U32(int id, uint32_t absent = 0) const {
    return table_[id] != nullptr && nla_len(table_[id]) >= 4 ? nla_get_u32(table_[id]) : absent;
  }
  std::string Text(int id) const { return table_[id] != nullptr ? TextOf(table_[id]) : ""; }
  static std::string TextOf(nlattr* attribute) {
    const char* text = static_cast<const char*>(nla_data(attribute));
    return std::string(text, strnlen(text, nla_len(attribute)));
  }

 private:
  static constexpr int kMax = 79;
  static_assert(kMax >= IFLA_MAX && kMax >= AF_MAX && kMax >= RTA_MAX);
  std::array<nlattr*, kMax + 1> table_{};
};

template <typename Header>
std::pair<Header*, Attributes> Open(nlmsghdr* message) {
  return {static_cast<Header*>(nlmsg_data(message)),
          Attributes(nlmsg_attrdata(message, sizeof(Header)), nlmsg_attrlen(message, sizeof(Header)))};
}

std::string MacOf(nlattr* attribute) {
  if (attribute == nullptr || nla_len(attribute) != 6) return "";
  const auto* b = static_cast<const uint8_t*>(nla_data(attribute));
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", b[0], b[1], b[2], b[3], b[4], b[5]);
}

std::optional<IpAddress> IpOf(int family, nlattr* attribute) {
  IpAddress address;
  address.family = family == AF_INET ? Family::kV4 : Family::kV6;
  if (attribute == nullptr || nla_len(attribute) != static_cast<int>(address.size())) return std::nullopt;
  std::memcpy(address.bytes.data(), nla_data(attribute), address.size());
  return address;
}

IpAddress AnyAddress(int family) {
  IpAddress address;
  address.family = family == AF_INET ? Family::kV4 : Family::kV6;
  return address;
}

bool IsIp(int family) { return family == AF_INET || family == AF_INET6; }

std::optional<Inet6Conf> Inet6Of(nlattr* families) {
  if (families == nullptr) return std::nullopt;
  Attributes by_family(families);
  if (by_family[AF_INET6] == nullptr) return std::nullopt;
  Attributes inet6(by_family[AF_INET6]);
  if (inet6[IFLA_INET6_CONF] == nullptr) return std::nullopt;
  const auto* values = static_cast<const int32_t*>(nla_data(inet6[IFLA_INET6_CONF]));
  int count = nla_len(inet6[IFLA_INET6_CONF]) / static_cast<int>(sizeof(int32_t));
  auto value = [&](int id) { return id < count ? values[id] : 0; };
  nlattr* mode = inet6[IFLA_INET6_ADDR_GEN_MODE];
  return Inet6Conf{.disabled = value(DEVCONF_DISABLE_IPV6) != 0,
                   .no_link_local = mode != nullptr && nla_get_u8(mode) == IN6_ADDR_GEN_MODE_NONE,
                   .forwarding = value(DEVCONF_FORWARDING),
                   .accept_ra = value(DEVCONF_ACCEPT_RA)};
}

}  // namespace

std::optional<Link> DecodeLink(nlmsghdr* message) {
  auto [header, attributes] = Open<ifinfomsg>(message);
  Link link{.index = header->ifi_index, .name = attributes.Text(IFLA_IFNAME)};
  link.alias = attributes.Text(IFLA_IFALIAS);
  link.mac = MacOf(attributes[IFLA_ADDRESS]);
  link.mtu = static_cast<int>(attributes.U32(IFLA_MTU));
  link.up = (header->ifi_flags & IFF_UP) != 0;
  link.running = (header->ifi_flags & IFF_LOWER_UP) != 0;
  link.master = static_cast<int>(attributes.U32(IFLA_MASTER));
  link.peer_index = static_cast<int>(attributes.U32(IFLA_LINK));
  if (attributes[IFLA_LINK_NETNSID] != nullptr)
    link.peer_netns_id = static_cast<int>(attributes.U32(IFLA_LINK_NETNSID));
  if (attributes[IFLA_LINKINFO] != nullptr) {
    link.kind = Attributes(attributes[IFLA_LINKINFO]).Text(IFLA_INFO_KIND);
  }
  if (nlattr* list = attributes[IFLA_PROP_LIST]) {
    nlattr* one;
    int rest;
    nla_for_each_nested(one, list, rest) {
      if (nla_type(one) == IFLA_ALT_IFNAME) link.altnames.push_back(Attributes::TextOf(one));
    }
  }
  link.inet6 = Inet6Of(attributes[IFLA_AF_SPEC]);
  return link;
}

std::optional<Address> DecodeAddress(nlmsghdr* message) {
  auto [header, attributes] = Open<ifaddrmsg>(message);
  if (!IsIp(header->ifa_family)) return std::nullopt;
  // IPv6 has only IFA_ADDRESS; IPv4's IFA_ADDRESS is the other end of a point-to-point address.
  auto ip = IpOf(header->ifa_family, attributes[IFA_LOCAL] ? attributes[IFA_LOCAL] : attributes[IFA_ADDRESS]);
  if (!ip) return std::nullopt;
  uint32_t flags = attributes.U32(IFA_FLAGS, header->ifa_flags);
  return Address{.link = static_cast<int>(header->ifa_index),
                 .prefix = {*ip, header->ifa_prefixlen},
                 .scope = static_cast<Scope>(header->ifa_scope),
                 .no_dad = (flags & IFA_F_NODAD) != 0,
                 .no_prefix_route = (flags & IFA_F_NOPREFIXROUTE) != 0};
}

std::vector<Route> DecodeRoutes(nlmsghdr* message) {
  auto [header, attributes] = Open<rtmsg>(message);
  int family = header->rtm_family;
  if (!IsIp(family) || (header->rtm_flags & RTM_F_CLONED) != 0) return {};
  Route route;
  route.destination = {IpOf(family, attributes[RTA_DST]).value_or(AnyAddress(family)), header->rtm_dst_len};
  route.link = static_cast<int>(attributes.U32(RTA_OIF));
  route.via = IpOf(family, attributes[RTA_GATEWAY]);
  route.onlink = (header->rtm_flags & RTNH_F_ONLINK) != 0;
  route.source = IpOf(family, attributes[RTA_PREFSRC]);
  route.scope = static_cast<Scope>(header->rtm_scope);
  route.table = attributes.U32(RTA_TABLE, header->rtm_table);
  route.metric = attributes.U32(RTA_PRIORITY);
  if (family == AF_INET6 && route.metric == kV6DefaultMetric) route.metric = 0;
  if (attributes[RTA_METRICS] != nullptr) {
    route.mtu = static_cast<int>(Attributes(attributes[RTA_METRICS]).U32(RTAX_MTU));
  }
  route.type = static_cast<RouteType>(header->rtm_type);
  route.protocol = header->rtm_protocol;
  if (attributes[RTA_MULTIPATH] == nullptr) return {route};

  // ECMP: the kernel lists the next hops, and leaves RTA_OIF and RTA_GATEWAY out.
  std::vector<Route> routes;
  auto* hop = static_cast<rtnexthop*>(nla_data(attributes[RTA_MULTIPATH]));
  for (int left = nla_len(attributes[RTA_MULTIPATH]); RTNH_OK(hop, left); hop = RTNH_NEXT(hop)) {
    Attributes of_hop(reinterpret_cast<nlattr*>(RTNH_DATA(hop)), hop->rtnh_len - static_cast<int>(RTNH_LENGTH(0)));
    route.link = hop->rtnh_ifindex;
    route.via = IpOf(family, of_hop[RTA_GATEWAY]);
    route.onlink = (hop->rtnh_flags & RTNH_F_ONLINK) != 0;
    routes.push_back(route);
    left -= RTNH_ALIGN(hop->rtnh_len);
  }
  return routes;
}

std::optional<Rule> DecodeRule(nlmsghdr* message) {
  auto [header, attributes] = Open<fib_rule_hdr>(message);
  if (!IsIp(header->family) || header->action != FR_ACT_TO_TBL) return std::nullopt;
  Rule rule;
  rule.family = header->family == AF_INET ? Family::kV4 : Family::kV6;
  rule.priority = attributes.U32(FRA_PRIORITY);
  rule.table = attributes.U32(FRA_TABLE, header->table);
  if (attributes[FRA_FWMARK] != nullptr) {
    rule.fwmark = attributes.U32(FRA_FWMARK);
    rule.fwmask = attributes.U32(FRA_FWMASK, ~uint32_t{0});
  }
  rule.iif = attributes.Text(FRA_IIFNAME);
  return rule;
}

std::optional<Neighbor> DecodeNeighbor(nlmsghdr* message) {
  auto [header, attributes] = Open<ndmsg>(message);
  if (!IsIp(header->ndm_family) || (header->ndm_state & NUD_PERMANENT) == 0) return std::nullopt;
  auto ip = IpOf(header->ndm_family, attributes[NDA_DST]);
  if (!ip) return std::nullopt;
  return Neighbor{.link = header->ndm_ifindex, .address = *ip, .mac = MacOf(attributes[NDA_LLADDR])};
}

std::optional<Tbf> DecodeTbf(nlmsghdr* message) {
  auto [header, attributes] = Open<tcmsg>(message);
  if (attributes.Text(TCA_KIND) != "tbf" || attributes[TCA_OPTIONS] == nullptr) return std::nullopt;
  Attributes options(attributes[TCA_OPTIONS]);
  if (options[TCA_TBF_PARMS] == nullptr) return std::nullopt;
  tc_tbf_qopt parameters{};
  std::memcpy(&parameters, nla_data(options[TCA_TBF_PARMS]), sizeof parameters);
  Tbf tbf{.rate_bytes = parameters.rate.rate, .limit_bytes = parameters.limit};
  if (options[TCA_TBF_RATE64] != nullptr) tbf.rate_bytes = nla_get_u64(options[TCA_TBF_RATE64]);
  constexpr double kSecondsPerTick = 64e-9;  // PSCHED_SHIFT is 6
  tbf.burst_bytes =
      static_cast<uint32_t>(parameters.buffer * kSecondsPerTick * static_cast<double>(tbf.rate_bytes) + 0.5);
  return tbf;
}

std::optional<int> DecodeRedirect(nlmsghdr* message) {
  auto [header, attributes] = Open<tcmsg>(message);
  if (attributes.Text(TCA_KIND) != "u32" || attributes[TCA_OPTIONS] == nullptr) return std::nullopt;
  Attributes options(attributes[TCA_OPTIONS]);
  if (options[TCA_U32_ACT] == nullptr) return std::nullopt;
  Attributes actions(options[TCA_U32_ACT]);
  if (actions[1] == nullptr) return std::nullopt;
  Attributes action(actions[1]);
  if (action.Text(TCA_ACT_KIND) != "mirred" || action[TCA_ACT_OPTIONS] == nullptr) return std::nullopt;
  Attributes mirred(action[TCA_ACT_OPTIONS]);
  if (mirred[TCA_MIRRED_PARMS] == nullptr) return std::nullopt;
  tc_mirred parameters{};
  std::memcpy(&parameters, nla_data(mirred[TCA_MIRRED_PARMS]), sizeof parameters);
  return static_cast<int>(parameters.ifindex);
}

}  // namespace heterok8s::netlink
