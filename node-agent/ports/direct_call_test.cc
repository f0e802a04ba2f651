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
  CHECK(ReceiveFrom(accepted, kPatienceMs) == "ping");
  REQUIRE(send(accepted.get(), "pong", 4, 0) == 4);
  CHECK(ReceiveFrom(caller, kPatienceMs) == "pong");
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
  std::string heard = ReceiveFrom(server, reaches ? kPatienceMs : 20, &from, &from_port);
  CHECK(heard == (reaches ? "ping from " + to.ToString() : ""));
  if (!reaches || heard.empty()) return;
  CHECK(from_port == PortOf(caller));
  REQUIRE(SendTo(server, "pong", from, from_port) == 0);
  CHECK(ReceiveFrom(caller, kPatienceMs) == "pong from " + to.ToString());
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
        CHECK(ReceiveFrom(accepted, kPatienceMs) == "ping");
      } else {
        IpAddress from;
        uint16_t port = 0;
        CHECK(ReceiveFrom(server, kPatienceMs, &from, &port) == "ping from " + seen);
        REQUIRE(SendTo(server, "pong", from, port) == 0);
        CHECK(ReceiveFrom(caller, kPatienceMs) == "pong from " + shown);
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
