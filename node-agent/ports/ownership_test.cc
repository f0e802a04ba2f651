// Who owns a port, who is told when, and who is refused.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include <catch2/catch.hpp>
#include <set>

#include "common/testing/matchers.h"
#include "node-agent/ports/two_pus.h"

namespace heterok8s::ports {
namespace {

using testing::HasCode;
using testing::Says;

uint64_t MonotonicNs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

sys::UniqueFd Bound(Pu& pu, int type, const char* address, uint16_t port, int* error, bool v6only = true) {
  IpAddress parsed = *IpAddress::Parse(address);
  int family = parsed.family == Family::kV4 ? AF_INET : AF_INET6, on = 1, only = v6only;
  sys::UniqueFd fd = pu.Socket(family, type);
  if (family == AF_INET6) setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only);
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);  // never helps across PUs
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
  *error = Bind(fd, parsed, port);
  return fd;
}

sys::UniqueFd Listening(Pu& pu, const char* address, uint16_t port = 0) {
  int error = 0;
  sys::UniqueFd fd = Bound(pu, SOCK_STREAM, address, port, &error);
  REQUIRE(error == 0);
  REQUIRE(listen(fd.get(), 8) == 0);
  return fd;
}

TEST_CASE("bind is refused where the other PU owns an overlapping port, and nowhere else", "[netns]") {
  TwoPus pus;
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
      {"0.0.0.0", false, "10.200.0.5", false, true},
      {"0.0.0.0", false, "::", false, false},
      {"0.0.0.0", false, "::", true, true},
      {"0.0.0.0", false, "::1", false, false},
      {"0.0.0.0", false, "::ffff:127.0.0.1", true, true},
      {"127.0.0.1", false, "127.0.0.1", false, true},
      {"127.0.0.1", false, "10.200.0.5", false, false},
      {"127.0.0.1", false, "0.0.0.0", false, true},
      {"127.0.0.1", false, "::", true, true},
      {"127.0.0.1", false, "::1", false, false},
      {"::", false, "0.0.0.0", false, false},
      {"::", false, "::", false, true},
      {"::", false, "::1", false, true},
      {"::", true, "0.0.0.0", false, true},
      {"::", true, "10.200.0.5", false, true},
      {"::", true, "fd00:200::5", false, true},
      {"::1", false, "fd00:200::5", false, false},
      {"::1", false, "::", true, true},
      {"::1", false, "127.0.0.1", false, false},
  };
  uint16_t port = 7000;
  for (int type : {SOCK_STREAM, SOCK_DGRAM}) {
    Protocol protocol = type == SOCK_STREAM ? Protocol::kTcp : Protocol::kUdp;
    for (const Row& row : rows) {
      ++port;
      INFO(Name(protocol) << ": other PU has " << row.theirs << (row.theirs_dual ? " dual" : "") << ", bind to "
                          << row.mine << (row.mine_dual ? " dual" : ""));
      PortKey theirs{
          .protocol = protocol, .address = *IpAddress::Parse(row.theirs), .port = port, .dual_stack = row.theirs_dual};
      Ports& ports = *pus.host().ports;
      REQUIRE_OK(ports.SetRemote(pus.host().pod_key, theirs, true, 1));

      int error = 0;
      Bound(pus.host(), type, row.mine, port, &error, !row.mine_dual);

      CHECK(error == (row.refused ? -EADDRINUSE : 0));
      REQUIRE_OK(ports.SetRemote(pus.host().pod_key, theirs, false, 2));
      Bound(pus.host(), type, row.mine, port, &error, !row.mine_dual);
      CHECK(error == 0);
    }
  }
}

