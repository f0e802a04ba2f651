// Which calls reach which sockets of the other PU, and what both programs see: the same as on one kernel.
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"
#include "node-agent/ports/two_pus.h"

namespace heterok8s::ports {
namespace {

const char* Text(Where where) {
  return where == Where::kAny ? "wildcard" : where == Where::kLocalhost ? "localhost" : "Pod IP";
}

sys::UniqueFd Server(TwoPus& pus, Pu& pu, int family, int type, const IpAddress& address, bool dual, PortKey* key) {
  sys::UniqueFd fd = pu.Socket(family, type);
  int only = dual ? 0 : 1;
  if (family == AF_INET6) setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
  REQUIRE(Bind(fd, address, 0) == 0);
  if (type == SOCK_STREAM) REQUIRE(listen(fd.get(), 16) == 0);
  *key = {.protocol = type == SOCK_STREAM ? Protocol::kTcp : Protocol::kUdp,
          .address = address,
          .port = PortOf(fd),
          .dual_stack = dual};
  pus.AwaitTold(pu, *key, true);
  return fd;
}

void TcpCall(Pu& client, const sys::UniqueFd& server, int family, const IpAddress& to, uint16_t port, bool reaches) {
  sys::UniqueFd caller = client.Socket(family, SOCK_STREAM);
  int error = Connect(caller, to, port);
  if (!reaches) {
    CHECK(error == -ECONNREFUSED);
    return;
  }
  REQUIRE(error == 0);
  std::string accept_name;
  sys::UniqueFd accepted = Accept(server, &accept_name);
  REQUIRE(accepted.valid());
  REQUIRE(send(caller.get(), "ping", 4, 0) == 4);
  CHECK(ReceiveFrom(accepted, 3000) == "ping");
  REQUIRE(send(accepted.get(), "pong", 4, 0) == 4);
  CHECK(ReceiveFrom(caller, 3000) == "pong");
  CHECK(PeerName(caller) == to.ToString());
  CHECK(SockName(caller) == to.ToString());  // a call to one's own address comes from that address
  CHECK(accept_name == to.ToString());
  CHECK(PeerName(accepted) == to.ToString());
  CHECK(SockName(accepted) == to.ToString());
}

void UdpCall(Pu& client, const sys::UniqueFd& server, int family, const IpAddress& to, uint16_t port, bool connected,
             bool reaches) {
  sys::UniqueFd caller = client.Socket(family, SOCK_DGRAM);
  REQUIRE(Call(caller, "ping", to, port, connected) == 0);
  IpAddress from;
  uint16_t from_port = 0;
  std::string heard = ReceiveFrom(server, reaches ? 3000 : 20, &from, &from_port);
  CHECK(heard == (reaches ? "ping from " + to.ToString() : ""));
  if (!reaches || heard.empty()) return;
  CHECK(from_port == PortOf(caller));
  REQUIRE(SendTo(server, "pong", from, from_port) == 0);
  CHECK(ReceiveFrom(caller, 3000) == "pong from " + to.ToString());
  if (connected) {
    CHECK(PeerName(caller) == to.ToString());
    CHECK(SockName(caller) == to.ToString());
  }
}

TEST_CASE("a call reaches the other PU's socket exactly when it would on one kernel", "[netns]") {
  TwoPus pus;
  for (Pu* server_pu : {&pus.dpu(), &pus.host()}) {
    for (int family : {AF_INET, AF_INET6}) {
      for (Where bound : {Where::kAny, Where::kLocalhost, Where::kPodIp}) {
        for (Where to : {Where::kLocalhost, Where::kPodIp}) {
          bool reaches = bound == Where::kAny || bound == to;
          IpAddress address = AddressOf(to, family);
          PortKey key;
          INFO((family == AF_INET ? "IPv4" : "IPv6") << " from " << (server_pu == &pus.dpu() ? "host" : "DPU") << " to "
                                                     << Text(to) << ", server bound to " << Text(bound));
          {
            INFO("TCP");
            sys::UniqueFd server = Server(pus, *server_pu, family, SOCK_STREAM, AddressOf(bound, family), false, &key);
            TcpCall(pus.Other(*server_pu), server, family, address, key.port, reaches);
          }
          for (bool connected : {false, true}) {
            INFO("UDP " << (connected ? "connected" : "unconnected"));
            sys::UniqueFd server = Server(pus, *server_pu, family, SOCK_DGRAM, AddressOf(bound, family), false, &key);
            UdpCall(pus.Other(*server_pu), server, family, address, key.port, connected, reaches);
          }
        }
      }
    }
  }
}

TEST_CASE("a dual-stack server is reached by IPv4, IPv6 and v4-mapped calls", "[netns]") {
  TwoPus pus;
  for (int type : {SOCK_STREAM, SOCK_DGRAM}) {
    PortKey key;
    sys::UniqueFd server = Server(pus, pus.dpu(), AF_INET6, type, AddressOf(Where::kAny, AF_INET6), true, &key);
    for (const char* to :
         {"127.0.0.1", "::1", "::ffff:127.0.0.1", "10.200.0.5", "::ffff:10.200.0.5", "0.0.0.0", "::"}) {
      INFO((type == SOCK_STREAM ? "TCP " : "UDP ") << to);
      IpAddress address = *IpAddress::Parse(to);
      sys::UniqueFd caller = pus.host().Socket(address.family == Family::kV4 ? AF_INET : AF_INET6, type);
      REQUIRE(Connect(caller, address, key.port) == 0);
      REQUIRE(send(caller.get(), "ping", 4, 0) == 4);
      std::string shown = std::string(to) == "0.0.0.0" ? "127.0.0.1" : std::string(to) == "::" ? "::1" : to;
      CHECK(PeerName(caller) == shown);
      std::string seen = shown.find(':') == std::string::npos ? "::ffff:" + shown : shown;
      if (type == SOCK_STREAM) {
        std::string peer;
        sys::UniqueFd accepted = Accept(server, &peer);
        REQUIRE(accepted.valid());
        CHECK(peer == seen);
        CHECK(SockName(accepted) == seen);
        CHECK(ReceiveFrom(accepted, 3000) == "ping");
      } else {
        IpAddress from;
        uint16_t port = 0;
        CHECK(ReceiveFrom(server, 3000, &from, &port) == "ping from " + seen);
        REQUIRE(SendTo(server, "pong", from, port) == 0);
        CHECK(ReceiveFrom(caller, 3000) == "pong from " + shown);
      }
    }
  }
}

TEST_CASE("the localhost pair leads to localhost's sockets only, the Pod pair to the Pod IP's", "[netns]") {
  TwoPus pus;
  // Straight to the link addresses, past everything that the caller's PU knows.
  podnet::LinkAddresses link = pus.dpu().Pod().link;
  struct Row {
    Where bound;
    IpAddress to;
    bool reaches;
  };
  Row rows[] = {{Where::kLocalhost, link.dpu_localhost, true},
                {Where::kLocalhost, link.dpu_pod, false},
                {Where::kPodIp, link.dpu_pod, true},
                {Where::kPodIp, link.dpu_localhost, false},
                {Where::kAny, link.dpu_pod, true},
                {Where::kAny, link.dpu_localhost, true}};
  for (const Row& row : rows) {
    INFO("bound to " << Text(row.bound) << ", call to " << row.to.ToString());
    PortKey key;
    sys::UniqueFd server = Server(pus, pus.dpu(), AF_INET, SOCK_STREAM, AddressOf(row.bound, AF_INET), false, &key);
    sys::UniqueFd caller = pus.host().Socket(AF_INET, SOCK_STREAM);
    CHECK(Connect(caller, row.to, key.port) == (row.reaches ? 0 : -ECONNREFUSED));
  }
}

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
          CHECK(ReceiveFrom(accepted, 3000) == "ping");
          REQUIRE(send(accepted.get(), "pong", 4, 0) == 4);
          CHECK(ReceiveFrom(caller, 3000) == "pong");
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
  CHECK(ReceiveFrom(server, 3000, &from, &from_port) == "ping from " + source.ToString());
  CHECK(from_port == port);
  PortKey caller_key{.protocol = Protocol::kUdp, .address = source, .port = port};
  pus.AwaitTold(caller_pu, caller_key, true);
  for (int answer = 0; answer < 2; ++answer) {
    REQUIRE(SendTo(server, "pong", from, from_port) == 0);
    CHECK(ReceiveFrom(caller, 3000) == "pong from " + to.ToString());
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
    REQUIRE(ReceiveFrom(server, 3000, &from, &from_port) == "ping from " + pod_ip.ToString());
    pus.AwaitTold(pus.host(), {.protocol = Protocol::kUdp, .address = pod_ip, .port = from_port}, true);

    // The server's kernel routes it to itself first, whose MTU is 65,536.
    REQUIRE(SendTo(server, std::string(9000, 'x'), from, from_port) == 0);

    CHECK(ReceiveFrom(caller, 3000) == std::string(256, 'x') + " from " + pod_ip.ToString());
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
      CHECK(ReceiveFrom(server, 3000, &from, &port) == "ping from " + address.ToString());
      CHECK(port == caller_key.port);
      REQUIRE(SendTo(server, "pong", from, port) == 0);
      CHECK(ReceiveFrom(caller, 3000) == "pong from " + address.ToString());
    }
  }
}

