// What the root table refuses, on real namespaces; hostports_node.h draws them.
#include <catch2/catch.hpp>
#include <map>

#include "node-agent/podnet/hostports_node.h"

namespace heterok8s::podnet {
namespace {

using testing::Eventually;

TEST_CASE("127.0.0.1 of the Node cannot be reached from outside, route_localnet or not") {
  Node n;
  n.AddPods();
  UniqueFd secret = Listen(n.node, Protocol::kUdp, At("127.0.0.1", 2000));
  REQUIRE_OK(n.Ensure(n.a, {{.host_port = 80, .container_port = 8080}}));

  const std::string gateway = GatewayMac(n.a);
  SplitPodTopology::AwaitUp(n.a.ns, "eth0");
  SendForged(n.a.ns, "eth0", gateway, *IpAddress::Parse("10.88.0.5"), *IpAddress::Parse("127.0.0.1"));

  CHECK(Eventually([&] {
    return SplitPodTopology::Sh(n.node, "nft list counter inet heterok8s_test martian").find("packets 1 ") !=
           std::string::npos;
  }));
}

TEST_CASE("a Pod sends from its own addresses only, and to no link's; what it forges is dropped and counted") {
  Node n;
  n.AddPods();
  struct Case {
    const char *what, *source, *destination;
    bool passes = false, arrives = false;  // the guard; at the outside
  };
  const Case cases[] = {
      {"its own IPv4 address", "10.88.0.5", "192.0.2.9", true, true},
      {"its own IPv6 address", "fd00:88::5", "2001:db8::9", true, true},
      {"another Pod's, IPv4", "10.88.0.6", "192.0.2.9"},
      {"another Pod's, IPv6", "fd00:88::6", "2001:db8::9"},
      {"the outside's, IPv4", "192.0.2.9", "10.88.0.6"},
      {"the outside's, IPv6", "2001:db8::9", "fd00:88::6"},
      {"the Node's, IPv4", "192.0.2.1", "192.0.2.9"},
      {"the Node's, IPv6", "2001:db8::1", "2001:db8::9"},
      {"nobody's, IPv4", "203.0.113.7", "192.0.2.9"},
      {"nobody's, IPv6", "2001:db8:ffff::7", "2001:db8::9"},
      {"its own, to a link address, IPv4", "10.88.0.5", "169.254.64.5"},
      {"its own, to a link address, IPv6", "fd00:88::5", "fd68:6b38:7338::a9fe:4005"},
      {"its own, to a link-local address that is no link's", "10.88.0.5", "169.254.20.10", true},
      {"the unspecified one, to a neighbour", "::", "ff02::1", true},
      {"a link-local one, to a neighbour", "fe80::1234", "ff02::1", true},
  };
  const std::string gateway = GatewayMac(n.a);
  SplitPodTopology::AwaitUp(n.a.ns, "eth0");
  auto counted = [&] {
    std::map<std::string, uint64_t> refused;
    n.InNode([&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(refused, ReadRefusedInRoot(kInstance));
      return absl::OkStatus();
    });
    return refused["spoofed"] + refused["link_address"];
  };
  for (const Case& c : cases) {
    INFO(c.what);
    Ear ear(n.outside, "o");
    const uint64_t before = counted();

    SendForged(n.a.ns, "eth0", gateway, *IpAddress::Parse(c.source), *IpAddress::Parse(c.destination));
    // One that is always refused, behind it: once this is counted, that has been decided.
    SendForged(n.a.ns, "eth0", gateway, *IpAddress::Parse("203.0.113.99"), *IpAddress::Parse("192.0.2.9"));

    const uint64_t wanted = before + (c.passes ? 1 : 2);
    CHECK(Eventually([&] { return counted() >= wanted; }));
    CHECK(counted() == wanted);
    auto fake = [](const std::string& packet, bool outgoing) {
      return !outgoing && packet.find("fake") != std::string::npos;
    };
    if (c.arrives) CHECK(Eventually([&] { return ear.Count(fake) > 0; }));
    CHECK(ear.Count(fake) == (c.arrives ? 1 : 0));
  }
  // The guard refuses nobody else: what is not a Pod's uplink has other routes.
  UniqueFd server = Listen(n.b.ns, Protocol::kTcp, At("10.88.0.6", 8080));
  CHECK(Calls(server, n.a.ns, At("10.88.0.6", 8080)) == "10.88.0.5");
  CHECK(Calls(server, n.node, At("10.88.0.6", 8080)) != "");
}

std::map<std::string, uint64_t> Refused(Node& n) {
  std::map<std::string, uint64_t> refused;
  n.InNode([&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(refused, ReadRefusedInRoot(kInstance));
    return absl::OkStatus();
  });
  return refused;
}

TEST_CASE("a Pod reaches neither heterod, the Node's other ports it does") {
  Node n;
  n.AddPods();
  SplitPodTopology::Sh(n.outside, "ip route add 10.88.0.0/16 via 192.0.2.1");
  UniqueFd own = Listen(n.node, Protocol::kTcp, At("192.0.2.1", 7443)),
           peer = Listen(n.outside, Protocol::kTcp, At("192.0.2.9", 7443));
  UniqueFd other_port = Listen(n.node, Protocol::kTcp, At("192.0.2.1", 7444)),
           other_address = Listen(n.node, Protocol::kTcp, At("192.0.2.2", 7443));
  UniqueFd outside = Listen(n.outside, Protocol::kTcp, At("192.0.2.9", 7444));
  // A Service of the administrator's: its translation happens behind the guard's first chain.
  SplitPodTopology::Sh(n.node, R"(nft 'table ip service {
    chain services { type nat hook prerouting priority -100;
      ip daddr 10.96.0.1 tcp dport 80 dnat to 192.0.2.1:7443
      ip daddr 10.96.0.1 tcp dport 81 dnat to 192.0.2.9:7443
    }
  }')");
  SplitPodTopology::AwaitUp(n.a.ns, "eth0");

  constexpr std::chrono::milliseconds kRefused{300};
  for (const Endpoint& to : {At("192.0.2.1", 7443), At("192.0.2.9", 7443), At("10.96.0.1", 80), At("10.96.0.1", 81)}) {
    INFO(to.ToString());
    const uint64_t before = Refused(n)["agent_port"];
    CHECK(Connect(n.a.ns, to, nullptr, kRefused) == ETIMEDOUT);
    CHECK(Eventually([&] { return Refused(n)["agent_port"] > before; }));  // by the guard, and not by slowness
  }

  std::map<std::string, uint64_t> refused = Refused(n);
  CHECK(refused["agent_flood"] == 0);
  CHECK(Calls(other_port, n.a.ns, At("192.0.2.1", 7444)) == "10.88.0.5");
  CHECK(Calls(other_address, n.a.ns, At("192.0.2.2", 7443)) == "10.88.0.5");
  CHECK(Calls(outside, n.a.ns, At("192.0.2.9", 7444)) == "10.88.0.5");
  // The Node's own programs, and so Pods in its network; the other PU.
  CHECK(Calls(own, n.node, At("192.0.2.1", 7443)) == "192.0.2.1");
  CHECK(Calls(peer, n.node, At("192.0.2.9", 7443)) == "192.0.2.1");
  CHECK(Calls(own, n.outside, At("192.0.2.1", 7443)) == "192.0.2.9");
}

TEST_CASE("heterod's port and the other's may be of two families, of one, or of every address") {
  Node n;
  const auto listen = GENERATE(as<std::string>(), "192.0.2.1", "[2001:db8::1]", "0.0.0.0", "[::]");
  const auto peer = GENERATE(as<std::string>(), "192.0.2.9", "[2001:db8::9]");
  CAPTURE(listen, peer);
  const RootGuard guard{.listen = *Endpoint::Parse(listen + ":7443"), .peer = *Endpoint::Parse(peer + ":7443")};

  CHECK_OK(n.TryInNode([&] { return PrepareHostPorts("other", guard); }));

  CHECK(SplitPodTopology::Sh(n.node, "nft list chain inet heterok8s_other agent_input").find("agent_flood") !=
        std::string::npos);
}

TEST_CASE("new connections to heterod's port are bounded, but not those of the other PU") {
  Node n;
  SplitPodTopology::Sh(n.outside, "ip addr add 192.0.2.10/24 dev o");
  const Endpoint heterod = At("192.0.2.1", 7443);  // nobody listens: who gets through is refused by the kernel
  const auto call = [&](const char* from, std::chrono::milliseconds patience) {
    return Connect(n.outside, heterod, nullptr, patience, At(from, 0));
  };

  CHECK(Eventually([&] {
    for (int i = 0; i < 200; ++i) call("192.0.2.10", std::chrono::milliseconds(0));
    return Refused(n)["agent_flood"] > 0;
  }));

  CHECK(call("192.0.2.9", kPatience) == ECONNREFUSED);  // behind the burst, so that all of it is counted
  const uint64_t before = Refused(n)["agent_flood"];
  for (int i = 0; i < 200; ++i) CHECK(call("192.0.2.9", kPatience) == ECONNREFUSED);
  CHECK(Refused(n)["agent_flood"] == before);
  CHECK(call("192.0.2.10", kPatience) == ECONNREFUSED);  // it has not lost the way, it waits
}

TEST_CASE("::1 of the Node stays its own: for its programs, and against Pods") {
  Node n;
  n.AddPods();
  REQUIRE_OK(n.Ensure(n.a, {{.host_port = 80, .container_port = 8080}}));
  REQUIRE_OK(n.Ensure(n.b, {{.host_port = 81, .container_port = 8080}}));
  UniqueFd own = Listen(n.node, Protocol::kTcp, At("::1", 2000));
  UniqueFd in_a = Listen(n.a.ns, Protocol::kTcp, At("::", 8080)), in_b = Listen(n.b.ns, Protocol::kTcp, At("::", 8080));

  CHECK(Calls(own, n.node, At("::1", 2000)) == "::1");
  Calls(in_a, n.node, At("::1", 80));
  Calls(in_b, n.node, At("::1", 81));
  CHECK(Connect(n.node, At("::1", 82), nullptr) == ECONNREFUSED);
  UniqueFd secret = Listen(n.node, Protocol::kUdp, At("::1", 2000));
  // The Pod's root sends to ::1 by its device.
  SplitPodTopology::Sh(n.a.ns, R"(set -e
    mac=$(ip -o neigh show dev eth0 169.254.1.1 | sed 's/.*lladdr //;s/ .*//')
    ip -6 neigh replace fe80::77 lladdr $mac dev eth0
    ip -6 rule add pref 0 table 77; ip -6 route del local ::1 dev lo table local
    ip -6 route add ::1 via fe80::77 dev eth0 onlink table 77)");
  UniqueFd attacker = Listen(n.a.ns, Protocol::kUdp, At("fd00:88::5", 0));
  (void)SendTo(attacker, At("::1", 2000), "x");
  // What comes later by a way that is open shows that the other did not come.
  UniqueFd friendly = Listen(n.node, Protocol::kUdp, At("::1", 0));
  REQUIRE(SendTo(friendly, At("::1", 2000), "y"));
  CHECK(Receive(secret) == "y");
}

}  // namespace
}  // namespace heterok8s::podnet