TEST_CASE("a port that the other PU claims anew, later than this one, is not in force until this one closes it",
          "[netns]") {
  for (Mechanism mechanism : {Mechanism::kBpf, Mechanism::kPlaceholder}) {
    TwoPus pus(/*start=*/true, mechanism);
    Ports& ports = *pus.host().ports;
    sys::UniqueFd listener = Listening(pus.host(), "127.0.0.1");
    const PortKey key{.address = *IpAddress::Parse("127.0.0.1"), .port = PortOf(listener)};
    pus.AwaitTold(pus.host(), key, true);
    REQUIRE_OK(ports.SetRemote(pus.host().pod_key, key, true, 0));
    REQUIRE(ports.Remote(pus.host().pod_key) == std::vector<PortKey>{key});

    CHECK_THAT(ports.SetRemote(pus.host().pod_key, key, true, MonotonicNs()),
               HasCode(absl::StatusCode::kFailedPrecondition));

    CHECK(ports.Remote(pus.host().pod_key).empty());
    int error = 0;
    Bound(pus.host(), SOCK_STREAM, "127.0.0.1", key.port, &error);
    CHECK(error == 0);
    listener.reset();
    pus.AwaitTold(pus.host(), key, false);
    CHECK(ports.Remote(pus.host().pod_key) == std::vector<PortKey>{key});
  }
}

