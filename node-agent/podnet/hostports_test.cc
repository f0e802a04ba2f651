// Host ports on real namespaces; hostports_node.h draws those of ordinary Pods. A split Pod:
//
//   node ───┬─ dpu ─┬─ outside
//           │       └─ s 10.88.0.7
//      198.51.100.1
#include "node-agent/podnet/hostports.h"

#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "node-agent/podnet/hostports_node.h"

namespace heterok8s::podnet {
namespace {

using testing::HasCode;
using testing::Says;

TEST_CASE("a TCP host port leads to the Pod from everywhere") {
  Node n;
  n.AddPods();
  UniqueFd v4 = Listen(n.a.ns, Protocol::kTcp, At("0.0.0.0", 8080));
  UniqueFd v6 = Listen(n.a.ns, Protocol::kTcp, At("fd00:88::5", 8080));

  REQUIRE_OK(n.Ensure(n.a, {{.host_port = 80, .container_port = 8080}}));

  CHECK(Calls(v4, n.outside, At("192.0.2.1", 80)) == "192.0.2.9");
  CHECK(Calls(v4, n.outside, At("192.0.2.2", 80)) == "192.0.2.9");
  CHECK(Calls(v6, n.outside, At("2001:db8::1", 80)) == "2001:db8::9");
  CHECK(Calls(v4, n.node, At("192.0.2.1", 80)) == "192.0.2.1");
  Calls(v4, n.node, At("127.0.0.1", 80));
  Calls(v6, n.node, At("2001:db8::1", 80));
  Calls(v6, n.node, At("::1", 80));
  CHECK(Calls(v4, n.b.ns, At("192.0.2.1", 80)) == "10.88.0.6");
  Calls(v4, n.a.ns, At("192.0.2.1", 80));  // to itself
  Calls(v6, n.a.ns, At("2001:db8::1", 80));
}

TEST_CASE("a host port on one address is not served on the others") {
  Node n;
  n.AddPods();
  UniqueFd server = Listen(n.a.ns, Protocol::kTcp, At("0.0.0.0", 8080));

  REQUIRE_OK(
      n.Ensure(n.a, {{.host_ip = IpAddress::Parse("192.0.2.2").value(), .host_port = 80, .container_port = 8080}}));
  REQUIRE_OK(
      n.Ensure(n.b, {{.host_ip = IpAddress::Parse("127.0.0.1").value(), .host_port = 80, .container_port = 9090}}));

  CHECK(Calls(server, n.outside, At("192.0.2.2", 80)) == "192.0.2.9");
  CHECK(Connect(n.outside, At("192.0.2.1", 80), nullptr) == ECONNREFUSED);
  UniqueFd local = Listen(n.b.ns, Protocol::kTcp, At("0.0.0.0", 9090));
  Calls(local, n.node, At("127.0.0.1", 80));
}

TEST_CASE("a port that is taken is refused with the name of the Pod that has it") {
  Node n;
  n.AddPods();
  REQUIRE_OK(n.Ensure(n.a, {{.host_port = 80, .container_port = 8080}}));

  CHECK_THAT(n.Ensure(n.b, {{.host_port = 80, .container_port = 8080}}),
             HasCode(absl::StatusCode::kAlreadyExists) && Says("pod-a"));
  CHECK_THAT(n.Ensure(n.b, {{.host_ip = IpAddress::Parse("192.0.2.2").value(), .host_port = 80, .container_port = 1}}),
             HasCode(absl::StatusCode::kAlreadyExists) && Says("pod-a"));
  CHECK_OK(n.Ensure(n.b, {{.protocol = Protocol::kUdp, .host_port = 80, .container_port = 8080}}));
  CHECK_OK(n.Ensure(n.a, {{.host_port = 80, .container_port = 8080}}));

  REQUIRE_OK(n.Remove(n.a));
  CHECK_OK(n.Ensure(n.b, {{.host_port = 80, .container_port = 8080}}));
}

TEST_CASE("a UDP caller that never stops follows the port to its next Pod") {
  Node n;
  n.AddPods();
  UniqueFd in_a = Listen(n.a.ns, Protocol::kUdp, At("0.0.0.0", 5353)),
           in_b = Listen(n.b.ns, Protocol::kUdp, At("0.0.0.0", 53));
  UniqueFd client = ConnectUdp(n.outside, At("192.0.2.1", 53));
  // Before there is any Pod: the Node's own "nobody here" is remembered by connection tracking.
  REQUIRE(Send(client, "0"));
  CHECK(Receive(client) == fmt::format("error {}", ECONNREFUSED));

  REQUIRE_OK(n.Ensure(n.a, {{.protocol = Protocol::kUdp, .host_port = 53, .container_port = 5353}}));
  REQUIRE(Send(client, "1"));
  Endpoint from;
  CHECK(Receive(in_a, &from) == "1");
  REQUIRE(SendTo(in_a, from, "answer"));
  CHECK(Receive(client) == "answer");

  REQUIRE_OK(n.Remove(n.a));
  REQUIRE_OK(n.Ensure(n.b, {{.protocol = Protocol::kUdp, .host_port = 53, .container_port = 53}}));
  REQUIRE(Send(client, "2"));
  CHECK(Receive(in_b) == "2");
}

TEST_CASE("with ipMasq a Pod calls outside by the Node's address and other Pods by its own") {
  Node n;
  n.AddPods();
  // Only for the answers to b, which keeps its address.
  SplitPodTopology::Sh(n.outside, "ip route add 10.88.0.0/16 via 192.0.2.1; ip route add fd00:88::/64 via 2001:db8::1");
  std::string empty = SplitPodTopology::Sh(n.node, "nft list table inet heterok8s_test");
  UniqueFd out4 = Listen(n.outside, Protocol::kTcp, At("0.0.0.0", 80)),
           out6 = Listen(n.outside, Protocol::kTcp, At("2001:db8::9", 80)),
           in_b = Listen(n.b.ns, Protocol::kTcp, At("10.88.0.6", 80)),
           in_a = Listen(n.a.ns, Protocol::kTcp, At("10.88.0.5", 8080));
  const std::vector<IpPrefix> inside = {*IpPrefix::Parse("10.88.0.0/16"), *IpPrefix::Parse("fd00:88::/64")};

  for (int i = 0; i < 2; ++i) REQUIRE_OK(n.Ensure(n.a, {}, inside));

  CHECK(Calls(out4, n.a.ns, At("192.0.2.9", 80)) == "192.0.2.1");
  CHECK(Calls(out6, n.a.ns, At("2001:db8::9", 80)) == "2001:db8::1");
  CHECK(Calls(in_b, n.a.ns, At("10.88.0.6", 80)) == "10.88.0.5");
  CHECK(Calls(out4, n.b.ns, At("192.0.2.9", 80)) == "10.88.0.6");
  CHECK(Calls(out6, n.b.ns, At("2001:db8::9", 80)) == "fd00:88::6");
  // Who calls the Pod is not changed, nor by its host port.
  REQUIRE_OK(n.Ensure(n.a, {{.host_port = 80, .container_port = 8080}}, inside));
  CHECK(Calls(in_a, n.outside, At("10.88.0.5", 8080)) == "192.0.2.9");
  CHECK(Calls(in_a, n.outside, At("192.0.2.1", 80)) == "192.0.2.9");

  REQUIRE_OK(n.Remove(n.a));
  CHECK(Calls(out4, n.a.ns, At("192.0.2.9", 80)) == "10.88.0.5");
  CHECK(SplitPodTopology::Sh(n.node, "nft list table inet heterok8s_test") == empty);
}

TEST_CASE("ports change with the spec, and removing leaves nothing") {
  Node n;
  n.AddPods();
  std::string empty = SplitPodTopology::Sh(n.node, "nft list table inet heterok8s_test");
  UniqueFd server = Listen(n.a.ns, Protocol::kTcp, At("0.0.0.0", 8080));
  REQUIRE_OK(n.Ensure(n.a, {{.host_port = 80, .container_port = 8080}, {.host_port = 81, .container_port = 8080}}));
  std::string before = SplitPodTopology::Sh(n.node, "nft list table inet heterok8s_test");

  REQUIRE_OK(n.Ensure(n.a, {{.host_port = 80, .container_port = 8080}, {.host_port = 81, .container_port = 8080}}));
  n.InNode([&] { return PrepareHostPorts(kInstance, kGuard); });  // a restart
  CHECK(SplitPodTopology::Sh(n.node, "nft list table inet heterok8s_test") == before);

  REQUIRE_OK(n.Ensure(n.a, {{.host_port = 82, .container_port = 8080}}));
  Calls(server, n.outside, At("192.0.2.1", 82));
  CHECK(Connect(n.outside, At("192.0.2.1", 80), nullptr) == ECONNREFUSED);

  for (int i = 0; i < 2; ++i) REQUIRE_OK(n.Remove(n.a));
  CHECK(Connect(n.outside, At("192.0.2.1", 82), nullptr) == ECONNREFUSED);
  CHECK(SplitPodTopology::Sh(n.node, "nft list table inet heterok8s_test") == empty);
}

TEST_CASE("a host port of a Pod behind the DPU answers through the Node") {
  Node n;
  n.AddPods();
  NetnsRef dpu = MakeNetns("dpu"), pod = MakeNetns("s");
  // The DPU's root namespace, by hand: it knows the Pod, the outside and the Node, and would route answers past the
  // Node.
  SplitPodTopology::Sh(dpu, fmt::format(R"(set -e
    sysctl -qw net.ipv4.ip_forward=1
    ip link add node0 type veth peer name dpu0 netns {0}
    ip link add pod0 type veth peer name eth0 netns {1}
    ip link add out0 type veth peer name o2 netns {2}
    ip link set node0 up; ip link set pod0 up; ip link set out0 up
    ip addr add 198.51.100.2/30 dev node0; ip addr add 203.0.113.1/24 dev out0; ip addr add 10.88.0.1/32 dev pod0
    ip route add 10.88.0.7 dev pod0; ip route add 192.0.2.0/24 via 198.51.100.1; ip route add 10.88.0.0/24 via 198.51.100.1
    nsenter --net={0} sh -ec 'ip link set dpu0 up; ip addr add 198.51.100.1/30 dev dpu0
      ip route add 203.0.113.0/24 via 198.51.100.2; ip route add 10.88.0.7 via 198.51.100.2'
    nsenter --net={1} sh -ec 'ip link set eth0 up; ip addr add 10.88.0.7/32 dev eth0
      ip route add 10.88.0.1 dev eth0; ip route add default via 10.88.0.1'
    nsenter --net={2} sh -ec 'ip link set o2 up; ip addr add 203.0.113.9/24 dev o2
      ip route add 198.51.100.0/24 via 203.0.113.1')",
                                        n.node.path(), pod.path(), n.outside.path()));
  UniqueFd server = Listen(pod, Protocol::kTcp, At("10.88.0.7", 8080));

  std::string pod_path = pod.path();
  Pod split{"pod-s", std::move(pod), {*IpAddress::Parse("10.88.0.7")}};
  REQUIRE_OK(n.Ensure(split, {{.host_port = 80, .container_port = 8080}}));

  CHECK(Calls(server, n.outside, At("198.51.100.1", 80)) == "198.51.100.1");
  CHECK(Calls(server, n.b.ns, At("198.51.100.1", 80)) == "10.88.0.6");  // an ordinary Pod of this Node
  Calls(server, n.node, At("127.0.0.1", 80));
  Calls(server, split.ns, At("198.51.100.1", 80));

  // Translated on the DPU, which their answers pass, calls from outside keep their source.
  SplitPodTopology::Sh(dpu, "ip link set pod0 alias heterok8s:test:pod-s:eth0");
  REQUIRE_OK(sys::InNetns(dpu, [&]() -> absl::Status {
    HK_RETURN_IF_ERROR(PrepareHostPorts(kInstance));
    return EnsureHostPorts(
        kInstance, {.pod_key = split.key,
                    .ports = {{.host_ip = *IpAddress::Parse("198.51.100.1"), .host_port = 80, .container_port = 8080}},
                    .addresses = split.addresses,
                    .of_other_pu = true});
  }));
  CHECK(Calls(server, n.outside, At("198.51.100.1", 80)) == "203.0.113.9");
  CHECK(Calls(server, n.b.ns, At("198.51.100.1", 80)) == "10.88.0.6");
  Calls(server, n.node, At("127.0.0.1", 80));
  Calls(server, split.ns, At("198.51.100.1", 80));

  // The way is everybody's: localhost leaves by it as long as a host port needs that, and as somebody else wants it.
  SplitPodTopology::Sh(n.node, "ip route add 10.88.0.8 via 198.51.100.2");
  Pod second{"pod-t", *NetnsRef::Open(pod_path), {*IpAddress::Parse("10.88.0.8")}};
  const auto localnet = [&] { return SplitPodTopology::Sh(n.node, "cat /proc/sys/net/ipv4/conf/dpu0/route_localnet"); };
  REQUIRE_OK(n.Ensure(second, {{.host_port = 81, .container_port = 8080}}));
  REQUIRE_OK(n.Remove(split));
  CHECK(localnet() == "1\n");
  REQUIRE_OK(n.Remove(second));
  CHECK(localnet() == "0\n");
  SplitPodTopology::Sh(n.node, "sysctl -qw net.ipv4.conf.dpu0.route_localnet=1");
  REQUIRE_OK(n.Ensure(second, {{.host_port = 81, .container_port = 8080}}));
  REQUIRE_OK(n.Remove(second));
  CHECK(localnet() == "1\n");
  (void)sys::DeleteNetns(dpu.path());
  (void)sys::DeleteNetns(pod_path);
}

TEST_CASE("without the table, and so without its guard, localhost is not let out") {
  Node n;
  n.AddPods();
  SplitPodTopology::Sh(n.node, "nft delete table inet heterok8s_test");

  CHECK_THAT(n.Ensure(n.a, {{.host_port = 80, .container_port = 8080}}), HasCode(absl::StatusCode::kNotFound));

  CHECK(SplitPodTopology::Sh(n.node, "cat /proc/sys/net/ipv4/conf/hku*/route_localnet | sort -u") == "0\n");
}

TEST_CASE("the Node's addresses are those by which others know it") {
  Node n;
  n.AddPods();
  std::vector<IpAddress> found;
  n.InNode([&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(found, NodeAddresses());
    return absl::OkStatus();
  });

  std::sort(found.begin(), found.end());
  CHECK(found == std::vector<IpAddress>{*IpAddress::Parse("192.0.2.1"), *IpAddress::Parse("192.0.2.2"),
                                        *IpAddress::Parse("2001:db8::1")});
}

TEST_CASE("a table per instance, whatever its name") {
  CHECK(HostPortTable("demo") == "inet heterok8s_demo");
  CHECK(HostPortTable("a-b") != HostPortTable("a.b"));
  CHECK(HostPortTable("a-b").find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_ ") == std::string::npos);
}

TEST_CASE("a look at host ports and masquerading finds what is missing, and what is another's") {
  Node node;
  node.AddPods();
  const HostPortSpec spec{.pod_key = "pod-a",
                          .ports = {{.host_port = 8080, .container_port = 80}},
                          .addresses = node.a.addresses,
                          .masquerade_outside = {*IpPrefix::Parse("10.88.0.0/16")}};
  auto check = [&] { return node.TryInNode([&] { return CheckHostPorts(kInstance, spec); }); };
  CHECK_THAT(check(), Says("pod-a"));
  auto ensure = [&] { return node.TryInNode([&] { return EnsureHostPorts(kInstance, spec); }); };
  REQUIRE_OK(ensure());
  CHECK_OK(check());

  for (const char* element : {"any4 { tcp . 8080 }", "any6 { tcp . 8080 }", "masq4 { 10.88.0.5 }",
                              "inside4 { 10.88.0.5 . 10.88.0.0/16 }", "hairpin4 { 10.88.0.5 . 10.88.0.5 }"}) {
    INFO(element);
    SplitPodTopology::Sh(node.node, fmt::format("nft 'delete element {} {}'", HostPortTable(kInstance), element));
    CHECK_THAT(check(), HasCode(absl::StatusCode::kFailedPrecondition) && Says("add element"));
    REQUIRE_OK(ensure());
    CHECK_OK(check());
  }
  SplitPodTopology::Sh(node.node, "nft flush ruleset");
  CHECK_THAT(check(), HasCode(absl::StatusCode::kFailedPrecondition) && Says("is missing"));
}

TEST_CASE("the Node's addresses are its devices', not those of Services or Pods") {
  Node node;
  node.AddPods();
  SplitPodTopology::Sh(
      node.node, "ip link add kube-ipvs0 type veth peer name services && ip addr add 10.96.0.1/32 dev kube-ipvs0");
  absl::StatusOr<std::vector<IpAddress>> addresses;
  node.InNode([&] {
    addresses = NodeAddresses();
    return addresses.status();
  });

  std::vector<std::string> texts;
  for (const IpAddress& address : *addresses) texts.push_back(address.ToString());
  std::sort(texts.begin(), texts.end());
  CHECK(texts == std::vector<std::string>{"192.0.2.1", "192.0.2.2", "2001:db8::1"});
}

}  // namespace
}  // namespace heterok8s::podnet
