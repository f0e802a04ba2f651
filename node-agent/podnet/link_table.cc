#include "node-agent/podnet/link_table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace heterok8s::podnet {
namespace {

// One address family's view of a LinkSpec, as nft text.
struct View {
  const char* ip;                         // "ip" or "ip6"
  std::string pod;                        // "{ 10.88.0.5 }"; empty when the Pod has no address of this family
  std::string own, peer;                  // link addresses of this side and of the other
  std::string both;                       // all of these
  std::string in, out;                    // source and destination of direct calls, as "source . destination"
  std::string localhost, localhost_name;  // 127.0.0.1, and what it is called on the link
  std::string quoted;                     // in an ICMP error: the source of the packet it is about, as nft reads it
  std::string localhost_hex, name_hex;    // the same two as numbers
  const char* echo;                       // "icmp type echo-request"
  const char* errors;                     // ICMP types that report on a packet sent earlier
  const char* port_unreachable;
};

std::string Set(const std::vector<IpAddress>& addresses) {
  std::vector<std::string> texts;
  for (const IpAddress& address : addresses) texts.push_back(address.ToString());
  if (texts.size() == 1) return texts[0];  // a comparison costs less than a look into a set
  return fmt::format("{{ {} }}", fmt::join(texts, ", "));
}

std::string Hex(const IpAddress& address) {
  return fmt::format("0x{:02x}", fmt::join(address.bytes.begin(), address.bytes.begin() + address.bits() / 8, ""));
}

View ViewOf(const LinkSpec& spec, Family family) {
  auto of_family = [&](const IpAddress& v4) { return family == Family::kV4 ? v4 : LinkAddresses::ToV6(v4); };
  const LinkAddresses& link = spec.link;
  std::vector<IpAddress> host = {of_family(link.host_localhost), of_family(link.host_pod)};
  std::vector<IpAddress> dpu = {of_family(link.dpu_localhost), of_family(link.dpu_pod)};
  std::vector<IpAddress> pod;
  for (const IpAddress& address : spec.addresses) {
    if (address.family == family) pod.push_back(address);
  }
  View view;
  bool v4 = family == Family::kV4, on_host = spec.side == pu::Side::kHost;
  view.ip = v4 ? "ip" : "ip6";
  view.pod = pod.empty() ? "" : Set(pod);
  view.own = Set(on_host ? host : dpu);
  view.peer = Set(on_host ? dpu : host);
  IpAddress name = LinkAddresses::Localhost(family);
  std::vector<IpAddress> far = on_host ? dpu : host;
  far.push_back(name);
  view.both = Set({host[0], host[1], dpu[0], dpu[1], name});
  std::vector<std::string> in, out;
  for (const IpAddress& a : far) {
    for (const IpAddress& b : on_host ? host : dpu) {
      in.push_back(fmt::format("{} . {}", a.ToString(), b.ToString()));
      out.push_back(fmt::format("{} . {}", b.ToString(), a.ToString()));
    }
  }
  view.in = fmt::format("{{ {} }}", fmt::join(in, ", "));
  view.out = fmt::format("{{ {} }}", fmt::join(out, ", "));
  view.localhost = v4 ? "127.0.0.1" : "::1";
  view.localhost_name = name.ToString();
  // After eight bytes of ICMP comes the packet's IP header; the source is at its byte 12 (IPv4), 8 (IPv6).
  view.quoted = v4 ? "@th,160,32" : "@th,128,128";
  view.localhost_hex = Hex(*IpAddress::Parse(view.localhost));
  view.name_hex = Hex(name);
  view.echo = v4 ? "icmp type echo-request" : "icmpv6 type echo-request";
  view.errors = v4 ? "icmp type { destination-unreachable, time-exceeded, parameter-problem }"
                   : "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }";
  view.port_unreachable = v4 ? "icmp type destination-unreachable icmp code port-unreachable"
                             : "icmpv6 type destination-unreachable icmpv6 code port-unreachable";
  return view;
}

// Collects the script: declarations first, then `flush table` (rules only), then rules.
class Script {
 public:
  void Declare(std::string_view what) { declarations_ += fmt::format("add {}\n", what); }
  void Chain(std::string_view name, std::string_view hook = {}) {
    Declare(hook.empty() ? fmt::format("chain {} {}", kPodTable, name)
                         : fmt::format("chain {} {} {{ type {}; policy accept; }}", kPodTable, name, hook));
  }
  template <typename... Args>
  void Rule(std::string_view chain, fmt::format_string<Args...> format, Args&&... args) {
    rules_ += fmt::format("add rule {} {} {}\n", kPodTable, chain, fmt::format(format, std::forward<Args>(args)...));
  }
  std::string Text() const { return fmt::format("{}flush table {}\n{}", declarations_, kPodTable, rules_); }

