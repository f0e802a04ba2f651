// What the kernel's routing netlink knows, as plain values: links, addresses, routes, rules, neighbours, queues.
//
// Threading, errors: none, these are values. Default member values are what the kernel would choose.
//
//   Route route{.destination = *IpPrefix::Parse("10.88.0.5/32"), .link = link.index};
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/net/ip.h"

namespace heterok8s::netlink {

inline constexpr uint32_t kTableMain = 254;
inline constexpr uint32_t kTableLocal = 255;
// rtm_protocol and fra_protocol of what HeteroK8s makes ("hk"; not taken in /etc/iproute2/rt_protos).
inline constexpr uint8_t kOurProtocol = 107;

enum class Scope : uint8_t { kGlobal = 0, kSite = 200, kLink = 253, kHost = 254, kNowhere = 255 };  // RT_SCOPE_*

// Per-device IPv4 settings that fit in a link message, so they need no /proc/sys.
struct Inet4Conf {
  std::optional<int> rp_filter, accept_local, forwarding, arp_ignore, arp_announce, route_localnet, send_redirects;
};

// Per-device IPv6 settings as a link message shows them; they are changed through /proc/sys.
struct Inet6Conf {
  bool disabled = false;
  bool no_link_local = false;  // no automatic fe80:: address
  int forwarding = 0;
  int accept_ra = 0;
};

struct Link {
  int index = 0;
  std::string name;
  std::vector<std::string> altnames;
  std::string alias;                 // ifalias: our owner tag
  std::string kind;                  // "veth", "ifb", ""; empty for lo and hardware
  std::string mac;                   // "02:00:00:00:00:01", lower case; empty where there is none
  int mtu = 0;                       // bytes
  bool up = false;                   // administratively
  bool running = false;              // has carrier
  int master = 0;                    // ifindex, 0: none
  int peer_index = 0;                // of a veth's other end, in that end's namespace
  std::optional<int> peer_netns_id;  // that namespace, by the number it has in this one; absent: this one
  std::optional<Inet6Conf> inet6;    // absent: IPv6 is off on this kernel or link
};

// One end of a veth pair that is to be made. An empty or zero member leaves the choice to the kernel.
struct VethEnd {
  std::string name;
  std::string mac;
  int mtu = 0;
  int netns_fd = -1;            // namespace to make it in; -1: the one of the Netlink
  std::optional<int> netns_id;  // the same by Link::peer_netns_id; the kernel takes it for AddVeth::end only
};

struct Address {
  int link = 0;
  IpPrefix prefix;
  Scope scope = Scope::kGlobal;
  bool no_dad = false;           // IPv6: usable at once, no duplicate address detection
  bool no_prefix_route = false;  // no route to the prefix
  auto operator<=>(const Address&) const = default;
};

enum class RouteType : uint8_t { kUnicast = 1, kLocal = 2, kBlackhole = 6, kUnreachable = 7 };  // RTN_*

struct Route {
  IpPrefix destination;  // 0.0.0.0/0 or ::/0: default
  int link = 0;          // ifindex; 0 only for blackhole and unreachable
  std::optional<IpAddress> via;
  bool onlink = false;              // `via` needs no route of its own
  std::optional<IpAddress> source;  // preferred source address
  Scope scope = Scope::kGlobal;     // IPv4 only; kLink for a route without `via`
  uint32_t table = kTableMain;
  uint32_t metric = 0;  // 0: the kernel's (v6 shows 1024, which is read back as 0)
  int mtu = 0;          // bytes, 0: that of the link
  RouteType type = RouteType::kUnicast;
  uint8_t protocol = kOurProtocol;
  auto operator<=>(const Route&) const = default;
};

struct Rule {
  Family family = Family::kV4;
  uint32_t priority = 0;  // "preference"
  uint32_t table = kTableMain;
  std::optional<uint32_t> fwmark;  // absent: every packet
  uint32_t fwmask = 0xffffffff;    // only meaningful with fwmark
  std::string iif;                 // input interface; empty: any
  auto operator<=>(const Rule&) const = default;
};

// Permanent: the kernel never asks for it and never drops it.
struct Neighbor {
  int link = 0;
  IpAddress address;
  std::string mac;
  auto operator<=>(const Neighbor&) const = default;
};

// Token bucket filter as the root queue of a link: shapes what leaves through it.
struct Tbf {
  uint64_t rate_bytes = 0;  // per second
  uint32_t burst_bytes = 0;
  uint32_t limit_bytes = 0;  // queue length; packets beyond it are dropped
  auto operator<=>(const Tbf&) const = default;
};

// What shapes one link.
struct Shaping {
  std::optional<Tbf> root;      // what leaves the link
  std::optional<int> redirect;  // ifindex to which all that arrives on the link is redirected
  auto operator<=>(const Shaping&) const = default;
};

}  // namespace heterok8s::netlink
