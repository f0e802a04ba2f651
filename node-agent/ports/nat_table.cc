#include "node-agent/ports/nat_table.h"

#include <fmt/format.h>

#include <vector>

namespace heterok8s::ports {
namespace {

// One family's addresses of the link, and the Pod's first address of that family ("" when it has none).
struct View {
  std::string own_localhost, peer_localhost, own_pod, peer_pod, pod;
};

View ViewOf(const PodPorts& pod, Family family) {
  auto text = [&](const IpAddress& v4) {
    return (family == Family::kV4 ? v4 : podnet::LinkAddresses::ToV6(v4)).ToString();
  };
  const podnet::LinkAddresses& l = pod.link;
  bool host = pod.side == pu::Side::kHost;
  View view{.own_localhost = text(host ? l.host_localhost : l.dpu_localhost),
            .peer_localhost = text(host ? l.dpu_localhost : l.host_localhost),
            .own_pod = text(host ? l.host_pod : l.dpu_pod),
            .peer_pod = text(host ? l.dpu_pod : l.host_pod),
            .pod = ""};
  for (const IpAddress& address : pod.addresses) {
    if (address.family == family && view.pod.empty()) view.pod = address.ToString();
  }
  return view;
}

class Script {
 public:
  explicit Script(std::string link) : link_(std::move(link)) {}
  void Chain(const char* name, const char* hook) {
    declarations_ += fmt::format("add chain {} {} {{ type {}; policy accept; }}\n", kNatTable, name, hook);
  }
  void Set(const char* name) {
    declarations_ += fmt::format("add set {} {} {{ type inet_proto . inet_service; }}\n", kNatTable, name);
  }
  template <typename... Args>
  void Rule(const char* chain, fmt::format_string<Args...> format, Args&&... args) {
    rules_ += fmt::format("add rule {} {} {}\n", kNatTable, chain, fmt::format(format, std::forward<Args>(args)...));
  }
  std::string Text() const {
    return fmt::format("add table {0}\n{1}flush table {0}\n{2}", kNatTable, declarations_, rules_);
  }
  const std::string& link() const { return link_; }

 private:
  const std::string link_;
  std::string declarations_, rules_;
};

const char kPort[] = "meta l4proto . th dport";

void FamilyRules(Script& script, const char* ip, const View& v, bool v4) {
  const std::string& link = script.link();
  // The Pod's own table stops tracking of what passes between link addresses, which NAT cannot do without. A packet
  // that has a conntrack template by then is left alone; this gives it one, of the default zone.
  script.Rule("track", "iifname {0} {1} saddr {{ {2}, {3} }} {1} daddr {{ {4}, {5} }} ct zone set 0", link, ip,
              v.peer_localhost, v.peer_pod, v.own_localhost, v.own_pod);
  // That table also marks tracked flows from the link as the other side's, whose resets it then holds back.
  script.Rule("unmark", "iifname {0} {1} saddr {{ {2}, {3} }} {1} daddr {{ {4}, {5} }} ct mark set 0", link, ip,
              v.peer_localhost, v.peer_pod, v.own_localhost, v.own_pod);
  std::string to_peer = fmt::format("oifname {} {} daddr {{ {}, {} }}", link, ip, v.peer_localhost, v.peer_pod);
  if (v4) {
    script.Rule("output", "ip daddr 127.0.0.0/8 {} @{} dnat ip to {}", kPort, kNatSets[kNatLocalhost],
                v.peer_localhost);
    script.Rule("postrouting", "{} ip saddr 127.0.0.0/8 snat ip to {}", to_peer, v.own_localhost);
    script.Rule("prerouting", "iifname {} ip saddr {{ {}, {} }} ip daddr {} dnat ip to 127.0.0.1", link,
                v.peer_localhost, v.peer_pod, v.own_localhost);
    script.Rule("input", "iifname {} ip saddr {} snat ip to 127.0.0.1", link, v.peer_localhost);
  } else {
    // TCP is refused by the placeholder, which does not listen. A UDP placeholder would swallow it; this way the send
    // fails with EPERM.
    script.Rule("refuse", "ip6 daddr ::1 {} @{} reject", kPort, kNatSets[kNatLocalhost6]);
  }
  if (v.pod.empty()) return;
  script.Rule("output", "{0} daddr {1} {2} @{3} dnat {0} to {4}", ip, v.pod, kPort, kNatSets[v4 ? kNatPod : kNatPod6],
              v.peer_pod);
  script.Rule("postrouting", "{0} {1} saddr {2} snat {1} to {3}", to_peer, ip, v.pod, v.own_pod);
  script.Rule("prerouting", "iifname {0} {1} saddr {{ {2}, {3} }} {1} daddr {4} dnat {1} to {5}", link, ip,
              v.peer_localhost, v.peer_pod, v.own_pod, v.pod);
  script.Rule("input", "iifname {0} {1} saddr {2} snat {1} to {3}", link, ip, v.peer_pod, v.pod);
}

}  // namespace

std::string NatTableScript(const PodPorts& pod, const std::string& link_ifname) {
  Script script(link_ifname);
  for (const char* set : kNatSets) script.Set(set);
  script.Chain("track", "filter hook prerouting priority raw - 10");
  script.Chain("unmark", "filter hook prerouting priority mangle + 10");
  script.Chain("prerouting", "nat hook prerouting priority -100");
  script.Chain("input", "nat hook input priority 100");
  script.Chain("output", "nat hook output priority -100");
  script.Chain("postrouting", "nat hook postrouting priority 100");
  script.Chain("refuse", "filter hook output priority filter");
  // podnet sets route_localnet on the link, and guards it in the Pod's own table; the same here, before translation.
  script.Rule("track", "iifname {} ip saddr 127.0.0.0/8 drop", link_ifname);
  script.Rule("track", "iifname {} ip daddr 127.0.0.0/8 drop", link_ifname);
  FamilyRules(script, "ip", ViewOf(pod, Family::kV4), /*v4=*/true);
  FamilyRules(script, "ip6", ViewOf(pod, Family::kV6), /*v4=*/false);
  return script.Text();
}

// `add` first, so that deleting succeeds when there is none.
std::string RemoveNatTableScript() { return fmt::format("add table {0}\ndelete table {0}\n", kNatTable); }

}  // namespace heterok8s::ports
