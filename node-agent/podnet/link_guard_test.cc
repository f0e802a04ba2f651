// What a split Pod's namespaces refuse, ICMP, and the life of the wiring itself. The picture is in
// split_pod_topology.h.
#include <fmt/format.h>

#include <cerrno>

#include <catch2/catch.hpp>

#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "node-agent/podnet/link.h"
#include "node-agent/podnet/link_table.h"
#include "node-agent/podnet/split_pod_topology.h"
#include "node-agent/podnet/test_sockets.h"
#include "node-agent/podnet/wired_pod.h"

namespace heterok8s::podnet {
namespace {

using sys::UniqueFd;
using testing::Eventually;
using testing::HasCode;
using testing::Says;

bool CarriesUdp(const std::string& packet) { return (packet[0] >> 4) == 4 ? packet[9] == 17 : packet[6] == 17; }

TEST_CASE("a source that cannot be is dropped and counted") {
  Wired pod;
  struct Case {
    const char* what;
    const sys::NetnsRef& from;
    const char *device, *source, *destination;
    const sys::NetnsRef& counted_in;
    const char* counter;
  };
  const Case cases[] = {
      {"loopback from the network", pod.net(), "ethn", "127.0.0.1", "10.88.0.5", pod.pod_d(), kCountMartian},
      {"to loopback from the network", pod.net(), "ethn", "10.88.0.1", "127.0.0.1", pod.pod_d(), kCountMartian},
      {"loopback from pod-h", pod.pod_h(), "eth0", "127.0.0.1", "10.88.0.5", pod.pod_d(), kCountMartian},
      {"link address from the network", pod.net(), "ethn", "169.254.64.4", "10.88.0.5", pod.pod_d(), kCountLinkAddress},
      {"to a link address from the network", pod.net(), "ethn", "10.88.0.1", "169.254.64.5", pod.pod_d(),
       kCountLinkAddress},
      {"v6 link address from the network", pod.net(), "ethn", "fd68:6b38:7338::a9fe:4004", "fd00:88::5", pod.pod_d(),
       kCountLinkAddress},
      {"localhost's name on the link, from the network", pod.net(), "ethn", "169.254.213.2", "10.88.0.5", pod.pod_d(),
       kCountLinkAddress},
      {"to localhost's name on the link, from the network", pod.net(), "ethn", "10.88.0.1", "169.254.213.2",
       pod.pod_d(), kCountLinkAddress},
      {"localhost's v6 name on the link, from the network", pod.net(), "ethn", "fd68:6b38:7338::a525:a9fe:d502",
       "fd00:88::5", pod.pod_d(), kCountLinkAddress},
      {"localhost's name on the link to the outside", pod.pod_h(), "eth0", "169.254.213.2", "10.99.0.2", pod.pod_d(),
       kCountSpoofed},
      {"to localhost's name, not from a link address", pod.pod_d(), "xpu0", "10.99.0.2", "169.254.213.2", pod.pod_h(),
       kCountSpoofed},
      {"the Pod IP from the network", pod.net(), "ethn", "10.88.0.5", "10.88.0.5", pod.pod_d(), kCountSpoofed},
      {"another Pod's IP from pod-h", pod.pod_h(), "eth0", "10.88.0.6", "10.99.0.2", pod.pod_d(), kCountSpoofed},
      {"another Pod's v6 IP from pod-h", pod.pod_h(), "eth0", "fd00:88::6", "fd00:99::2", pod.pod_d(), kCountSpoofed},
      {"a link address to the outside", pod.pod_h(), "eth0", "169.254.64.4", "10.99.0.2", pod.pod_d(), kCountSpoofed},
      {"to pod-h's own link address", pod.pod_h(), "eth0", "10.88.0.5", "169.254.64.4", pod.pod_d(), kCountSpoofed},
      {"to another address through pod-h", pod.pod_d(), "xpu0", "10.99.0.2", "10.77.0.1", pod.pod_h(), kCountSpoofed},
  };
  Ear far(pod.far(), "up0");
  for (const Case& c : cases) {
    INFO(c.what);
    uint64_t before = pod.Counted(c.counted_in, c.counter);

    const sys::NetnsRef& to = &c.from == &pod.pod_d() ? pod.pod_h() : pod.pod_d();
    const char* to_device = &c.from == &pod.pod_h() ? "xpu0" : "eth0";
    SendForged(c.from, c.device, MacOf(to, to_device), *IpAddress::Parse(c.source), *IpAddress::Parse(c.destination));

    // The kernel may leave a packet to a thread of its own.
    CHECK(Eventually([&] { return pod.Counted(c.counted_in, c.counter) > before; }));
    CHECK(pod.Counted(c.counted_in, c.counter) == before + 1);
  }
  CHECK(far.Count([](const std::string& packet, bool) { return CarriesUdp(packet); }) == 0);
}

TEST_CASE("an echo request is answered once, by pod-d") {
  Wired pod;
  for (const char* address : {"10.88.0.5", "fd00:88::5"}) {
    INFO(address);
    Ear network(pod.far(), "up0"), link(pod.pod_h(), "eth0");

    SplitPodTopology::Sh(pod.far(), fmt::format("ping -qc3 -i0.01 -W30 {}", address));

    auto reply = [](const std::string& packet, bool) { return IsEchoReply(packet); };
    CHECK(network.Count(reply) == 3);
    CHECK(link.Count(reply) == 0);
  }
}

TEST_CASE("both sides can ping the outside") {
  Wired pod;
  for (const char* address : {"10.99.0.2", "fd00:99::2"}) {
    CHECK_NOTHROW(SplitPodTopology::Sh(pod.pod_h(), fmt::format("ping -qc2 -i0.01 -W30 {}", address)));
    CHECK_NOTHROW(SplitPodTopology::Sh(pod.pod_d(), fmt::format("ping -qc2 -i0.01 -W30 {}", address)));
  }
}

// On the link such a caller has another name, also where an error quotes its packet.
TEST_CASE("an error about a direct call comes to the caller, also to one bound to localhost") {
  Wired pod;
  const LinkAddresses link = pod.HostSpec().link;
  struct Side {
    const sys::NetnsRef &caller, &callee;
    IpAddress to;
  };
  for (const Side& side :
       {Side{pod.pod_h(), pod.pod_d(), link.dpu_localhost}, {pod.pod_d(), pod.pod_h(), link.host_localhost}}) {
    SplitPodTopology::Sh(
        side.callee,
        "nft 'add table inet refusing; add chain inet refusing in { type filter hook input priority 0; }; "
        "add rule inet refusing in tcp dport 7777 reject with icmpx type admin-prohibited'");
    for (const char* localhost : {"127.0.0.1", "::1"}) {
      const bool v4 = localhost[0] == '1';
      const IpAddress to = v4 ? side.to : LinkAddresses::ToV6(side.to);
      for (bool bound : {false, true}) {
        INFO(to.ToString() << (bound ? " from localhost" : ""));
        const std::optional<Endpoint> from = bound ? std::optional(At(localhost, 0)) : std::nullopt;
        UniqueFd udp = ConnectUdp(side.caller, {to, 7778}, from);

        REQUIRE(Send(udp, "anybody?"));
        CHECK(Receive(udp) == fmt::format("error {}", ECONNREFUSED));
        CHECK(Connect(side.caller, {to, 7777}, nullptr, kPatience, from) == (v4 ? EHOSTUNREACH : EACCES));
      }
    }
  }
}

TEST_CASE("localhost's name on the link can take its place without any checksum") {
  auto sum = [](const IpAddress& address) {
    unsigned total = 0;
    for (size_t i = 0; i < static_cast<size_t>(address.bits()) / 8; i += 2)
      total += address.bytes[i] << 8 | address.bytes[i + 1];
    while (total > 0xffff) total = (total & 0xffff) + (total >> 16);
    return total;
  };
  CHECK(sum(LinkAddresses::Localhost(Family::kV4)) == sum(*IpAddress::Parse("127.0.0.1")));
  CHECK(sum(LinkAddresses::Localhost(Family::kV6)) == sum(*IpAddress::Parse("::1")));
}

TEST_CASE("port unreachable from outside comes to the side that asked") {
  Wired pod;
  for (auto [pod_ip, far_ip] : {std::pair{"10.88.0.5", "10.99.0.2"}, {"fd00:88::5", "fd00:99::2"}}) {
    UniqueFd reserved = Listen(pod.far(), Protocol::kUdp, At(far_ip, 0));
    Endpoint closed = At(far_ip, LocalPort(reserved));
    reserved.reset();
    for (const sys::NetnsRef* side : {&pod.pod_h(), &pod.pod_d()}) {
      INFO(side->path());
      UniqueFd client = ConnectUdp(*side, closed);

      REQUIRE(Send(client, "anyone?"));

      CHECK(Receive(client) == fmt::format("error {}", ECONNREFUSED));
    }
    // And the other way: the host's kernel says so for a UDP port nobody has.
    UniqueFd client = ConnectUdp(pod.far(), At(pod_ip, 9998));
    REQUIRE(Send(client, "anyone?"));
    CHECK(Receive(client) == fmt::format("error {}", ECONNREFUSED));
  }
}

TEST_CASE("the path MTU is learnt on the side that sends") {
  Wired pod;
  // From `net` (1300 behind it), and from pod-d itself, whose uplink is narrower than the link.
  SplitPodTopology::Ip(pod.pod_d(), "link set eth0 mtu 1400");
  SplitPodTopology::Ip(pod.net(), "link set ethn mtu 1400");
  struct {
    const char *address, *route;
  } families[] = {{"10.99.0.2", "ip route get 10.99.0.2"}, {"fd00:99::2", "ip -6 route get fd00:99::2"}};
  for (auto [address, route] : families) {
    for (const sys::NetnsRef* side : {&pod.pod_h(), &pod.pod_d()}) {
      INFO(side->path() << " " << address);
      UniqueFd server = Listen(pod.far(), Protocol::kTcp, At(address, 0));
      UniqueFd client;
      REQUIRE(Connect(*side, At(address, LocalPort(server)), &client) == 0);
      UniqueFd accepted = Accept(server);
      std::string big(200000, 'x');

      REQUIRE(SendAll(client, big));

      CHECK(ReceiveAll(accepted, big.size()) == big);
      CHECK(SplitPodTopology::Sh(*side, route).find("mtu 1300") != std::string::npos);
    }
  }
}

TEST_CASE("a check names the first difference") {
  Wired pod;
  struct Case {
    const char* break_it;
    const char* says;
  };
  const Case cases[] = {
      {"ip link set eth0 mtu 1400", "'eth0' has MTU 1400, wanted 1500"},
      {"ip addr del 169.254.64.4/32 dev eth0", "address 169.254.64.4/32 is missing on 'eth0'"},
      {"ip neigh del 169.254.64.5 dev eth0", "neighbour 169.254.64.5 at 02:68:6b:00:00:02 is missing on 'eth0'"},
      {"ip route del default", "route to 0.0.0.0/0 over 'eth0' is missing in table 254"},
      {"ip -6 route flush table 100", "route to ::/0 over 'eth0' is missing in table 100"},
      {"ip -6 route del local ::1 dev eth0 table local metric 4096",
       "route to ::1/128 over 'eth0' is missing in table 255"},
      {"ip rule add pref 0 lookup local", "IPv4 rule 0 for table 255 is back"},
      {"ip -6 rule del pref 10", "IPv6 rule 10 for table 100 is missing"},
      {"sysctl -qw net.ipv4.ip_local_port_range='1024 65535'", "ip_local_port_range is '1024 65535'"},
      {"nft flush chain inet heterok8s to_pod", "table inet heterok8s has"},
      {"nft delete table inet heterok8s", "table inet heterok8s is missing"},
      {"ip link set eth0 down", "'eth0' is down"},
  };
  REQUIRE_OK(CheckLink(pod.HostSpec()));
  REQUIRE_OK(CheckLink(pod.DpuSpec()));
  for (const Case& c : cases) {
    INFO(c.break_it);
    SplitPodTopology::Sh(pod.pod_h(), c.break_it);

    CHECK_THAT(CheckLink(pod.HostSpec()), HasCode(absl::StatusCode::kFailedPrecondition) && Says(c.says));

    REQUIRE_OK(EnsureLink(pod.HostSpec()));
    CHECK_OK(CheckLink(pod.HostSpec()));
  }
}

TEST_CASE("removing leaves a namespace as if it had never been split, and can be repeated") {
  SplitPodTopology pod;
  const char* state =
      "{ ip -o addr show dev eth0; ip r; ip -6 r; ip ru; ip -6 ru; ip r show table 100 2>/dev/null; "
      "ip neigh show nud permanent; nft list ruleset; "
      "sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv4.ip_local_port_range; } | sed 's/ proto 107//'";
  std::string host_before = SplitPodTopology::Sh(pod.pod_h(), state);
  std::string dpu_before = SplitPodTopology::Sh(pod.pod_d(), state);
  REQUIRE_OK(EnsureLink(pod.HostSpec()));
  REQUIRE_OK(EnsureLink(pod.DpuSpec()));

  for (int i = 0; i < 2; ++i) {
    REQUIRE_OK(RemoveLink(pod.HostSpec()));
    REQUIRE_OK(RemoveLink(pod.DpuSpec()));
  }

  SplitPodTopology::Ip(pod.pod_h(), "link set eth0 down");
  SplitPodTopology::Ip(pod.pod_d(), "link set xpu0 down");
  CHECK(SplitPodTopology::Sh(pod.pod_h(), state) == host_before);
  CHECK(SplitPodTopology::Sh(pod.pod_d(), state) == dpu_before);
}

TEST_CASE("without its link or its namespace a Pod is unwired all the same") {
  Wired pod;
  SplitPodTopology::Ip(pod.pod_h(), "link del eth0");
  LinkSpec gone = pod.HostSpec();
  gone.netns_path += "-gone";

  CHECK_OK(RemoveLink(pod.HostSpec()));
  CHECK_OK(RemoveLink(pod.DpuSpec()));
  CHECK_OK(RemoveLink(gone));

  CHECK_THAT(EnsureLink(gone), HasCode(absl::StatusCode::kNotFound));
  CHECK_THAT(CheckLink(gone), HasCode(absl::StatusCode::kNotFound));
  CHECK_THAT(EnsureLink(pod.HostSpec()), HasCode(absl::StatusCode::kNotFound));
}

TEST_CASE("an interface of someone else is not touched") {
  SplitPodTopology pod;
  SplitPodTopology::Ip(pod.pod_h(), "link set eth0 alias heterok8s:test:other-pod:eth0");

  CHECK_THAT(EnsureLink(pod.HostSpec()), HasCode(absl::StatusCode::kAlreadyExists));

  CHECK(SplitPodTopology::Sh(pod.pod_h(), "nft list ruleset").empty());
}

TEST_CASE("the guards are there before the link is, and the link needs them once only") {
  SplitPodTopology pod;
  for (const LinkSpec& spec : {pod.HostSpec(), pod.DpuSpec()}) {
    REQUIRE_OK(EnsureGuards(spec));
    CHECK_FALSE(CheckLink(spec).ok());

    REQUIRE_OK(EnsureLink(spec, Guards::kAreThere));

    CHECK_OK(CheckLink(spec));
  }
}

TEST_CASE("all ports at once replace what was there, none included") {
  Wired pod;
  auto ports = [&] { return SplitPodTopology::Sh(pod.pod_d(), "nft list set inet heterok8s dpu_ports"); };
  REQUIRE_OK(SetPort(pod.DpuSpec(), Protocol::kTcp, 7001, true));

  REQUIRE_OK(ReplacePorts(pod.DpuSpec(), {{Protocol::kTcp, 7002}, {Protocol::kUdp, 53}}));
  CHECK(ports().find("7001") == std::string::npos);
  CHECK(ports().find("7002") != std::string::npos);

  REQUIRE_OK(ReplacePorts(pod.DpuSpec(), {}));
  CHECK(ports().find("elements") == std::string::npos);
  CHECK_OK(ReplacePorts(pod.DpuSpec(), {}));

  REQUIRE_OK(RemoveLink(pod.DpuSpec()));
  CHECK_THAT(ReplacePorts(pod.DpuSpec(), {}), HasCode(absl::StatusCode::kNotFound));
}

TEST_CASE("a link block that changed leaves no old addresses") {
  Wired pod;
  LinkSpec other = pod.HostSpec();
  other.link = {.host_localhost = *IpAddress::Parse("169.254.64.8"),
                .dpu_localhost = *IpAddress::Parse("169.254.64.9"),
                .host_pod = *IpAddress::Parse("169.254.64.10"),
                .dpu_pod = *IpAddress::Parse("169.254.64.11")};

  REQUIRE_OK(EnsureLink(other));

  CHECK_OK(CheckLink(other));
  std::string addresses = SplitPodTopology::Ip(pod.pod_h(), "addr show dev eth0");
  CHECK(addresses.find("169.254.64.4/") == std::string::npos);
  CHECK(addresses.find("a9fe:4004") == std::string::npos);
  CHECK(addresses.find("10.88.0.5/32") < addresses.find("169.254.64.8/32"));
}

}  // namespace
}  // namespace heterok8s::podnet
