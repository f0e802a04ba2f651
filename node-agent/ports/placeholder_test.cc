// The same behaviours as with BPF, where placeholder sockets and NAT can have them, and what they cannot.
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <vector>

#include "common/sys/process.h"
#include "common/testing/matchers.h"
#include "node-agent/ports/clock.h"
#include "node-agent/ports/placeholder_ports.h"
#include "node-agent/ports/two_pus.h"

namespace heterok8s::ports {
namespace {

using testing::HasCode;

struct PlaceholderPus : TwoPus {
  explicit PlaceholderPus(bool start = true) : TwoPus(start, Mechanism::kPlaceholder) {}
};

const char* Text(Where where) {
  return where == Where::kAny ? "wildcard" : where == Where::kLocalhost ? "localhost" : "Pod IP";
}

sys::UniqueFd Bound(Pu& pu, int type, const IpAddress& address, uint16_t port, int* error, bool dual = false) {
  int family = address.family == Family::kV4 ? AF_INET : AF_INET6, on = 1, only = dual ? 0 : 1;
  sys::UniqueFd fd = pu.Socket(family, type);
  if (family == AF_INET6) setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);  // never helps across PUs
  *error = Bind(fd, address, port);
  return fd;
}

sys::UniqueFd Server(TwoPus& pus, Pu& pu, int type, const IpAddress& address, PortKey* key, uint16_t port = 0,
                     bool dual = false) {
  int error = 0;
  sys::UniqueFd fd = Bound(pu, type, address, port, &error, dual);
  REQUIRE(error == 0);
  if (type == SOCK_STREAM) REQUIRE(listen(fd.get(), 16) == 0);
  *key = {.protocol = type == SOCK_STREAM ? Protocol::kTcp : Protocol::kUdp,
          .address = address,
          .port = PortOf(fd),
          .dual_stack = dual};
  pus.AwaitTold(pu, *key, true);
  return fd;
}

void TcpCall(Pu& client, const sys::UniqueFd& server, const IpAddress& to, uint16_t port, const IpAddress* from) {
  sys::UniqueFd caller = client.Socket(to.family == Family::kV4 ? AF_INET : AF_INET6, SOCK_STREAM);
  if (from != nullptr) REQUIRE(Bind(caller, *from, 0) == 0);
  std::string name = (from != nullptr ? *from : to).ToString(), accept_name;
  REQUIRE(Connect(caller, to, port) == 0);
  sys::UniqueFd accepted = Accept(server, &accept_name);
  REQUIRE(accepted.valid());
  REQUIRE(send(caller.get(), "ping", 4, 0) == 4);
  CHECK(ReceiveFrom(accepted, kPatienceMs) == "ping");
  REQUIRE(send(accepted.get(), "pong", 4, 0) == 4);
  CHECK(ReceiveFrom(caller, kPatienceMs) == "pong");
  CHECK(PeerName(caller) == to.ToString());
  CHECK(SockName(caller) == name);
  CHECK(accept_name == name);
  CHECK(PeerName(accepted) == name);
  CHECK(SockName(accepted) == to.ToString());
}

void UdpCall(Pu& client, const sys::UniqueFd& server, const IpAddress& to, uint16_t port, bool connected) {
  sys::UniqueFd caller = client.Socket(to.family == Family::kV4 ? AF_INET : AF_INET6, SOCK_DGRAM);
  REQUIRE(Call(caller, "ping", to, port, connected) == 0);
  IpAddress from;
  uint16_t from_port = 0;
  REQUIRE(ReceiveFrom(server, kPatienceMs, &from, &from_port) == "ping from " + to.ToString());
  CHECK(from_port == PortOf(caller));
  REQUIRE(SendTo(server, "pong", from, from_port) == 0);
  CHECK(ReceiveFrom(caller, kPatienceMs) == "pong from " + to.ToString());
}

// What one kernel does; only ::1 is missing.
bool Reaches(Where bound, Where to, int family) {
  if (family == AF_INET6 && to == Where::kLocalhost) return false;
  return bound == Where::kAny || bound == to;
}

TEST_CASE("NAT: a call reaches the other PU's socket as on one kernel, but never by ::1", "[netns]") {
  PlaceholderPus pus;
  for (Pu* server_pu : {&pus.dpu(), &pus.host()}) {
    for (int family : {AF_INET, AF_INET6}) {
      for (Where bound : {Where::kAny, Where::kLocalhost, Where::kPodIp}) {
        PortKey tcp_key, udp_key;
        sys::UniqueFd tcp = Server(pus, *server_pu, SOCK_STREAM, AddressOf(bound, family), &tcp_key);
        sys::UniqueFd udp = Server(pus, *server_pu, SOCK_DGRAM, AddressOf(bound, family), &udp_key);
        for (Where to : {Where::kLocalhost, Where::kPodIp}) {
          IpAddress address = AddressOf(to, family);
          INFO((family == AF_INET ? "IPv4" : "IPv6") << " from " << (server_pu == &pus.dpu() ? "host" : "DPU") << " to "
                                                     << Text(to) << ", server bound to " << Text(bound));
          Pu& client = pus.Other(*server_pu);
          if (!Reaches(bound, to, family)) {
            CHECK(Connect(client.Socket(family, SOCK_STREAM), address, tcp_key.port) == -ECONNREFUSED);
            sys::UniqueFd caller = client.Socket(family, SOCK_DGRAM);
            REQUIRE(Connect(caller, address, udp_key.port) == 0);
            (void)send(caller.get(), "ping", 4, 0);
            CHECK(ReceiveFrom(udp, 20) == "");
            continue;
          }
          TcpCall(client, tcp, address, tcp_key.port, nullptr);
          for (bool connected : {false, true}) UdpCall(client, udp, address, udp_key.port, connected);
          for (Where from : {Where::kLocalhost, Where::kPodIp}) {
            if (family == AF_INET6 && from == Where::kLocalhost) continue;
            INFO("client bound to " << Text(from));
            IpAddress source = AddressOf(from, family);
            TcpCall(client, tcp, address, tcp_key.port, &source);
          }
        }
      }
    }
  }
}

TEST_CASE("NAT: a dual-stack server is called by IPv4 and by the Pod's IPv6", "[netns]") {
  PlaceholderPus pus;
  PortKey key;
  sys::UniqueFd server = Server(pus, pus.dpu(), SOCK_STREAM, AddressOf(Where::kAny, AF_INET6), &key, 0, true);
  for (const char* to : {"127.0.0.1", "127.0.0.7", "10.200.0.5", "fd00:200::5"}) {
    INFO(to);
    IpAddress address = *IpAddress::Parse(to);
    sys::UniqueFd caller = pus.host().Socket(address.family == Family::kV4 ? AF_INET : AF_INET6, SOCK_STREAM);
    REQUIRE(Connect(caller, address, key.port) == 0);
    CHECK(PeerName(caller) == to);
    CHECK(Accept(server).valid());
  }
}

TEST_CASE("placeholders: bind is refused where the other PU owns an overlapping port, and nowhere else", "[netns]") {
  PlaceholderPus pus;
  struct Row {
    const char* theirs;
    bool theirs_dual;
    const char* mine;
    bool mine_dual;
    bool refused;
  };
  const Row rows[] = {
      {"0.0.0.0", false, "0.0.0.0", false, true},
      {"0.0.0.0", false, "127.0.0.1", false, true},
      {"0.0.0.0", false, "::", false, false},
      {"0.0.0.0", false, "::", true, true},
      {"0.0.0.0", false, "::1", false, false},
      {"127.0.0.1", false, "127.0.0.1", false, true},
      {"127.0.0.1", false, "10.200.0.5", false, false},
      {"127.0.0.1", false, "0.0.0.0", false, true},
      {"::", false, "0.0.0.0", false, false},
      {"::", true, "10.200.0.5", false, true},
      {"::", true, "fd00:200::5", false, true},
      {"::1", false, "fd00:200::5", false, false},
      {"::1", false, "::", true, true},
  };
  uint16_t port = 7000;
  Ports& ports = *pus.host().ports;
  for (int type : {SOCK_STREAM, SOCK_DGRAM}) {
    Protocol protocol = type == SOCK_STREAM ? Protocol::kTcp : Protocol::kUdp;
    for (const Row& row : rows) {
      ++port;
      INFO(Name(protocol) << ": other PU has " << row.theirs << (row.theirs_dual ? " dual" : "") << ", bind to "
                          << row.mine << (row.mine_dual ? " dual" : ""));
      PortKey theirs{
          .protocol = protocol, .address = *IpAddress::Parse(row.theirs), .port = port, .dual_stack = row.theirs_dual};
      REQUIRE_OK(ports.SetRemote(pus.host().pod_key, theirs, true, 1));
      CHECK(ports.Local(pus.host().pod_key).empty());  // a placeholder is nobody's port

      int error = 0;
      Bound(pus.host(), type, *IpAddress::Parse(row.mine), port, &error, row.mine_dual);

      CHECK(error == (row.refused ? -EADDRINUSE : 0));
      REQUIRE_OK(ports.SetRemote(pus.host().pod_key, theirs, false, 2));
      Bound(pus.host(), type, *IpAddress::Parse(row.mine), port, &error, row.mine_dual);
      CHECK(error == 0);
    }
  }
}

TEST_CASE("placeholders: TCP is owned while it listens, UDP while it is bound", "[netns]") {
  PlaceholderPus pus;
  Pu& host = pus.host();
  IpAddress localhost = AddressOf(Where::kLocalhost, AF_INET);
  int error = 0;
  sys::UniqueFd idle = Bound(host, SOCK_STREAM, localhost, 0, &error);
  PortKey tcp_key, udp_key;
  sys::UniqueFd tcp = Server(pus, host, SOCK_STREAM, localhost, &tcp_key);
  sys::UniqueFd udp = Server(pus, host, SOCK_DGRAM, AddressOf(Where::kAny, AF_INET6), &udp_key, 0, true);
  CHECK(host.ports->Local(host.pod_key).size() == 2);  // `idle` is bound but does not listen

  REQUIRE(shutdown(tcp.get(), SHUT_RDWR) == 0);  // the socket is still there
  pus.AwaitTold(host, tcp_key, false);
  udp.reset();
  pus.AwaitTold(host, udp_key, false);

  CHECK(host.ports->Local(host.pod_key).empty());
  CHECK(host.ports->counters().opened == 2);
  CHECK(host.ports->counters().closed == 2);
}

TEST_CASE("placeholders: when both PUs own a port the older claim is named and keeps its callers", "[netns]") {
  PlaceholderPus pus;
  Pu& host = pus.host();
  PortKey mine;
  sys::UniqueFd listener = Server(pus, host, SOCK_STREAM, AddressOf(Where::kAny, AF_INET), &mine);
  PortKey theirs{.address = AddressOf(Where::kLocalhost, AF_INET), .port = mine.port};

  CHECK_THAT(host.ports->SetRemote(host.pod_key, theirs, true, MonotonicNs()),
             HasCode(absl::StatusCode::kFailedPrecondition));
  CHECK(host.ports->Remote(host.pod_key).empty());

  // It is the other PU's when ours is gone, without being told again.
  listener.reset();
  pus.AwaitTold(host, mine, false);
  CHECK(host.ports->Remote(host.pod_key) == std::vector<PortKey>{theirs});
  REQUIRE_OK(host.ports->SetRemote(host.pod_key, theirs, false, MonotonicNs()));
  listener = Server(pus, host, SOCK_STREAM, AddressOf(Where::kAny, AF_INET), &mine, mine.port);

  // An older one of theirs: calls of this side still go to the socket that is here.
  CHECK_OK(host.ports->SetRemote(host.pod_key, theirs, true, 1));
  CHECK(host.ports->Remote(host.pod_key) == std::vector<PortKey>{theirs});
  REQUIRE(Connect(host.Socket(AF_INET, SOCK_STREAM), theirs.address, theirs.port) == 0);
  CHECK(Accept(listener).valid());
}

TEST_CASE("placeholders: a port whose connections linger is held all the same", "[netns]") {
  PlaceholderPus pus;
  Pu& host = pus.host();
  IpAddress localhost = AddressOf(Where::kLocalhost, AF_INET);
  PortKey key;
  sys::UniqueFd server = Server(pus, host, SOCK_STREAM, localhost, &key);
  sys::UniqueFd caller = host.Socket(AF_INET, SOCK_STREAM);
  REQUIRE(Connect(caller, localhost, key.port) == 0);
  Accept(server).reset();  // ours closes first, so TIME_WAIT is at the server's port
  caller.reset();
  server.reset();
  pus.AwaitTold(host, key, false);

  REQUIRE_OK(host.ports->SetRemote(host.pod_key, key, true, MonotonicNs()));

  int error = 0;
  sys::UniqueFd late = Bound(host, SOCK_STREAM, localhost, key.port, &error);
  CHECK((error == -EADDRINUSE || listen(late.get(), 1) == -1));
}

TEST_CASE("placeholders: a port that a program of this side has is held when the program lets go", "[netns]") {
  PlaceholderPus pus;
  Pu& host = pus.host();
  for (int type : {SOCK_STREAM, SOCK_DGRAM}) {
    int error = 0;
    sys::UniqueFd in_the_way = host.Socket(AF_INET, type);
    REQUIRE(Bind(in_the_way, AddressOf(Where::kLocalhost, AF_INET), 0) == 0);
    // Bound to another address of the port, so that only a placeholder on all addresses refuses the looks below.
    PortKey theirs{.protocol = type == SOCK_STREAM ? Protocol::kTcp : Protocol::kUdp,
                   .address = AddressOf(Where::kAny, AF_INET),
                   .port = PortOf(in_the_way)};
    REQUIRE_OK(host.ports->SetRemote(host.pod_key, theirs, true, 1));
    auto look = [&] {
      Bound(host, type, AddressOf(Where::kPodIp, AF_INET), theirs.port, &error);
      return error;
    };
    CHECK(look() == 0);

    in_the_way.reset();

    for (int i = 0; i < kPatienceMs / 20 && look() != -EADDRINUSE; ++i) usleep(20'000);
    CHECK(error == -EADDRINUSE);
    REQUIRE_OK(host.ports->SetRemote(host.pod_key, theirs, false, 2));
  }
}

TEST_CASE("placeholders: a UDP caller that goes on sending reaches the port's new owner", "[netns]") {
  PlaceholderPus pus;
  IpAddress localhost = AddressOf(Where::kLocalhost, AF_INET);
  sys::UniqueFd caller = pus.host().Socket(AF_INET, SOCK_DGRAM);
  REQUIRE(SendTo(caller, "early", localhost, 7500) == 0);  // nobody's
  PortKey key;
  sys::UniqueFd server = Server(pus, pus.dpu(), SOCK_DGRAM, localhost, &key, 7500);

  REQUIRE(SendTo(caller, "late", localhost, 7500) == 0);
  CHECK(ReceiveFrom(server, kPatienceMs) == "late from 127.0.0.1");
  server.reset();
  pus.AwaitTold(pus.dpu(), key, false);
  sys::UniqueFd own = Server(pus, pus.host(), SOCK_DGRAM, localhost, &key, 7500);
  REQUIRE(SendTo(caller, "home", localhost, 7500) == 0);
  CHECK(ReceiveFrom(own, kPatienceMs) == "home from 127.0.0.1");
}

TEST_CASE("placeholders: calls outlive a heterod, and the next one holds the ports again", "[netns]") {
  PlaceholderPus pus;
  Pu &host = pus.host(), &dpu = pus.dpu();
  PortKey key;
  sys::UniqueFd server = Server(pus, dpu, SOCK_STREAM, AddressOf(Where::kAny, AF_INET), &key);
  int error = 0;

  host.KillHeterod();
  CHECK(Connect(host.Socket(AF_INET, SOCK_STREAM), AddressOf(Where::kLocalhost, AF_INET), key.port) == 0);
  pus.Start(host);

  CHECK(host.ports->Remote(host.pod_key) == std::vector<PortKey>{key});
  Bound(host, SOCK_STREAM, AddressOf(Where::kLocalhost, AF_INET), key.port, &error);
  CHECK(error == -EADDRINUSE);
  dpu.KillHeterod();
  server.reset();
  pus.Start(dpu);
  CHECK(dpu.ports->Local(dpu.pod_key).empty());
  REQUIRE_OK(host.ports->ReplaceRemote(host.pod_key, {}));
  CHECK(Connect(host.Socket(AF_INET, SOCK_STREAM), AddressOf(Where::kLocalhost, AF_INET), key.port) == -ECONNREFUSED);
}

TEST_CASE("placeholders: AddPod and RemovePod can be repeated and leave nothing", "[netns]") {
  PlaceholderPus pus;
  Pu& host = pus.host();
  PortKey key;
  sys::UniqueFd server = Server(pus, host, SOCK_STREAM, AddressOf(Where::kLocalhost, AF_INET), &key);
  REQUIRE_OK(host.ports->AddPod(host.Pod()));
  CHECK(host.ports->Local(host.pod_key).at(0).sockets == 1);
  auto tables = [&] {
    auto result = sys::Run({.argv = {"nsenter", "--net=" + host.ns.path(), "nft", "list", "tables"}});
    REQUIRE_OK(result);
    return result->stdout_text;
  };
  CHECK(tables().find("heterok8s_nat") != std::string::npos);

  REQUIRE_OK(host.ports->RemovePod(host.pod_key));
  REQUIRE_OK(host.ports->RemovePod(host.pod_key));

  CHECK(host.ports->ListPods().empty());
  CHECK(tables().find("heterok8s_nat") == std::string::npos);
  CHECK_THAT(host.ports->SetRemote(host.pod_key, key, true, 1), HasCode(absl::StatusCode::kNotFound));
  PodPorts gone = host.Pod();
  gone.netns_path = "/run/netns/hk-none";
  CHECK_THAT(host.ports->AddPod(gone), HasCode(absl::StatusCode::kNotFound));
}

TEST_CASE("a Pod with too many ports takes no more of heterod's descriptors than its part", "[netns]") {
  PlaceholderPus pus;
  Pu &host = pus.host(), &dpu = pus.dpu();
  std::vector<sys::UniqueFd> sockets;
  REQUIRE_OK(sys::InNetns(dpu.ns, [&]() -> absl::Status {
    for (size_t i = 0; i < kMostPlaceholders + 20; ++i) {
      sockets.emplace_back(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      int error = Bind(sockets.back(), AddressOf(Where::kLocalhost, AF_INET), static_cast<uint16_t>(1000 + i));
      if (error == 0 && listen(sockets.back().get(), 1) != 0) error = -errno;
      if (error != 0) return ErrnoToStatus(-error, "bind");
    }
    return absl::OkStatus();
  }));
  auto eventually = [](auto condition) {
    for (int i = 0; i < 3 * kPatienceMs / 50 && !condition(); ++i) usleep(50'000);
    return condition();
  };

  CHECK(eventually([&] { return host.ports->Remote(host.pod_key).size() == kMostPlaceholders; }));
  CHECK(eventually([&] { return dpu.ports->counters().unowned_over_share == 20; }));
  // What changes elsewhere does not count them again.
  for (int i = 0; i < 6; ++i) {
    sys::UniqueFd connected = dpu.Socket(AF_INET, SOCK_DGRAM);
    REQUIRE(Connect(connected, AddressOf(Where::kLocalhost, AF_INET), 9) == 0);
    usleep(50'000);
  }
  CHECK(dpu.ports->counters().unowned_over_share == 20);
  PortKey more{.address = AddressOf(Where::kAny, AF_INET), .port = 80};
  CHECK_THAT(host.ports->SetRemote(host.pod_key, more, true, 1), HasCode(absl::StatusCode::kResourceExhausted));
  sockets.clear();
  CHECK(eventually([&] { return host.ports->Remote(host.pod_key).empty(); }));
  CHECK_OK(host.ports->SetRemote(host.pod_key, more, true, 1));
}

}  // namespace
}  // namespace heterok8s::ports
