// The network of one Pod on this PU: interfaces, addresses, routes, rules, sysctls, nft table, host ports, bandwidth.
//
// Purpose: level-driven. Ensure… makes the kernel as the spec says, from any earlier state (half done, done, foreign
// leftovers of the same owner); Check… compares and names the first difference; Remove… succeeds when all is gone.
// Nothing here remembers: the caller's ledger does. But host ports, which outlive their table (root_table.h).
// Threading: thread-safe; calls for the same Pod are serialised by the caller.
// Errors: kNotFound when the Pod's namespace is gone (Ensure, Check); kAlreadyExists when an interface of the wanted
// name exists and is not ours.
//
//   HK_ASSIGN_OR_RETURN(Uplink up, podnet.EnsureUplink({.owner = tag, .netns_path = ns, .ifname = "eth0",
//                                                       .addresses = {*IpPrefix::Parse("10.88.0.5/32")}}));
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/net/endpoint.h"
#include "common/net/ip.h"
#include "common/status/status.h"
#include "common/sys/netns.h"
#include "node-agent/pu/backend.h"

namespace heterok8s::podnet {

struct Bandwidth {                                         // the CNI capability's meaning: ingress is towards the Pod
  uint64_t ingress_rate_bits = 0, ingress_burst_bits = 0;  // bits per second, bits; 0: no limit
  uint64_t egress_rate_bits = 0, egress_burst_bits = 0;
  auto operator<=>(const Bandwidth&) const = default;
};

// What a Pod sends to. No interface has the IPv4 one, and each of this PU's ends of an uplink answers for it.
inline constexpr char kGatewayV4[] = "169.254.1.1";
inline constexpr char kGatewayV6[] = "fe80::1";
IpAddress NodeGateway(Family family);

// What a Pod reaches by its interface: its Node is the next hop.
struct PodRoute {
  IpPrefix destination;  // masked
  int mtu = 0;           // bytes; 0: the interface's
  auto operator<=>(const PodRoute&) const = default;
};

// The Pod's interface towards this PU's root namespace: a veth, routed (no bridge). An ordinary Pod's eth0 on the
// host; the eth0 of pod-d on the DPU.
struct UplinkSpec {
  pu::OwnerTag owner;
  std::string netns_path;
  std::string ifname;                // inside the Pod
  std::vector<IpAddress> addresses;  // of the Pod: /32 and /128 each
  std::vector<PodRoute> routes;  // empty: the default routes. Those of a family without an address count for nothing
  int mtu = 1500;                // bytes
  std::string mac;               // of the Pod's end; empty: derived from the owner
  std::optional<Bandwidth> bandwidth;
};
struct Uplink {
  std::string mac;          // of the Pod's end
  std::string root_ifname;  // the other end, in this PU's root namespace
  std::string root_mac;
};

// An uplink whose two ends are where they belong and have nothing yet.
struct PlacedUplink {
  std::string mac;                       // of the Pod's end
  std::function<absl::Status()> finish;  // the Pod's end; once, on any thread. RouteUplink is the rest
};

struct PortRange {
  uint16_t first = 0, last = 0;  // inclusive
  auto operator<=>(const PortRange&) const = default;
};

// The link addresses of one Pod: v4 ones are unique on the Node, v6 ones are derived from them. A socket is told apart
// by which pair it uses: one means "the program said localhost", the other "it said the Pod IP".
struct LinkAddresses {
  IpAddress host_localhost, dpu_localhost, host_pod, dpu_pod;  // IPv4
  // fd68:6b38:7338::<v4 as two groups>, e.g. 169.254.64.4 -> fd68:6b38:7338::a9fe:4004
  static IpAddress ToV6(const IpAddress& v4);
  static IpPrefix RangeV6();  // fd68:6b38:7338::/48: nobody else's

  // What 127.0.0.1 (::1) as a source is called on the link, in both directions: a socket that a program bound to
  // localhost sends from there. The same in every Pod, because it never leaves the Pod's link. Its 16-bit words add up
  // to what localhost's add up to, so that one can take the other's place where no checksum can be mended.
  static IpAddress Localhost(Family family);
};

// The Pod's side of the link to the other PU.
struct LinkSpec {
  pu::OwnerTag owner;
  pu::Side side = pu::Side::kHost;
  std::string netns_path;
  std::string ifname;                // host: CNI_IFNAME (altname xpu0); DPU: xpu0
  std::string uplink_ifname;         // DPU: eth0 of pod-d; empty on the host
  std::vector<IpAddress> addresses;  // Pod addresses, on both sides
  std::vector<PodRoute> routes;      // of pod-h, as UplinkSpec::routes; pod-d has them on its uplink
  LinkAddresses link;
  PortRange host_ephemeral, dpu_ephemeral;  // net.ipv4.ip_local_port_range of each side; disjoint
  int mtu = 1500;
  std::string mac, peer_mac;  // pu::LinkMac of the two sides
};

enum class Guards { kEnsure, kAreThere };

struct HostPort {
  Protocol protocol = Protocol::kTcp;
  std::optional<IpAddress> host_ip;  // absent: every address of the Node
  uint16_t host_port = 0, container_port = 0;
  auto operator<=>(const HostPort&) const = default;
};
struct HostPortSpec {
  std::string pod_key;
  std::vector<HostPort> ports;
  std::vector<IpAddress> addresses;  // Pod addresses
  // CNI's ipMasq: what the Pod sends out of these ranges and this PU gets the address of the device it leaves by.
  // Empty: the Pod's own address stays.
  std::vector<IpPrefix> masquerade_outside;
  // The ports' host_ip are addresses of the other PU, whose packets pass here: on the DPU, those of the host.
  bool of_other_pu = false;
  bool empty() const { return ports.empty() && masquerade_outside.empty(); }
};

// The pod_key that has the port which EnsureHostPorts could not give (kAlreadyExists); absent in any other status.
std::optional<std::string> HostPortHolder(const absl::Status& status);
absl::Status HostPortTaken(std::string message, const std::string& holder);

class PodNet {
 public:
  virtual ~PodNet() = default;