// Makes `count` listeners of one REUSEPORT group on localhost.
std::vector<sys::UniqueFd> Group(Pu& pu, int count, uint16_t& port) {
  std::vector<sys::UniqueFd> group;
  for (int i = 0; i < count; ++i) {
    sys::UniqueFd fd = pu.Socket(AF_INET, SOCK_STREAM);
    int on = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    REQUIRE(Bind(fd, AddressOf(Where::kLocalhost, AF_INET), port) == 0);
    REQUIRE(listen(fd.get(), 64) == 0);
    port = PortOf(fd);
    group.push_back(std::move(fd));
  }
  return group;
}

TEST_CASE("every socket of a REUSEPORT group can be the last one that answers", "[netns]") {
  TwoPus pus;
  IpAddress localhost = AddressOf(Where::kLocalhost, AF_INET);
  uint16_t port = 0;
  std::vector<sys::UniqueFd> group = Group(pus.dpu(), 4, port);
  pus.AwaitTold(pus.dpu(), {.address = localhost, .port = port}, true);
  REQUIRE(pus.dpu().ports->Local(pus.dpu().pod_key).at(0).sockets == 4);

  while (!group.empty()) {
    sys::UniqueFd caller = pus.host().Socket(AF_INET, SOCK_STREAM);
    CHECK(Connect(caller, localhost, port) == 0);
    group.erase(group.begin());
  }
  pus.AwaitTold(pus.dpu(), {.address = localhost, .port = port}, false);
  CHECK(pus.dpu().ports->Local(pus.dpu().pod_key).empty());
}

