// A Node with two ordinary Pods and an outside, on real namespaces: for the tests of host ports and of the root table's
// guard.
//
//   outside ─── node ─┬─ a 10.88.0.5
//   192.0.2.9         └─ b 10.88.0.6
//               192.0.2.1
//
// Threading: one test thread. Ownership: the namespaces go with the object. Errors: fail the running test.
//
//   Node n;
//   n.AddPods();
//   REQUIRE_OK(n.Ensure(n.a, {{.host_port = 80, .container_port = 8080}}));
#pragma once

#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <functional>
#include <string>
#include <vector>

#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "node-agent/podnet/hostports.h"
#include "node-agent/podnet/split_pod_topology.h"
#include "node-agent/podnet/test_sockets.h"
#include "node-agent/podnet/uplink.h"

namespace heterok8s::podnet {

using sys::NetnsRef;
using sys::UniqueFd;

inline constexpr char kInstance[] = "test";
inline const RootGuard kGuard{.link_range = *IpPrefix::Parse("169.254.64.0/18"),
                              .listen = *Endpoint::Parse("192.0.2.1:7443"),
                              .peer = *Endpoint::Parse("192.0.2.9:7443")};

inline NetnsRef MakeNetns(const char* name) {
  static int number = 0;
  auto ns = sys::CreateNetns(fmt::format("/run/netns/hk{}-hp-{}-{}", getpid(), name, number++));
  REQUIRE_OK(ns);
  SplitPodTopology::Sh(*ns, "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.dad_transmits=0");
  return *std::move(ns);
}

struct Pod {
  std::string key;
  NetnsRef ns;
  std::vector<IpAddress> addresses;
};

struct Node {
  enum class Namespaces { kMade };
  explicit Node(Namespaces) {}  // complete from here on: what fails below still runs the destructor
  Node() : Node(Namespaces::kMade) {
    SplitPodTopology::Sh(outside, fmt::format(R"(set -e
      ip link add o type veth peer name wan netns {0}
      ip link set o up; ip addr add 192.0.2.9/24 dev o; ip addr add 2001:db8::9/64 dev o
      nsenter --net={0} sh -ec 'ip link set wan up; ip addr add 192.0.2.1/24 dev wan
        ip addr add 192.0.2.2/24 dev wan; ip addr add 2001:db8::1/64 dev wan')",
                                              node.path()));
    SplitPodTopology::AwaitUp(outside, "o");
    InNode([&] { return EnableForwarding(); });
    InNode([&] { return PrepareHostPorts(kInstance, kGuard); });
  }
  ~Node() {
    for (const NetnsRef* ns : {&outside, &node, &a.ns, &b.ns}) (void)sys::DeleteNetns(ns->path());
  }
  void AddPods() {
    for (Pod* pod : {&a, &b}) {
      InNode([&] {
        return EnsureUplink({.owner = {.instance = kInstance, .pod_key = pod->key, .ifname = "eth0"},
                             .netns_path = pod->ns.path(),
                             .ifname = "eth0",
                             .addresses = pod->addresses})
            .status();
      });
    }
  }
  absl::Status TryInNode(const std::function<absl::Status()>& fn) { return sys::InNetns(node, fn); }
  void InNode(const std::function<absl::Status()>& fn) { REQUIRE_OK(TryInNode(fn)); }
  absl::Status Ensure(const Pod& pod, std::vector<HostPort> ports, std::vector<IpPrefix> masquerade_outside = {}) {
    return TryInNode([&] {
      return EnsureHostPorts(
          kInstance,
          {.pod_key = pod.key, .ports = ports, .addresses = pod.addresses, .masquerade_outside = masquerade_outside});
    });
  }
  absl::Status Remove(const Pod& pod) {
    return TryInNode([&] { return RemoveHostPorts(kInstance, pod.key); });
  }

  NetnsRef outside = MakeNetns("out"), node = MakeNetns("node");
  Pod a{"pod-a", MakeNetns("a"), {*IpAddress::Parse("10.88.0.5"), *IpAddress::Parse("fd00:88::5")}};
  Pod b{"pod-b", MakeNetns("b"), {*IpAddress::Parse("10.88.0.6"), *IpAddress::Parse("fd00:88::6")}};
};

// Of the Node's end of the Pod's uplink, six bytes.
inline std::string GatewayMac(const Pod& pod) {
  std::string text = SplitPodTopology::Sh(pod.ns, "ip -o neigh show dev eth0 169.254.1.1");
  std::string mac;
  for (size_t at = text.find("lladdr ") + 7; mac.size() < 6; at += 3) {
    mac.push_back(static_cast<char>(std::stoi(text.substr(at, 2), nullptr, 16)));
  }
  return mac;
}

// The address by which the server saw the client.
inline std::string Calls(const UniqueFd& listener, const NetnsRef& from, const Endpoint& to) {
  INFO("to " << to.ToString());
  UniqueFd client;
  REQUIRE(Connect(from, to, &client) == 0);
  UniqueFd server = Accept(listener);
  REQUIRE(server.valid());
  CHECK(Send(server, "hello"));
  CHECK(Receive(client) == "hello");
  return PeerOf(server).address.ToString();
}

}  // namespace heterok8s::podnet
