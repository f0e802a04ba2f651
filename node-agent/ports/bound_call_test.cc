// Clients that bound themselves before they call the other PU: which addresses work, and where answers go.
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"
#include "node-agent/ports/two_pus.h"

namespace heterok8s::ports {
namespace {

TEST_CASE("a client that bound itself to localhost or the Pod IP before it connects calls across", "[netns]") {
  TwoPus pus;
  for (Pu* caller_pu : {&pus.host(), &pus.dpu()}) {
    Pu& server_pu = pus.Other(*caller_pu);
    for (int family : {AF_INET, AF_INET6}) {
      for (Where bound : {Where::kLocalhost, Where::kPodIp}) {
        for (Where to : {Where::kLocalhost, Where::kPodIp}) {
          IpAddress source = AddressOf(bound, family), target = AddressOf(to, family);
          INFO((caller_pu == &pus.host() ? "host " : "DPU ") << source.ToString() << " to " << target.ToString());
          PortKey key;
          sys::UniqueFd server =
              Server(pus, server_pu, family, SOCK_STREAM, AddressOf(Where::kAny, family), false, &key);
          sys::UniqueFd caller = caller_pu->Socket(family, SOCK_STREAM);
          REQUIRE(Bind(caller, source, 0) == 0);
          REQUIRE(Connect(caller, target, key.port) == 0);
          std::string peer;
          sys::UniqueFd accepted = Accept(server, &peer);
          REQUIRE(accepted.valid());
          CHECK(peer == source.ToString());
          CHECK(PeerName(accepted) == source.ToString());
          CHECK(SockName(accepted) == target.ToString());
          CHECK(SockName(caller) == source.ToString());
          CHECK(PeerName(caller) == target.ToString());
          REQUIRE(send(caller.get(), "ping", 4, 0) == 4);
          CHECK(ReceiveFrom(accepted, kPatienceMs) == "ping");
          REQUIRE(send(accepted.get(), "pong", 4, 0) == 4);
          CHECK(ReceiveFrom(caller, kPatienceMs) == "pong");
        }
      }
    }
  }
}

// One question and its answer: `caller` is bound to `source`, the server to `bound`, and the call is to `to`.
void BoundUdpCall(TwoPus& pus, Pu& caller_pu, const sys::UniqueFd& server, const IpAddress& source, const IpAddress& to,
                  uint16_t server_port, uint16_t& port, bool connected) {
  INFO((&caller_pu == &pus.host() ? "host " : "DPU ")
       << source.ToString() << " to " << to.ToString() << (connected ? " connected" : " unconnected") << ", port "
       << port);
  sys::UniqueFd caller = caller_pu.Socket(source.family == Family::kV4 ? AF_INET : AF_INET6, SOCK_DGRAM);
  REQUIRE(Bind(caller, source, port) == 0);
  port = PortOf(caller);
  REQUIRE(Call(caller, "ping", to, server_port, connected) == 0);
  IpAddress from;
  uint16_t from_port = 0;
  CHECK(ReceiveFrom(server, kPatienceMs, &from, &from_port) == "ping from " + source.ToString());
  CHECK(from_port == port);
  PortKey caller_key{.protocol = Protocol::kUdp, .address = source, .port = port};
  pus.AwaitTold(caller_pu, caller_key, true);
  for (int answer = 0; answer < 2; ++answer) {
    REQUIRE(SendTo(server, "pong", from, from_port) == 0);
    CHECK(ReceiveFrom(caller, kPatienceMs) == "pong from " + to.ToString());
  }
  if (connected) CHECK(PeerName(caller) == to.ToString());
  CHECK(SockName(caller) == source.ToString());
  caller.reset();
  pus.AwaitTold(caller_pu, caller_key, false);
}

TEST_CASE("a UDP client that bound itself is answered whether it connects or not, one after the other", "[netns]") {
  TwoPus pus;
  for (Pu* caller_pu : {&pus.host(), &pus.dpu()}) {
    for (int family : {AF_INET, AF_INET6}) {
      for (Where source : {Where::kLocalhost, Where::kPodIp}) {
        for (Where to : {Where::kLocalhost, Where::kPodIp}) {
          PortKey key;
          sys::UniqueFd server =
              Server(pus, pus.Other(*caller_pu), family, SOCK_DGRAM, AddressOf(to, family), false, &key);
          uint16_t port = 0;  // all three have the same port
          for (bool connected : {true, false, true}) {
            BoundUdpCall(pus, *caller_pu, server, AddressOf(source, family), AddressOf(to, family), key.port, port,
                         connected);
          }
        }
      }
    }
  }
}

TEST_CASE("a wildcard UDP server answers a client that bound itself to what it calls and connected", "[netns]") {
  TwoPus pus;
  for (Pu* caller_pu : {&pus.host(), &pus.dpu()}) {
    for (int family : {AF_INET, AF_INET6}) {
      PortKey key;
      sys::UniqueFd server =
          Server(pus, pus.Other(*caller_pu), family, SOCK_DGRAM, AddressOf(Where::kAny, family), false, &key);
      for (Where where : {Where::kLocalhost, Where::kPodIp}) {
        IpAddress address = AddressOf(where, family);
        uint16_t port = 0;
        for (bool connected : {true, false, true}) {
          BoundUdpCall(pus, *caller_pu, server, address, address, key.port, port, connected);
        }
      }
    }
  }
}

TEST_CASE("a datagram longer than the link's packets reaches a client bound to the Pod IP and connected", "[netns]") {
  TwoPus pus;
  for (int family : {AF_INET, AF_INET6}) {
    IpAddress pod_ip = AddressOf(Where::kPodIp, family);
    PortKey key;
    sys::UniqueFd server = Server(pus, pus.dpu(), family, SOCK_DGRAM, AddressOf(Where::kAny, family), false, &key);
    sys::UniqueFd caller = pus.host().Socket(family, SOCK_DGRAM);
    REQUIRE(Bind(caller, pod_ip, 0) == 0);
    REQUIRE(Connect(caller, pod_ip, key.port) == 0);
    REQUIRE(send(caller.get(), "ping", 4, 0) == 4);
    IpAddress from;
    uint16_t from_port = 0;
    REQUIRE(ReceiveFrom(server, kPatienceMs, &from, &from_port) == "ping from " + pod_ip.ToString());
    pus.AwaitTold(pus.host(), {.protocol = Protocol::kUdp, .address = pod_ip, .port = from_port}, true);

    // The server's kernel routes it to itself first, whose MTU is 65,536.
    REQUIRE(SendTo(server, std::string(9000, 'x'), from, from_port) == 0);

    CHECK(ReceiveFrom(caller, kPatienceMs) == std::string(256, 'x') + " from " + pod_ip.ToString());
  }
}

TEST_CASE("a client bound to another address of 127/8 stays with its own kernel", "[netns]") {
  TwoPus pus;
  PortKey key;
  IpAddress localhost = AddressOf(Where::kLocalhost, AF_INET);
  sys::UniqueFd server = Server(pus, pus.dpu(), AF_INET, SOCK_STREAM, localhost, false, &key);
  sys::UniqueFd caller = pus.host().Socket(AF_INET, SOCK_STREAM);
  REQUIRE(Bind(caller, *IpAddress::Parse("127.0.0.2"), 0) == 0);

  CHECK(Connect(caller, localhost, key.port) == -EADDRNOTAVAIL);
}

TEST_CASE("unconnected UDP works from sockets bound to localhost or the Pod IP", "[netns]") {
  TwoPus pus;
  for (int family : {AF_INET, AF_INET6}) {
    for (Where where : {Where::kLocalhost, Where::kPodIp}) {
      IpAddress address = AddressOf(where, family);
      INFO(address.ToString());
      PortKey server_key, caller_key;
      sys::UniqueFd server = Server(pus, pus.dpu(), family, SOCK_DGRAM, address, false, &server_key);
      sys::UniqueFd caller = Server(pus, pus.host(), family, SOCK_DGRAM, address, false, &caller_key);
      REQUIRE(SendTo(caller, "ping", address, server_key.port) == 0);
      IpAddress from;
      uint16_t port = 0;
      CHECK(ReceiveFrom(server, kPatienceMs, &from, &port) == "ping from " + address.ToString());
      CHECK(port == caller_key.port);
      REQUIRE(SendTo(server, "pong", from, port) == 0);
      CHECK(ReceiveFrom(caller, kPatienceMs) == "pong from " + address.ToString());
    }
  }
}

}  // namespace
}  // namespace heterok8s::ports