  // Once per start, in this PU's root namespace: forwarding sysctls, the root nft table. Idempotent.
  virtual absl::Status PrepareRoot() = 0;

  virtual absl::StatusOr<Uplink> EnsureUplink(const UplinkSpec& spec) = 0;
  // The first part of EnsureUplink: enough for pu::Backend to find the Pod's half by. Until RouteUplink no packet
  // finds its way to the Pod or from it.
  virtual absl::StatusOr<PlacedUplink> PlaceUplink(const UplinkSpec& spec) = 0;
  // The last part: the end in the root namespace. kNotFound when the uplink was not placed.
  virtual absl::Status RouteUplink(const UplinkSpec& spec) = 0;
  virtual absl::Status CheckUplink(const UplinkSpec& spec) = 0;
  // `netns_path` may be empty or gone. Also removes the root namespace's routes to `addresses` over this uplink.
  virtual absl::Status RemoveUplink(const pu::OwnerTag& owner, const std::string& netns_path) = 0;

  // What a DPU half's namespace needs whatever Pod it is of: the part of EnsureGuards that waits longest on a busy
  // machine (sys::EnsureSysctl).
  virtual absl::Status FurnishNetns(const std::string& netns_path) = 0;
  // The sysctls of the namespace and its table `inet heterok8s`: the part of EnsureLink that needs no device, so it
  // can be made while the link and the uplink are.
  virtual absl::Status EnsureGuards(const LinkSpec& spec) = 0;
  // Addresses, routes, rules, neighbours around a link end that pu::Backend has already put into the namespace under
  // `spec.ifname`; the guards before them, unless EnsureGuards has just succeeded for this spec.
  virtual absl::Status EnsureLink(const LinkSpec& spec, Guards guards = Guards::kEnsure) = 0;
  // Until packets pass this end: the other end is up, this one's queue takes packets, and its IPv6 addresses are ready.
  // The kernel sees to the last two by itself, a little later; a Pod's first packet is lost before that.
  // kDeadlineExceeded after `timeout`.
  virtual absl::Status AwaitLink(const LinkSpec& spec, std::chrono::milliseconds timeout) = 0;
  virtual absl::Status CheckLink(const LinkSpec& spec) = 0;
  // What EnsureLink made in a namespace that stays (a Pod that falls back, a twin that is prepared again).
  virtual absl::Status RemoveLink(const LinkSpec& spec) = 0;

  // The ports this PU's packets are steered by, in the Pod's table `inet heterok8s`: on the DPU what it owns itself,
  // on the host what the DPU owns. One set element each. OK when it is so already.
  virtual absl::Status SetPort(const LinkSpec& spec, Protocol protocol, uint16_t port, bool present) = 0;
  // All of them in one transaction; what the set held before and is not listed is gone.
  virtual absl::Status ReplacePorts(const LinkSpec& spec, const std::vector<std::pair<Protocol, uint16_t>>& ports) {
    return absl::UnimplementedError("ReplacePorts");
  }

  // Host ports and masquerading live in the root namespace's table, which is made again when somebody takes it away.
  // kAlreadyExists names the Pod that has the port.
  virtual absl::Status EnsureHostPorts(const HostPortSpec& spec) = 0;
  // What EnsureHostPorts would change: kFailedPrecondition. Of the table's elements; nobody looks at its rules.
  virtual absl::Status CheckHostPorts(const HostPortSpec& spec) = 0;
  virtual absl::Status RemoveHostPorts(const std::string& pod_key) = 0;
  // The addresses by which others know this PU: of its root namespace, global ones.
  virtual absl::StatusOr<std::vector<IpAddress>> NodeAddresses() { return std::vector<IpAddress>{}; }

  // How many packets this PU's tables have refused since CountRefusedFromHere, by reason ("spoofed"); never falls.
  virtual std::map<std::string, uint64_t> RefusedPackets() { return {}; }
  // The tables outlive a heterod: once, when all Pods of an earlier one are known.
  virtual void CountRefusedFromHere() {}
  // How often the root table was gone and is made again, since PrepareRoot.
  virtual uint64_t RootTablesRemade() { return 0; }

  // Owner tags of all uplinks in this PU's root namespace (orphan scan), this instance only.
  virtual absl::StatusOr<std::vector<pu::OwnerTag>> ListUplinks() = 0;
};

// What every DPU half needs, for a namespace that is made before its Pod is known: the sysctls of EnsureGuards, and the
// pair that PlaceUplink then takes. In the root namespace.
absl::Status FurnishDpuNetns(const sys::NetnsRef& ns);

// Where no Pod may send to, beside what is nobody's to send to.
struct RootGuard {
  std::optional<IpPrefix> link_range;    // of all LinkSpec::link (IPv4)
  std::optional<Endpoint> listen, peer;  // the ports of this heterod and of the other PU's
};

struct Options {
  std::string instance;  // see OwnerTag
  RootGuard guard;
  std::chrono::milliseconds mend_interval{1000};  // how often it looks whether the root table is there
};
// Works in the network namespace of the calling thread at creation (this PU's root namespace).
absl::StatusOr<std::unique_ptr<PodNet>> NewKernelPodNet(Options options);

}  // namespace heterok8s::podnet
