#include "node-agent/podnet/hostport_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>

namespace heterok8s::podnet {
namespace {

using netfilter::NftElement;

constexpr Family kFamilies[] = {Family::kV4, Family::kV6};

// To heterod's port, from anywhere but the other PU. Each costs heterod up to 100 kB until it has shown its certificate
// or five seconds are over (peer/server.cc), which makes 35 MB at most.
constexpr int kNewConnectionsPerSecond = 50, kNewConnectionsAtOnce = 100;

char Digit(Family family) { return family == Family::kV4 ? '4' : '6'; }

std::string Key(const NftElement& element) { return fmt::format("{}", fmt::join(element.key, " . ")); }

std::string ElementText(const NftElement& element) {
  std::string value = element.value.empty() ? "" : fmt::format(" : {}", fmt::join(element.value, " . "));
  return fmt::format("{} comment \"{}\"{}", Key(element), element.comment, value);
}

// Serves the port in `family`? A hostIP of 0.0.0.0 or :: means every address of that family.
bool InFamily(const HostPort& port, Family family) { return !port.host_ip || port.host_ip->family == family; }
bool Everywhere(const HostPort& port) { return !port.host_ip || port.host_ip->is_unspecified(); }

// As nft prints it.
std::string Range(const IpPrefix& prefix) {
  return prefix.length == prefix.address.bits() ? prefix.address.ToString() : prefix.ToString();
}

HostPortElements Wanted(const HostPortSpec& spec, bool masquerade) {
  HostPortElements wanted;
  for (Family family : kFamilies) {
    auto address = std::find_if(spec.addresses.begin(), spec.addresses.end(),
                                [&](const IpAddress& a) { return a.family == family; });
    if (address == spec.addresses.end()) continue;
    std::string to = address->ToString();
    for (const IpPrefix& inside : spec.masquerade_outside) {
      if (inside.address.family != family) continue;
      wanted[fmt::format("masq{}", Digit(family))] = {{.key = {to}, .comment = spec.pod_key}};
      wanted[fmt::format("inside{}", Digit(family))].push_back(
          {.key = {to, Range(inside.Masked())}, .comment = spec.pod_key});
    }
    bool any = false;
    for (const HostPort& port : spec.ports) {
      if (!InFamily(port, family)) continue;
      any = true;
      NftElement element{.key = {std::string(Name(port.protocol)), std::to_string(port.host_port)},
                         .value = {to, std::to_string(port.container_port)},
                         .comment = spec.pod_key};
      if (!Everywhere(port)) element.key.insert(element.key.begin(), port.host_ip->ToString());
      const char* map = spec.of_other_pu ? "far" : Everywhere(port) ? "any" : "one";
      wanted[fmt::format("{}{}", map, Digit(family))].push_back(element);
    }
    if (!any) continue;
    wanted[fmt::format("hairpin{}", Digit(family))].push_back({.key = {to, to}, .comment = spec.pod_key});
    if (masquerade) wanted[fmt::format("behind{}", Digit(family))].push_back({.key = {to}, .comment = spec.pod_key});
  }
  return wanted;
}

// Protocol and host port are the last two parts of the key of a map's element, an address may come before them.
bool SamePort(const NftElement& a, const NftElement& b) {
  return std::equal(a.key.end() - 2, a.key.end(), b.key.end() - 2, b.key.end());
}

bool Collide(const NftElement& a, const NftElement& b) {
  if (!SamePort(a, b)) return false;
  return a.key.size() != b.key.size() || a.key == b.key;  // every address, or the same one
}

absl::Status CheckFree(const HostPortElements& present, const HostPortElements& wanted, const std::string& pod_key) {
  for (Family family : kFamilies) {
    std::string maps[] = {fmt::format("any{}", Digit(family)), fmt::format("one{}", Digit(family)),
                          fmt::format("far{}", Digit(family))};
    for (const std::string& wanted_map : maps) {
      if (!wanted.contains(wanted_map)) continue;
      for (const NftElement& element : wanted.at(wanted_map)) {
        for (const std::string& present_map : maps) {
          if (!present.contains(present_map)) continue;
          for (const NftElement& other : present.at(present_map)) {
            if (other.comment == pod_key || !Collide(element, other)) continue;
            // "tcp . 80" is nft's way to say it.
            auto spaced = [](const std::vector<std::string>& parts) {
              return fmt::format("{}", fmt::join(parts, " "));
            };
            return HostPortTaken(fmt::format("host port {} is taken by Pod {} ({} to {})", spaced(element.key),
                                             other.comment, spaced(other.key), fmt::join(other.value, ":")),
                                 other.comment);
          }
        }
      }
    }
  }
  return absl::OkStatus();
}

// The reverse of Wanted for one element of a map.
HostPort PortOf(const NftElement& element) {
  HostPort port;
  auto number = [](const std::string& text) {
    uint16_t value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
  };
  if (auto protocol = ParseProtocol(element.key[element.key.size() - 2]); protocol.ok()) port.protocol = *protocol;
  port.host_port = number(element.key.back());
  if (element.key.size() == 3) {
    if (auto address = IpAddress::Parse(element.key[0]); address.ok()) port.host_ip = *address;
  }
  if (element.value.size() == 2) port.container_port = number(element.value[1]);
  return port;
}

// "ip daddr 192.0.2.1 "; nothing for every address.
std::string OfAddress(const IpAddress& address, const char* which) {
  if (address.is_unspecified()) return "";
  return fmt::format("{} {} {} ", address.family == Family::kV4 ? "ip" : "ip6", which, address.ToString());
}

// Keeps Pods from the ports of both heterods. What they call is looked at behind all translation of destinations: a
// Service may lead there. A Pod in the Node's own network comes by no uplink and is free to call.
std::vector<std::string> AgentRules(const RootGuard& guard) {
  std::vector<std::string> rules;
  if (guard.peer.has_value() && guard.peer->port != 0) {
    rules.push_back(fmt::format("agent_forward iifname \"hku*\" {}tcp dport {} counter name agent_port drop",
                                OfAddress(guard.peer->address, "daddr"), guard.peer->port));
  }
  if (!guard.listen.has_value() || guard.listen->port == 0) return rules;
  const std::string to = fmt::format("{}tcp dport {}", OfAddress(guard.listen->address, "daddr"), guard.listen->port);
  rules.push_back(fmt::format("agent_input iifname \"hku*\" {} counter name agent_port drop", to));
  // Nothing comes from an address of one family to one of the other, and nft refuses such a rule.
  const bool can_come =
      guard.peer.has_value() && (guard.peer->address.is_unspecified() || guard.listen->address.is_unspecified() ||
                                 guard.peer->address.family == guard.listen->address.family);
  if (can_come) {
    rules.push_back(fmt::format("agent_input {}{} accept", OfAddress(guard.peer->address, "saddr"), to));
  }
  rules.push_back(fmt::format(
      "agent_input {} tcp flags & (fin | syn | rst | ack) == syn limit rate over {}/second burst {} packets "
      "counter name agent_flood drop",
      to, kNewConnectionsPerSecond, kNewConnectionsAtOnce));
  return rules;
}

}  // namespace

const std::vector<std::string>& HostPortSets() {
  static const std::vector<std::string> names = {"any4", "one4", "far4", "hairpin4", "behind4", "masq4", "inside4",
                                                 "any6", "one6", "far6", "hairpin6", "behind6", "masq6", "inside6"};
  return names;
}

std::string HostPortTableScript(const std::string& table, const RootGuard& guard) {
  std::string script = fmt::format("add table {}\n", table);
  auto declare = [&](const std::string& what) { script += fmt::format("add {}\n", what); };
  for (Family family : kFamilies) {
    char digit = Digit(family);
    const char* type = family == Family::kV4 ? "ipv4_addr" : "ipv6_addr";
    declare(fmt::format("map {} any{} {{ type inet_proto . inet_service : {} . inet_service; }}", table, digit, type));
    for (const char* map : {"one", "far"}) {
      declare(fmt::format("map {0} {1}{2} {{ type {3} . inet_proto . inet_service : {3} . inet_service; }}", table, map,
                          digit, type));
    }
    declare(fmt::format("set {0} hairpin{1} {{ type {2} . {2}; }}", table, digit, type));
    declare(fmt::format("set {} behind{} {{ type {}; }}", table, digit, type));
    declare(fmt::format("set {} masq{} {{ type {}; }}", table, digit, type));
    declare(fmt::format("set {0} inside{1} {{ type {2} . {2}; flags interval; }}", table, digit, type));
  }
  declare(fmt::format("set {} {} {{ type ifname; }}", table, kLocalnetSet));
  for (const char* counter : {"martian", "spoofed", "link_address", "agent_port", "agent_flood"}) {
    declare(fmt::format("counter {} {}", table, counter));
  }
  declare(fmt::format("chain {} guard {{ type filter hook prerouting priority raw; }}", table));
  // Behind IPVS, which translates at 98 and 99 (ip_vs_ops, net/netfilter/ipvs/ip_vs_core.c).
  declare(fmt::format("chain {} agent_input {{ type filter hook input priority 110; }}", table));
  declare(fmt::format("chain {} agent_forward {{ type filter hook forward priority filter; }}", table));
  declare(fmt::format("chain {} prerouting {{ type nat hook prerouting priority -100; }}", table));
  declare(fmt::format("chain {} output {{ type nat hook output priority -100; }}", table));
  declare(fmt::format("chain {} ports", table));
  declare(fmt::format("chain {} postrouting {{ type nat hook postrouting priority 100; }}", table));
  script += fmt::format("flush table {}\n", table);  // rules only

  auto rule = [&](const std::string& text) { script += fmt::format("add rule {} {}\n", table, text); };
  // Where route_localnet is on, this is what keeps 127.0.0.1 unreachable from outside.
  rule("guard iif != lo ip daddr 127.0.0.0/8 counter name martian drop");
  rule("guard iif != lo ip saddr 127.0.0.0/8 counter name martian drop");
  // A Pod sends from its own addresses only: its uplink (see pu::InterfaceName) must be the way to the source. In both
  // families, because the kernel's rp_filter knows IPv4 alone; before connection tracking, so that a forged packet
  // leaves nothing behind. `::` (duplicate address detection, MLD) and link-local addresses have no route over an
  // uplink; the kernel forwards neither (ip6_forward).
  rule("guard iifname \"hku*\" ip6 saddr :: accept");
  rule("guard iifname \"hku*\" ip6 saddr fe80::/10 accept");
  rule("guard iifname \"hku*\" fib saddr . iif oif missing counter name spoofed drop");
  // Link addresses have no route here; by the default route they would leave the Node.
  if (guard.link_range.has_value()) {
    rule(
        fmt::format("guard iifname \"hku*\" ip daddr {} counter name link_address drop", guard.link_range->ToString()));
    rule(fmt::format("guard iifname \"hku*\" ip6 daddr {} counter name link_address drop",
                     LinkAddresses::RangeV6().ToString()));
  }
  for (const std::string& text : AgentRules(guard)) rule(text);
  rule("prerouting dnat ip to ip daddr . meta l4proto . th dport map @far4");
  rule("prerouting dnat ip6 to ip6 daddr . meta l4proto . th dport map @far6");
  rule("prerouting fib daddr type local goto ports");
  rule("output fib daddr type local goto ports");
  for (Family family : kFamilies) {
    const char* ip = family == Family::kV4 ? "ip" : "ip6";
    char digit = Digit(family);
    rule(fmt::format("ports dnat {0} to {0} daddr . meta l4proto . th dport map @one{1}", ip, digit));
    rule(fmt::format("ports dnat {} to meta l4proto . th dport map @any{}", ip, digit));
    rule(fmt::format("postrouting ct status dnat {0} saddr . {0} daddr @hairpin{1} masquerade", ip, digit));
    // From a Pod of this Node (by its uplink's name, see pu::InterfaceName) the answer comes back this way.
    rule(fmt::format("postrouting ct status dnat {} daddr @behind{} iifname != \"hku*\" masquerade", ip, digit));
    rule(fmt::format("postrouting {0} saddr @masq{1} {0} daddr != {2} {0} saddr . {0} daddr != @inside{1} masquerade",
                     ip, digit, family == Family::kV4 ? "224.0.0.0/4" : "ff00::/8"));
  }
  rule("postrouting ct status dnat ip saddr 127.0.0.0/8 oif != lo masquerade");
  rule("postrouting ct status dnat ip6 saddr ::1 oif != lo masquerade");
  return script;
}

absl::StatusOr<HostPortChange> PlanHostPorts(const std::string& table, const HostPortElements& present,
                                             const HostPortSpec& spec, bool masquerade) {
  HostPortElements wanted = Wanted(spec, masquerade);
  HK_RETURN_IF_ERROR(CheckFree(present, wanted, spec.pod_key));
  HostPortChange change;
  std::string additions;
  for (const std::string& name : HostPortSets()) {
    bool is_map = name.starts_with("any") || name.starts_with("one") || name.starts_with("far");
    const std::vector<NftElement> none;
    const std::vector<NftElement>& is = present.contains(name) ? present.at(name) : none;
    const std::vector<NftElement>& should = wanted.contains(name) ? wanted.at(name) : none;
    auto has = [](const std::vector<NftElement>& elements, const NftElement& element) {
      return std::find(elements.begin(), elements.end(), element) != elements.end();
    };
    for (const NftElement& element : is) {
      // Another Pod's element under a key of ours is a leftover: the key of a set is the Pod's own address.
      bool same_key =
          std::any_of(should.begin(), should.end(), [&](const NftElement& e) { return e.key == element.key; });
      if ((element.comment != spec.pod_key && !same_key) || has(should, element)) continue;
      change.script += fmt::format("delete element {} {} {{ {} }}\n", table, name, Key(element));
      if (is_map) change.affected.push_back(PortOf(element));
    }
    for (const NftElement& element : should) {
      if (has(is, element)) continue;
      additions += fmt::format("add element {} {} {{ {} }}\n", table, name, ElementText(element));
      if (is_map) change.affected.push_back(PortOf(element));
    }
  }
  change.script += additions;
  return change;
}

bool ServesLoopback(const HostPortSpec& spec, Family family) {
  auto of_family = [&](const IpAddress& address) { return address.family == family; };
  if (std::none_of(spec.addresses.begin(), spec.addresses.end(), of_family)) return false;
  return std::any_of(spec.ports.begin(), spec.ports.end(), [&](const HostPort& port) {
    return InFamily(port, family) && (Everywhere(port) || port.host_ip->is_loopback());
  });
}

}  // namespace heterok8s::podnet