 private:
  std::string declarations_, rules_;
};

std::string Drop(const char* counter) { return fmt::format("counter name {} drop", counter); }
const char kOwnedByDpu[] = "meta l4proto . th dport @dpu_ports";
const char kFromDpuPort[] = "meta l4proto . th sport @dpu_ports";

void DeclareCommon(Script& script) {
  script.Declare(fmt::format("table {}", kPodTable));
  script.Declare(fmt::format("set {} {} {{ type inet_proto . inet_service; }}", kPodTable, kPortSet));
  for (const char* counter : {kCountMartian, kCountSpoofed, kCountLinkAddress, kCountForeignPort, kCountForeignReset}) {
    script.Declare(fmt::format("counter {} {}", kPodTable, counter));
  }
  // Before connection tracking, so that what is refused leaves no trace there and direct calls cost nothing.
  script.Chain("guard", "filter hook prerouting priority raw");
  script.Chain("from_link");
  script.Chain("output_raw", "filter hook output priority raw");
  // `route`: a mark that is set here sends the packet through the routing rules again.
  script.Chain("output", "route hook output priority mangle");
}

// What holds on both sides: direct calls pass untracked, loopback and link addresses stay where they belong. Direct
// calls come first in every chain, by as few expressions as can be: a round trip on one CPU passes these chains eight
// times in eight microseconds.
void GuardRules(Script& script, const LinkSpec& spec, const View& v4, const View& v6) {
  script.Rule("guard", "iif lo accept");
  for (const View& v : {v4, v6}) {
    script.Rule("guard", "{0} saddr . {0} daddr {1} iifname {2} notrack accept", v.ip, v.in, spec.ifname);
    script.Rule("output_raw", "{0} saddr . {0} daddr {1} oifname {2} notrack accept", v.ip, v.out, spec.ifname);
  }
  // A caller that bound itself to localhost before it connected: no hook may change that, so its packets are. Both
  // ways without state, since nothing else uses the name.
  for (const View& v : {v4, v6}) {
    script.Rule("output_raw", "oifname {0} {1} saddr {2} {1} daddr {3} {1} saddr set {4} notrack", spec.ifname, v.ip,
                v.localhost, v.peer, v.localhost_name);
    // An ICMP error finds the caller's socket by the packet it quotes. Nothing mends the checksum of ICMP here, but it
    // stays right: see LinkAddresses::Localhost.
    script.Rule("guard", "iifname {} {} daddr {} {} {} {} {} set {}", spec.ifname, v.ip, v.localhost_name, v.errors,
                v.quoted, v.name_hex, v.quoted, v.localhost_hex);
    script.Rule("guard", "iifname {0} {1} saddr {2} {1} daddr {3} {1} daddr set {4} notrack accept", spec.ifname, v.ip,
                v.peer, v.localhost_name, v.localhost);
  }
  // The kernel itself drops ::1 from a real device, before netfilter.
  script.Rule("guard", "ip saddr 127.0.0.0/8 {}", Drop(kCountMartian));
  script.Rule("guard", "ip daddr 127.0.0.0/8 {}", Drop(kCountMartian));
  script.Rule("guard", "iifname {} goto from_link", spec.ifname);
  for (const View& v : {v4, v6}) {
    script.Rule("guard", "{} saddr {} {}", v.ip, v.both, Drop(kCountLinkAddress));
    script.Rule("guard", "{} daddr {} {}", v.ip, v.both, Drop(kCountLinkAddress));
    if (!v.pod.empty()) script.Rule("guard", "{} saddr {} {}", v.ip, v.pod, Drop(kCountSpoofed));
  }
  // The link is unicast only: no address resolution, no router discovery. What the kernels send anyway is noise.
  script.Rule("from_link", "meta pkttype != host drop");
  for (const View& v : {v4, v6}) {
    if (v.pod.empty()) continue;
    // A socket bound to the Pod IP made a direct call: its answer is for the other side's Pod IP, not for ours.
    script.Rule("output", "{0} daddr {2} {0} saddr {1} meta mark set {3:#x} accept", v.ip, v.own, v.pod,
                kOtherSideMark);
  }
}

void HostRules(Script& script, const LinkSpec& spec, const View& v4, const View& v6) {
  script.Chain("to_pod");
  for (const View& v : {v4, v6}) {
    if (v.pod.empty()) continue;
    script.Rule("from_link", "{} daddr {} goto to_pod", v.ip, v.pod);
    script.Rule("from_link", "{0} saddr {1} {0} daddr {2} accept", v.ip, v.pod, v.own);
  }
  script.Rule("from_link", "{}", Drop(kCountSpoofed));

  for (const View& v : {v4, v6}) {
    script.Rule("to_pod", "{} saddr {} {}", v.ip, v.own, Drop(kCountSpoofed));
    script.Rule("to_pod", "{} {}", v.echo, Drop(kCountForeignPort));  // the DPU answers
  }
  // Steered here although the DPU has it: the DPU is about to know. Silence makes the client try again, an RST ends it.
  script.Rule("to_pod", "{} {}", kOwnedByDpu, Drop(kCountForeignPort));
  for (const View& v : {v4, v6}) {
    if (v.pod.empty()) continue;
    script.Rule("to_pod", "{} saddr {} {} accept", v.ip, v.pod, kFromDpuPort);
    script.Rule("to_pod", "{} saddr {} {} accept", v.ip, v.pod, v.errors);  // the DPU's kernel as our router
    script.Rule("to_pod", "{} saddr {} {}", v.ip, v.pod, Drop(kCountSpoofed));
    // A call to PodIP:port that was not turned into a direct call goes to the owner all the same.
    script.Rule("output", "{} daddr {} {} meta mark set {:#x} accept", v.ip, v.pod, kOwnedByDpu, kOtherSideMark);
    script.Rule("output", "oifname {} {} saddr {} {} tcp flags & rst == rst {}", spec.ifname, v.ip, v.pod, kFromDpuPort,
                Drop(kCountForeignReset));
  }
}

// Packets for the Pod from the network: whose are they?
void InboundRules(Script& script, const LinkSpec& spec, const View& v4, const View& v6, bool has_socket_match) {
  for (const View& v : {v4, v6}) {
    if (v.pod.empty()) continue;
    script.Rule("steer", "iifname {} {} daddr {} goto inbound", spec.uplink_ifname, v.ip, v.pod);
  }
  std::string to_host = fmt::format("meta mark set {:#x} accept", kOtherSideMark);
  std::string is_hosts = fmt::format("ct mark {:#x}", kOtherSideMark);
  // Replies, and ICMP errors about a flow (their connmark is that flow's), follow it.
  for (const char* known : {"ct direction reply", "ct state related", "meta l4proto tcp ct state established"}) {
    script.Rule("inbound", "{} {} {}", known, is_hosts, to_host);
    script.Rule("inbound", "{} accept", known);
  }
  // UDP from outside is decided packet by packet, so a port that changes hands takes its callers along.
  script.Rule("inbound", "meta l4proto {{ icmp, ipv6-icmp }} accept");
  script.Rule("inbound", "{} goto mine", kOwnedByDpu);
  if (has_socket_match) {
    // Closes the time between listen() and the set: any socket, bound to a wildcard or not.
    script.Rule("inbound", "socket wildcard 0-1 goto mine");
  } else {
    script.Rule("inbound", "th dport {}-{} goto mine", spec.dpu_ephemeral.first, spec.dpu_ephemeral.last);
  }
  script.Rule("inbound", "ct mark set {:#x} {}", kOtherSideMark, to_host);

  script.Rule("mine", "{} ct mark set 0", is_hosts);
  script.Rule("mine", "accept");
}

// Packets from pod-h: on their way out, or for a port of this side.
void OutboundRules(Script& script, const LinkSpec& spec, const View& v4, const View& v6, bool has_socket_match) {
  for (const View& v : {v4, v6}) {
    script.Rule("from_link", "{} daddr {} {}", v.ip, v.peer, Drop(kCountSpoofed));  // its own; would come back
    if (v.pod.empty()) continue;
    script.Rule("from_link", "{} saddr {} accept", v.ip, v.pod);
    script.Rule("from_link", "{0} saddr {1} {0} daddr {2} accept", v.ip, v.peer, v.pod);
  }
  script.Rule("from_link", "{}", Drop(kCountSpoofed));

  // Only the first packet of a flow: a forged ICMP error must not take over a flow of this side.
  script.Rule("steer", "iifname {} ct state new ct mark set {:#x}", spec.ifname, kOtherSideMark);
  for (const View& v : {v4, v6}) {
    if (v.pod.empty()) continue;
    script.Rule("steer", "iifname {} {} daddr {} goto hairpin", spec.ifname, v.ip, v.pod);
  }
  script.Rule("hairpin", "ct direction reply accept");
  script.Rule("hairpin", "ct state related accept");
  script.Rule("hairpin", "{} accept", kOwnedByDpu);
  if (has_socket_match) script.Rule("hairpin", "socket wildcard 0-1 accept");
  script.Rule("hairpin", "{}", Drop(kCountForeignPort));
}

void DpuRules(Script& script, const LinkSpec& spec, const View& v4, const View& v6, bool has_socket_match) {
  script.Chain("steer", "filter hook prerouting priority mangle");
  script.Chain("inbound");
  script.Chain("mine");
  script.Chain("hairpin");
  script.Chain("forward", "filter hook forward priority filter");
  script.Rule("steer", "ct state untracked accept");  // direct calls
  InboundRules(script, spec, v4, v6, has_socket_match);
  OutboundRules(script, spec, v4, v6, has_socket_match);

  // The Pod is no router for others.
  script.Rule("forward", "iifname {} oifname {} accept", spec.uplink_ifname, spec.ifname);
  script.Rule("forward", "iifname {} oifname {} accept", spec.ifname, spec.uplink_ifname);
  script.Rule("forward", "{}", Drop(kCountSpoofed));

  std::string is_hosts = fmt::format("ct mark {:#x}", kOtherSideMark);
  for (const View& v : {v4, v6}) {
    script.Rule("output", "oifname {} {} saddr {} {}", spec.uplink_ifname, v.ip, v.own, Drop(kCountLinkAddress));
    if (v.pod.empty()) continue;
    // Answers to pod-h's Pod IP, and ICMP errors (fragmentation needed, …) about what it sent.
    script.Rule("output", "{} daddr {} {} meta mark set {:#x} accept", v.ip, v.pod, is_hosts, kOtherSideMark);
    script.Rule("output", "{} {} {}", is_hosts, v.port_unreachable, Drop(kCountForeignReset));
  }
  script.Rule("output", "{} tcp flags & rst == rst {}", is_hosts, Drop(kCountForeignReset));
}

}  // namespace

std::string LinkTableScript(const LinkSpec& spec, bool has_socket_match) {
  View v4 = ViewOf(spec, Family::kV4), v6 = ViewOf(spec, Family::kV6);
  Script script;
  DeclareCommon(script);
  // Not on the host: there nothing else tracks connections, and this would begin to.
  if (spec.side == pu::Side::kDpu) script.Rule("output", "ct state untracked accept");
  GuardRules(script, spec, v4, v6);
  if (spec.side == pu::Side::kHost) {
    HostRules(script, spec, v4, v6);
  } else {
    DpuRules(script, spec, v4, v6, has_socket_match);
  }
  return script.Text();
}

// `add` first, so that deleting succeeds when there is none.
std::string RemoveLinkTableScript() { return fmt::format("add table {0}\ndelete table {0}\n", kPodTable); }

}  // namespace heterok8s::podnet