TEST_CASE("a server that restarts behind its predecessor is reached when that has gone", "[netns]") {
  TwoPus pus;
  uint16_t port = 0;
  std::vector<sys::UniqueFd> old_workers = Group(pus.dpu(), 12, port), new_workers = Group(pus.dpu(), 12, port);
  pus.AwaitTold(pus.dpu(), {.address = AddressOf(Where::kLocalhost, AF_INET), .port = port}, true);

  old_workers.clear();

  // More sockets than sk_lookup can know at once, so heterod puts the rest in, a moment later.
  int error = -1;
  for (int i = 0; i < 100 && error != 0; ++i) {
    error = Connect(pus.host().Socket(AF_INET, SOCK_STREAM), AddressOf(Where::kLocalhost, AF_INET), port);
    if (error != 0) usleep(20'000);
  }
  CHECK(error == 0);
}

TEST_CASE("a multipath TCP listener that was there first is served; later ones get TCP", "[netns]") {
  constexpr int kMultipathTcp = 262;
  TwoPus pus(/*start=*/false);
  Pu& dpu = pus.dpu();
  sys::UniqueFd old_socket;
  REQUIRE_OK(sys::InNetns(dpu.ns, [&] {
    old_socket.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, kMultipathTcp));
    return absl::OkStatus();
  }));
  if (!old_socket.valid()) {
    WARN("this kernel has no multipath TCP; skipped");
    return;
  }
  REQUIRE(Bind(old_socket, AddressOf(Where::kAny, AF_INET), 0) == 0);
  REQUIRE(listen(old_socket.get(), 4) == 0);
  PortKey key{.address = AddressOf(Where::kAny, AF_INET), .port = PortOf(old_socket)};
  pus.Start(pus.host());
  pus.Start(dpu);
  pus.AwaitTold(dpu, key, true);

  CHECK(Connect(pus.host().Socket(AF_INET, SOCK_STREAM), AddressOf(Where::kLocalhost, AF_INET), key.port) == 0);
  int later = 0;
  REQUIRE_OK(sys::InNetns(dpu.ns, [&] {
    later = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, kMultipathTcp);
    return absl::OkStatus();
  }));
  CHECK(later == -1);
  old_socket.reset();
  pus.AwaitTold(dpu, key, false);
}

TEST_CASE("a program that is no part of a Pod notices nothing", "[netns]") {
  TwoPus pus;
  PortKey key;
  sys::UniqueFd server = Server(pus, pus.dpu(), AF_INET, SOCK_STREAM, AddressOf(Where::kAny, AF_INET), false, &key);

  sys::UniqueFd mine(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(Bind(mine, AddressOf(Where::kLocalhost, AF_INET), 0) == 0);
  REQUIRE(listen(mine.get(), 1) == 0);
  sys::UniqueFd caller(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(Connect(caller, AddressOf(Where::kLocalhost, AF_INET), PortOf(mine)) == 0);
  CHECK(PeerName(caller) == "127.0.0.1");
  CHECK(pus.host().ports->counters().opened == 0);
  CHECK(pus.host().ports->counters().direct_connects == 0);
}

}  // namespace
}  // namespace heterok8s::ports
