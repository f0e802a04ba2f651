// A split Pod's packets, on real namespaces. The picture is in split_pod_topology.h.
#include "node-agent/podnet/link.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "node-agent/podnet/link_table.h"
#include "node-agent/podnet/split_pod_topology.h"
#include "node-agent/podnet/test_sockets.h"
#include "node-agent/podnet/wired_pod.h"

namespace heterok8s::podnet {
namespace {

using sys::UniqueFd;
using testing::HasCode;
using testing::Says;

struct Addresses {
  const char *pod, *net, *far, *any, *host_localhost, *dpu_localhost;
};
constexpr Addresses kV4{"10.88.0.5", "10.88.0.1", "10.99.0.2", "0.0.0.0", "169.254.64.4", "169.254.64.5"};
constexpr Addresses kV6{
    "fd00:88::5", "fd00:88::1", "fd00:99::2", "::", "fd68:6b38:7338::a9fe:4004", "fd68:6b38:7338::a9fe:4005"};

void TalksTcp(const UniqueFd& listener, const sys::NetnsRef& from, const Endpoint& to, const char* as) {
  INFO("to " << to.ToString());
  UniqueFd client;
  REQUIRE(Connect(from, to, &client) == 0);
  UniqueFd server = Accept(listener);
  REQUIRE(server.valid());
  CHECK(PeerOf(server).address.ToString() == as);
  CHECK(Send(client, "question"));
  CHECK(Receive(server) == "question");
  CHECK(Send(server, "answer"));
  CHECK(Receive(client) == "answer");
}

void TalksUdp(const UniqueFd& server, const UniqueFd& client, const Endpoint& to) {
  INFO("to " << to.ToString());
  REQUIRE(SendTo(client, to, "question"));
  Endpoint from;
  REQUIRE(Receive(server, &from) == "question");
  REQUIRE(SendTo(server, from, "answer"));
  Endpoint answered;
  REQUIRE(Receive(client, &answered) == "answer");
  CHECK(answered == to);
}

TEST_CASE("after the wait for the link the first datagram passes, from the end that came up first as well") {
  SplitPodTopology pod;
  REQUIRE_OK(EnsureLink(pod.DpuSpec()));
  CHECK_THAT(AwaitLink(pod.DpuSpec(), std::chrono::milliseconds(1)), HasCode(absl::StatusCode::kDeadlineExceeded));
  REQUIRE_OK(EnsureLink(pod.HostSpec()));

  REQUIRE_OK(AwaitLink(pod.DpuSpec(), std::chrono::seconds(15)));
  REQUIRE_OK(AwaitLink(pod.HostSpec(), std::chrono::seconds(15)));

  for (const Addresses& a : {kV4, kV6}) {
    UniqueFd app = Listen(pod.pod_h(), Protocol::kUdp, At(a.any, 5353));
    UniqueFd sidecar = Listen(pod.pod_d(), Protocol::kUdp, At(a.dpu_localhost, 0));
    TalksUdp(app, sidecar, At(a.host_localhost, 5353));
  }
}

TEST_CASE("pod-h has the routes that are asked for, and outside reaches it where they lead") {
  SplitPodTopology pod;
  LinkSpec host = pod.HostSpec();
  host.routes = {{.destination = *IpPrefix::Parse("10.99.0.0/24"), .mtu = 1400},
                 {.destination = *IpPrefix::Parse("fd00:99::/64")}};
  REQUIRE_OK(EnsureLink(pod.DpuSpec()));
  REQUIRE_OK(EnsureLink(host));
  pod.AwaitLink();

  CHECK_OK(CheckLink(host));
  CHECK(SplitPodTopology::Sh(pod.pod_h(), "ip route show default; ip -6 route show default").empty());
  CHECK(SplitPodTopology::Ip(pod.pod_h(), "route show 10.99.0.0/24").find("mtu 1400") != std::string::npos);
  for (const Addresses& a : {kV4, kV6}) {
    UniqueFd app = Listen(pod.pod_h(), Protocol::kTcp, At(a.any, 8080));
    TalksTcp(app, pod.far(), At(a.pod, 8080), a.far);
    UniqueFd client;
    CHECK(Connect(pod.pod_h(), At(a.net, 80), &client) == ENETUNREACH);
  }
  pod.Ip(pod.pod_h(), "route del 10.99.0.0/24");
  CHECK_THAT(CheckLink(host), Says("route to 10.99.0.0/24 over 'eth0' is missing"));

  REQUIRE_OK(RemoveLink(host));
  CHECK(SplitPodTopology::Ip(pod.pod_h(), "-6 route show fd00:99::/64").empty());
}

TEST_CASE("a Pod whose path is another's namespace now takes nothing of that one along") {
  Wired pod;
  LinkSpec gone = pod.HostSpec();
  gone.owner.pod_key = "pod-0";

  CHECK_OK(RemoveLink(gone));

  CHECK_OK(CheckLink(pod.HostSpec()));
}

TEST_CASE("outside reaches a TCP port where its owner is") {
  Wired pod;
  for (const Addresses& a : {kV4, kV6}) {
    UniqueFd app = Listen(pod.pod_h(), Protocol::kTcp, At(a.any, 8080));
    UniqueFd sidecar = Listen(pod.pod_d(), Protocol::kTcp, At(a.any, 15006));
    pod.DpuOwns(Protocol::kTcp, 15006);

    TalksTcp(app, pod.far(), At(a.pod, 8080), a.far);
    TalksTcp(sidecar, pod.far(), At(a.pod, 15006), a.far);
  }
}

TEST_CASE("a port is reachable on the DPU before its owner is known") {
  Wired pod;
  for (const Addresses& a : {kV4, kV6}) {
    UniqueFd sidecar = Listen(pod.pod_d(), Protocol::kTcp, At(a.any, 15006));
    UniqueFd logger = Listen(pod.pod_d(), Protocol::kUdp, At(a.any, 514));
    UniqueFd client = Listen(pod.far(), Protocol::kUdp, At(a.far, 0));

    TalksTcp(sidecar, pod.far(), At(a.pod, 15006), a.far);
    TalksUdp(logger, client, At(a.pod, 514));
  }
}

TEST_CASE("a host port inside the DPU's ephemeral range is the host's") {
  Wired pod;
  UniqueFd grpc = Listen(pod.pod_h(), Protocol::kTcp, At("0.0.0.0", 50051));

  TalksTcp(grpc, pod.far(), At(kV4.pod, 50051), kV4.far);
}

TEST_CASE("outside reaches a UDP port where its owner is, and the owner may change") {
  Wired pod;
  for (const Addresses& a : {kV4, kV6}) {
    UniqueFd client = Listen(pod.far(), Protocol::kUdp, At(a.far, 0));
    {
      UniqueFd app = Listen(pod.pod_h(), Protocol::kUdp, At(a.pod, 5353));
      TalksUdp(app, client, At(a.pod, 5353));
    }
    UniqueFd sidecar = Listen(pod.pod_d(), Protocol::kUdp, At(a.pod, 5353));
    pod.DpuOwns(Protocol::kUdp, 5353);
    TalksUdp(sidecar, client, At(a.pod, 5353));

    sidecar.reset();
    pod.DpuOwns(Protocol::kUdp, 5353, false);
    UniqueFd app = Listen(pod.pod_h(), Protocol::kUdp, At(a.pod, 5353));
    TalksUdp(app, client, At(a.pod, 5353));
  }
}

TEST_CASE("both sides reach the outside as the Pod IP, with ports of their own range") {
  Wired pod;
  for (const Addresses& a : {kV4, kV6}) {
    UniqueFd server = Listen(pod.far(), Protocol::kTcp, At(a.any, 0));
    UniqueFd udp_server = Listen(pod.far(), Protocol::kUdp, At(a.far, 0));
    Endpoint to = At(a.far, LocalPort(server)), udp_to = At(a.far, LocalPort(udp_server));
    struct {
      const sys::NetnsRef& from;
      PortRange ports;
    } sides[] = {{pod.pod_h(), {32768, 47103}}, {pod.pod_d(), {47104, 60999}}};
    for (const auto& side : sides) {
      TalksTcp(server, side.from, to, a.pod);
      UniqueFd client;
      REQUIRE(Connect(side.from, to, &client) == 0);
      CHECK(LocalPort(client) >= side.ports.first);
      CHECK(LocalPort(client) <= side.ports.last);
      Accept(server);
      UniqueFd udp_client = Listen(side.from, Protocol::kUdp, At(a.any, 0));
      TalksUdp(udp_server, udp_client, udp_to);
    }
  }
}

TEST_CASE("a port nobody owns is refused once, by the host") {
  Wired pod;
  for (const Addresses& a : {kV4, kV6}) {
    Ear network(pod.net(), "ethn"), link(pod.pod_h(), "eth0");

    CHECK(Connect(pod.far(), At(a.pod, 9999), nullptr) == ECONNREFUSED);

    auto reset = [](const std::string& packet, bool) { return IsTcpReset(packet); };
    CHECK(network.Count(reset) == 1);
    CHECK(link.Count(reset) == 1);
    CHECK(pod.Counted(pod.pod_d(), kCountForeignReset) == 0);
  }
}

TEST_CASE("the host is silent about a port of the DPU that is steered to it") {
  // The DPU's socket is gone and the DPU has heard of it, the host has not yet.
  Wired pod;
  REQUIRE_OK(SetPort(pod.HostSpec(), Protocol::kTcp, 7000, true));
  Ear network(pod.net(), "ethn");

  CHECK(Connect(pod.far(), At(kV4.pod, 7000), nullptr, std::chrono::milliseconds(50)) == ETIMEDOUT);

  CHECK(testing::Eventually([&] { return pod.Counted(pod.pod_h(), kCountForeignPort) >= 1; }));
  CHECK(network.Count([](const std::string& p, bool) { return IsTcpReset(p); }) == 0);
}

TEST_CASE("direct calls over the link addresses pass untracked") {
  Wired pod;
  for (const Addresses& a : {kV4, kV6}) {
    UniqueFd app = Listen(pod.pod_h(), Protocol::kTcp, At(a.any, 8080));
    UniqueFd sidecar = Listen(pod.pod_d(), Protocol::kTcp, At(a.any, 15001));

    TalksTcp(app, pod.pod_d(), At(a.host_localhost, 8080), a.dpu_localhost);
    TalksTcp(sidecar, pod.pod_h(), At(a.dpu_localhost, 15001), a.host_localhost);
  }
  CHECK(SplitPodTopology::Sh(pod.pod_d(), "cat /proc/net/nf_conntrack").find("169.254.64.") == std::string::npos);
}

TEST_CASE("a direct call from a socket bound to the Pod IP gets its answer") {
  Wired pod;
  for (const Addresses& a : {kV4, kV6}) {
    UniqueFd app = Listen(pod.pod_h(), Protocol::kTcp, At(a.any, 8080));
    UniqueFd sidecar = Listen(pod.pod_d(), Protocol::kTcp, At(a.any, 15001));
    UniqueFd from_host, from_dpu;

    CHECK(Connect(pod.pod_h(), At(a.dpu_localhost, 15001), &from_host, kPatience, At(a.pod, 0)) == 0);
    CHECK(Connect(pod.pod_d(), At(a.host_localhost, 8080), &from_dpu, kPatience, At(a.pod, 0)) == 0);
  }
}

TEST_CASE("a call from the host to the Pod IP and a port of the DPU arrives there") {
  Wired pod;
  for (const Addresses& a : {kV4, kV6}) {
    UniqueFd sidecar = Listen(pod.pod_d(), Protocol::kTcp, At(a.any, 15001));
    UniqueFd logger = Listen(pod.pod_d(), Protocol::kUdp, At(a.pod, 514));
    pod.DpuOwns(Protocol::kTcp, 15001);
    pod.DpuOwns(Protocol::kUdp, 514);

    TalksTcp(sidecar, pod.pod_h(), At(a.pod, 15001), a.pod);
    UniqueFd client = Listen(pod.pod_h(), Protocol::kUdp, At(a.any, 0));
    TalksUdp(logger, client, At(a.pod, 514));
  }
}

TEST_CASE("wiring again changes nothing and keeps the ports") {
  Wired pod;
  pod.DpuOwns(Protocol::kTcp, 15006);
  UniqueFd sidecar = Listen(pod.pod_d(), Protocol::kTcp, At("0.0.0.0", 15006));
  UniqueFd client;
  REQUIRE(Connect(pod.far(), At(kV4.pod, 15006), &client) == 0);
  UniqueFd server = Accept(sidecar);
  std::string before = SplitPodTopology::Sh(pod.pod_d(), "nft list table inet heterok8s; ip a; ip r; ip -6 r; ip ru");

  REQUIRE_OK(EnsureLink(pod.DpuSpec()));
  REQUIRE_OK(EnsureLink(pod.HostSpec()));

  CHECK(Send(client, "still here"));
  CHECK(Receive(server) == "still here");
  CHECK(SplitPodTopology::Sh(pod.pod_d(), "nft list table inet heterok8s; ip a; ip r; ip -6 r; ip ru") == before);
  CHECK_OK(CheckLink(pod.DpuSpec()));
  CHECK_OK(CheckLink(pod.HostSpec()));
}

}  // namespace
}  // namespace heterok8s::podnet