TEST_CASE("a refused bind is known by process and port", "[netns]") {
  TwoPus pus;
  Ports& ports = *pus.host().ports;
  CHECK_FALSE(ports.LastRefusal(pus.host().pod_key).has_value());
  PortKey key{.address = *IpAddress::Parse("0.0.0.0"), .port = 7999};
  REQUIRE_OK(ports.SetRemote(pus.host().pod_key, key, true, 1));
  prctl(PR_SET_NAME, "gr\x1b[2J\n\xff\x7f y~");  // any bytes

  int error = 0;
  Bound(pus.host(), SOCK_STREAM, "127.0.0.1", 7999, &error);

  REQUIRE(error == -EADDRINUSE);
  // Events are in order: when a later one is there, so is this.
  sys::UniqueFd after = Listening(pus.host(), "127.0.0.1");
  pus.AwaitTold(pus.host(), {.address = *IpAddress::Parse("127.0.0.1"), .port = PortOf(after)}, true);
  auto refusal = ports.LastRefusal(pus.host().pod_key);
  REQUIRE(refusal.has_value());
  CHECK(refusal->key == PortKey{.address = *IpAddress::Parse("127.0.0.1"), .port = 7999});
  CHECK(refusal->command == "gr?[2J??? y~");
  CHECK(refusal->pid != 0);
  CHECK(std::abs(refusal->unix_ms - time(nullptr) * 1000) < 60'000);
  CHECK(ports.counters().refused_binds == 1);
}

TEST_CASE("TCP is owned from listen to the end of listening, UDP from bind to close", "[netns]") {
  TwoPus pus;
  Pu& host = pus.host();
  uint64_t before = MonotonicNs();
  int error = 0;
  sys::UniqueFd tcp = Bound(host, SOCK_STREAM, "127.0.0.1", 0, &error);
  PortKey tcp_key{.address = *IpAddress::Parse("127.0.0.1"), .port = PortOf(tcp)};
  sys::UniqueFd autobound = host.Socket(AF_INET, SOCK_DGRAM);
  REQUIRE(SendTo(autobound, "x", *IpAddress::Parse("127.0.0.1"), 9) == 0);
  CHECK(host.ports->Local(host.pod_key).empty());  // bound but not listening; bound by the kernel at a send

  REQUIRE(listen(tcp.get(), 1) == 0);
  sys::UniqueFd udp = Bound(host, SOCK_DGRAM, "::", 0, &error, false);
  PortKey udp_key{
      .protocol = Protocol::kUdp, .address = *IpAddress::Parse("::"), .port = PortOf(udp), .dual_stack = true};
  REQUIRE(shutdown(tcp.get(), SHUT_RDWR) == 0);  // the socket is still there
  REQUIRE(listen(tcp.get(), 1) == 0);            // on another port: the first was the kernel's choice
  PortKey again_key{.address = *IpAddress::Parse("127.0.0.1"), .port = PortOf(tcp)};
  tcp.reset();
  udp.reset();
  uint64_t after = MonotonicNs();

  pus.AwaitReports(host, 6);
  std::vector<PortChange> reports = pus.Reports(host);
  REQUIRE(reports.size() == 6);
  PortKey keys[] = {tcp_key, udp_key, tcp_key, again_key, again_key, udp_key};
  bool opened[] = {true, true, false, true, false, false};
  for (int i = 0; i < 6; ++i) {
    INFO("report " << i << ": " << reports[i].key.ToString());
    CHECK(reports[i].key == keys[i]);
    CHECK(reports[i].opened == opened[i]);
    CHECK(reports[i].pod_key == host.pod_key);
    CHECK(reports[i].epoch_ns >= (i == 0 ? before : reports[i - 1].epoch_ns));
    CHECK(reports[i].epoch_ns <= after);
  }
  CHECK(host.ports->Local(host.pod_key).empty());
  CHECK(host.ports->counters().opened == 3);
  CHECK(host.ports->counters().closed == 3);
}

TEST_CASE("a port with several sockets closes with the last one", "[netns]") {
  TwoPus pus;
  Pu& host = pus.host();
  int error = 0;
  sys::UniqueFd first = Bound(host, SOCK_DGRAM, "127.0.0.1", 0, &error);
  uint16_t port = PortOf(first);
  sys::UniqueFd second = Bound(host, SOCK_DGRAM, "127.0.0.1", port, &error);
  REQUIRE(error == 0);
  CHECK(host.ports->Local(host.pod_key).at(0).sockets == 2);
  first.reset();
  CHECK(host.ports->Local(host.pod_key).at(0).sockets == 1);
  second.reset();

  pus.AwaitReports(host, 2);
  CHECK(pus.Reports(host).size() == 2);
  CHECK(host.ports->Local(host.pod_key).empty());
}

TEST_CASE("when both PUs own a port the older claim is named", "[netns]") {
  TwoPus pus;
  Pu& host = pus.host();
  sys::UniqueFd listener = Listening(host, "0.0.0.0");
  PortKey mine{.address = *IpAddress::Parse("0.0.0.0"), .port = PortOf(listener)};
  pus.AwaitTold(host, mine, true);
  PortKey theirs{.address = *IpAddress::Parse("127.0.0.1"), .port = mine.port};

  absl::Status younger = host.ports->SetRemote(host.pod_key, theirs, true, MonotonicNs());
  CHECK_THAT(younger, HasCode(absl::StatusCode::kFailedPrecondition));
  CHECK_THAT(younger, Says(mine.ToString()));
  CHECK(host.ports->Remote(host.pod_key).empty());

  // It is the other PU's when ours is gone, without being told again.
  uint16_t port = mine.port;
  listener.reset();
  pus.AwaitTold(host, mine, false);
  CHECK(host.ports->Remote(host.pod_key) == std::vector<PortKey>{theirs});
  REQUIRE_OK(host.ports->SetRemote(host.pod_key, theirs, false, MonotonicNs()));
  listener = Listening(host, "0.0.0.0", port);
  pus.AwaitTold(host, mine, true);

  CHECK_OK(host.ports->SetRemote(host.pod_key, theirs, true, 1));
  CHECK(host.ports->Remote(host.pod_key) == std::vector<PortKey>{theirs});
  // Calls of this side still go to the socket that is there.
  sys::UniqueFd caller = host.Socket(AF_INET, SOCK_STREAM);
  REQUIRE(Connect(caller, theirs.address, theirs.port) == 0);
  CHECK(Accept(listener).valid());
}

TEST_CASE("ReplaceRemote leaves exactly the given ports", "[netns]") {
  TwoPus pus;
  Pu& host = pus.host();
  auto key = [](uint16_t port) { return PortKey{.address = *IpAddress::Parse("0.0.0.0"), .port = port}; };
  REQUIRE_OK(host.ports->SetRemote(host.pod_key, key(7001), true, 1));
  REQUIRE_OK(host.ports->SetRemote(host.pod_key, key(7002), true, 1));
  REQUIRE_OK(host.ports->ReplaceRemote(host.pod_key, {key(7002), key(7003), key(7003)}));

  CHECK(host.ports->Remote(host.pod_key) == std::vector<PortKey>{key(7002), key(7003)});
  int error = 0;
  Bound(host, SOCK_STREAM, "127.0.0.1", 7001, &error);
  CHECK(error == 0);
  Bound(host, SOCK_STREAM, "127.0.0.1", 7003, &error);
  CHECK(error == -EADDRINUSE);
  CHECK_THAT(host.ports->ReplaceRemote("nobody", {}), HasCode(absl::StatusCode::kNotFound));
}

TEST_CASE("sockets older than the Pod's entry are found, reported and reachable", "[netns]") {
  TwoPus pus(/*start=*/false);
  Pu& dpu = pus.dpu();
  int error = 0;
  sys::UniqueFd tcp = Listening(dpu, "127.0.0.1"), wild = Listening(dpu, "::");
  sys::UniqueFd udp = Bound(dpu, SOCK_DGRAM, "127.0.0.1", 0, &error);
  sys::UniqueFd idle = Bound(dpu, SOCK_STREAM, "127.0.0.1", 0, &error);
  pus.Start(pus.host());
  pus.Start(dpu);
  pus.AwaitReports(dpu, 3);
  CHECK(pus.Reports(dpu).size() == 3);

  IpAddress localhost = *IpAddress::Parse("127.0.0.1");
  sys::UniqueFd caller = pus.host().Socket(AF_INET, SOCK_STREAM);
  CHECK(Connect(caller, localhost, PortOf(tcp)) == 0);
  sys::UniqueFd caller6 = pus.host().Socket(AF_INET6, SOCK_STREAM);
  CHECK(Connect(caller6, *IpAddress::Parse("::1"), PortOf(wild)) == 0);
  sys::UniqueFd sender = pus.host().Socket(AF_INET, SOCK_DGRAM);
  REQUIRE(SendTo(sender, "ping", localhost, PortOf(udp)) == 0);
  CHECK(ReceiveFrom(udp, kPatienceMs) == "ping from 127.0.0.1");
}

TEST_CASE("AddPod and RemovePod can be repeated; what a removed Pod left is nobody's", "[netns]") {
  TwoPus pus;
  Pu& host = pus.host();
  sys::UniqueFd listener = Listening(host, "127.0.0.1");
  PortKey key{.address = *IpAddress::Parse("127.0.0.1"), .port = PortOf(listener)};
  pus.AwaitTold(host, key, true);
  REQUIRE_OK(host.ports->AddPod(host.Pod()));
  CHECK(host.ports->Local(host.pod_key).at(0).sockets == 1);
  CHECK(host.ports->ListPods() == std::vector<std::string>{host.pod_key});

  REQUIRE_OK(host.ports->RemovePod(host.pod_key));
  REQUIRE_OK(host.ports->RemovePod(host.pod_key));
  CHECK(host.ports->ListPods().empty());
  CHECK(host.ports->Local(host.pod_key).empty());
  CHECK_THAT(host.ports->SetRemote(host.pod_key, key, true, 1), HasCode(absl::StatusCode::kNotFound));

  // The same namespace again, with the socket still in it: counted once more, and closed once.
  REQUIRE_OK(host.ports->AddPod(host.Pod()));
  REQUIRE(host.ports->Local(host.pod_key).size() == 1);
  CHECK(host.ports->Local(host.pod_key).at(0).sockets == 1);
  sys::UniqueFd caller = pus.dpu().Socket(AF_INET, SOCK_STREAM);
  CHECK(Connect(caller, key.address, key.port) == 0);
  listener.reset();
  CHECK(host.ports->Local(host.pod_key).empty());

  PodPorts gone = host.Pod();
  gone.netns_path = "/run/netns/hk-none";
  CHECK_THAT(host.ports->AddPod(gone), HasCode(absl::StatusCode::kNotFound));
}

TEST_CASE("a thousand ports are told, refused and let go", "[netns]") {
  TwoPus pus;
  Pu &host = pus.host(), &dpu = pus.dpu();
  std::vector<sys::UniqueFd> listeners;
  std::set<uint16_t> ports;
  for (int i = 0; i < 1000; ++i) {
    listeners.push_back(Listening(dpu, i % 2 == 0 ? "127.0.0.1" : "0.0.0.0"));
    ports.insert(PortOf(listeners.back()));
  }
  pus.AwaitReports(dpu, 1000);
  CHECK(host.ports->Remote(host.pod_key).size() == 1000);
  CHECK(dpu.ports->Local(dpu.pod_key).size() == 1000);
  int refused = 0;
  for (uint16_t port : ports) {
    int error = 0;
    Bound(host, SOCK_STREAM, "127.0.0.1", port, &error);
    refused += error == -EADDRINUSE;
  }
  CHECK(refused == 1000);

  listeners.clear();
  pus.AwaitReports(dpu, 2000);
  CHECK(host.ports->Remote(host.pod_key).empty());
  CHECK(dpu.ports->Local(dpu.pod_key).empty());
}

}  // namespace
}  // namespace heterok8s::ports
