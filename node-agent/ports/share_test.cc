// A Pod that opens more ports than it may: refused with a clean error, told, and of no consequence to its neighbours.
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "node-agent/ports/share_testing.h"

namespace heterok8s::ports {
namespace {

TEST_CASE("a Pod that has used its share is refused with ENOBUFS until it lets go", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  Ports& ports = *dpu.ports;
  Counted counted(dpu);
  sys::UniqueFd late = dpu.Socket(AF_INET, SOCK_STREAM), again = dpu.Socket(AF_INET, SOCK_STREAM);
  REQUIRE(Bind(late, kAny, 999) == 0);
  int error = 0;

  auto sockets = Occupy(dpu.ns, SOCK_DGRAM, kAny, 1000, 30000, &error);

  CHECK(error == -ENOBUFS);
  CHECK(sockets.size() == HK_SHARE_MOST);
  CHECK(counted.used() == HK_SHARE_MOST);
  CHECK(counted.burst() == HK_SHARE_MOST - HK_SHARE_GUARANTEED);
  for (int type : {SOCK_STREAM, SOCK_DGRAM}) {
    for (uint16_t port : {0, 20}) CHECK(Bind(dpu.Socket(AF_INET, type), kLocalhost, port) == -ENOBUFS);
  }
  // No hook can refuse listen(); that it has no owner is counted.
  REQUIRE(listen(late.get(), 1) == 0);
  CHECK(ports.counters().refused_over_share == 5);
  CHECK(ports.counters().unowned_over_share == 1);
  CHECK(ports.counters().lost_events == 0);
  CHECK(ports.counters().refused_binds == 0);
  REQUIRE(Eventually([&] { return ports.LastRefusal(dpu.pod_key).has_value(); }));
  CHECK(ports.LastRefusal(dpu.pod_key)->reason == Refusal::Reason::kShare);
  // The other PU knows every port that has an owner, and no other.
  CHECK(Eventually([&] { return pus.host().ports->Remote(dpu.pod_key).size() == HK_SHARE_MOST; }));
  CHECK(Bind(pus.host().Socket(AF_INET, SOCK_DGRAM), kLocalhost, 1000) == -EADDRINUSE);

  sockets.clear();

  PortKey owned{.address = kAny, .port = 999};
  pus.AwaitTold(dpu, owned, true);
  CHECK(Eventually([&] { return counted.used() == 1 && counted.claims() == 1 && counted.burst() == 0; }));
  CHECK(Bind(again, kLocalhost, 20) == 0);
  CHECK(Eventually([&] { return pus.host().ports->Remote(dpu.pod_key) == std::vector<PortKey>{owned}; }));
}

TEST_CASE("programs that bind at the same time get as many ports as there is room for, each of them owned", "[netns]") {
  TwoPus pus(/*start=*/false);
  Pu& dpu = pus.dpu();
  REQUIRE_OK(dpu.StartHeterod([](const PortChange&) {}));
  Counted counted(dpu);
  counted.SetBurst(HK_BURST_ENTRIES);
  std::atomic<int> got = 0, refused = 0, other = 0;
  std::vector<std::thread> programs;
  std::vector<std::vector<sys::UniqueFd>> sockets(4);
  for (int number = 0; number < 4; ++number) {
    programs.emplace_back([&, number] {
      (void)sys::InNetns(dpu.ns, [&] {
        for (int i = 0; i < 400; ++i) {
          sys::UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
          int error = Bind(fd, kAny, 0);
          // EPERM: before 6.1 post_bind can give no other error.
          ++(error == 0 ? got : error == -ENOBUFS || error == -EPERM ? refused : other);
          if (error == 0) sockets[number].push_back(std::move(fd));
        }
        return absl::OkStatus();
      });
    });
  }
  for (std::thread& program : programs) program.join();

  CHECK(got == HK_SHARE_GUARANTEED);
  CHECK(refused == 4 * 400 - HK_SHARE_GUARANTEED);
  CHECK(other == 0);
  CHECK(dpu.ports->Local(dpu.pod_key).size() == HK_SHARE_GUARANTEED);
  CHECK(counted.used() == HK_SHARE_GUARANTEED);
  CHECK(counted.burst() == HK_BURST_ENTRIES);
}

TEST_CASE("while others use all that is shared, a Pod gets what it is guaranteed and no more", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  Neighbour neighbour(dpu);
  Counted counted(dpu);
  int error = 0;
  auto greedy = Occupy(dpu.ns, SOCK_DGRAM, kAny, 1000, 1000, &error);
  REQUIRE(error == 0);
  counted.SetBurst(HK_BURST_ENTRIES);

  auto more = Occupy(dpu.ns, SOCK_DGRAM, kAny, 5000, 1, &error);
  CHECK(error == -ENOBUFS);
  auto served = Occupy(neighbour.place.ns, SOCK_STREAM, kLocalhost, 1000, 1000, &error);

  CHECK(error == -ENOBUFS);
  CHECK(served.size() == HK_SHARE_GUARANTEED);
  // Each of them is owned.
  CHECK(dpu.ports->Local(neighbour.place.pod_key).size() == HK_SHARE_GUARANTEED);
  counted.SetBurst(1000 - HK_SHARE_GUARANTEED);
  more = Occupy(dpu.ns, SOCK_DGRAM, kAny, 5000, 1, &error);
  CHECK(error == 0);
}

TEST_CASE("a port that is closed is no longer of the share: a Pod at its limit may bind one for each question",
          "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  Counted counted(dpu);
  int error = 0;
  auto others = Occupy(dpu.ns, SOCK_DGRAM, kAny, 1000, HK_SHARE_GUARANTEED - 1, &error);
  REQUIRE(error == 0);
  counted.SetBurst(HK_BURST_ENTRIES);
  for (int i = 0; i < 2000 && error == 0; ++i) {
    sys::UniqueFd fd = dpu.Socket(AF_INET, i % 2 == 0 ? SOCK_DGRAM : SOCK_STREAM);
    error = Bind(fd, kAny, static_cast<uint16_t>(5000 + i));
    if (error == 0 && i % 2 == 1) REQUIRE(listen(fd.get(), 1) == 0);
  }
  CHECK(error == 0);
  CHECK(counted.claims() == HK_SHARE_GUARANTEED - 1);
  CHECK(counted.used() == HK_SHARE_GUARANTEED - 1);
  CHECK(dpu.ports->counters().unowned_over_share == 0);
}

TEST_CASE("a socket that found no room gets its owner when other Pods let go", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  Counted counted(dpu);
  sys::UniqueFd late = dpu.Socket(AF_INET, SOCK_STREAM), never = dpu.Socket(AF_INET, SOCK_STREAM);
  REQUIRE(Bind(late, kLocalhost, 80) == 0);
  REQUIRE(Bind(never, kLocalhost, 81) == 0);
  int error = 0;
  auto others = Occupy(dpu.ns, SOCK_DGRAM, kAny, 1000, HK_SHARE_GUARANTEED, &error);
  REQUIRE(error == 0);
  counted.SetBurst(HK_BURST_ENTRIES);
  REQUIRE(listen(late.get(), 1) == 0);
  REQUIRE(listen(never.get(), 1) == 0);
  CHECK(counted.unowned() == 2);
  never.reset();
  CHECK(counted.unowned() == 1);

  counted.SetBurst(0);

  pus.AwaitTold(dpu, {.address = kLocalhost, .port = 80}, true);
  CHECK(counted.unowned() == 0);
  CHECK(dpu.ports->counters().unowned_over_share == 2);
}

TEST_CASE("an entry that could not be removed goes when its port is used again", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  Counted counted(dpu);
  const PortKey key{.protocol = Protocol::kUdp, .address = kLocalhost, .port = 80};
  counted.Stick(key);
  REQUIRE(counted.used() == 1);
  sys::UniqueFd socket = dpu.Socket(AF_INET, SOCK_DGRAM);

  REQUIRE(Bind(socket, kLocalhost, 80) == 0);

  pus.AwaitTold(dpu, key, true);
  CHECK(counted.used() == 1);
  CHECK(counted.unowned() == 0);
  socket.reset();
  pus.AwaitTold(dpu, key, false);
  CHECK(counted.used() == 0);
  CHECK(counted.claims() == 0);
}

TEST_CASE("the count is exact after races between CPUs, and after heterod died among them", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  Counted counted(dpu);
  std::atomic<bool> stop = false;
  std::atomic<int> refused = 0;
  std::vector<std::thread> programs;
  for (int number = 0; number < 6; ++number) {
    programs.emplace_back([&, number] {
      (void)sys::InNetns(dpu.ns, [&] {
        // Many ports: what one lets go becomes another's memory. Few: the last socket of a port ends while its next one
        // comes.
        const int ports = number < 4 ? 300 : 2;
        for (int i = 0; !stop; ++i) {
          int on = 1, type = number % 2 == 0 ? SOCK_DGRAM : SOCK_STREAM;
          sys::UniqueFd fd(socket(AF_INET, type | SOCK_CLOEXEC, 0));
          setsockopt(fd.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
          if (Bind(fd, kLocalhost, static_cast<uint16_t>(7000 + i % ports)) != 0) ++refused;
          if (type == SOCK_STREAM) (void)listen(fd.get(), 1);
        }
        return absl::OkStatus();
      });
    });
  }
  for (int i = 0; i < 3; ++i) {
    usleep(300'000);
    dpu.KillHeterod();
    pus.Start(dpu);
  }
  usleep(300'000);
  stop = true;
  for (std::thread& program : programs) program.join();

  CHECK(Eventually([&] { return counted.claims() == 0 && counted.used() == 0; }));
  CHECK(counted.used() == 0);
  CHECK(counted.burst() == 0);
  CHECK(counted.unowned() == 0);
  CHECK(refused == 0);
  CHECK(dpu.ports->Local(dpu.pod_key).empty());
}

TEST_CASE("a removed Pod leaves nothing of its share behind", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  Counted counted(dpu);
  int error = 0;
  auto sockets = Occupy(dpu.ns, SOCK_DGRAM, kAny, 1000, 1000, &error);
  REQUIRE(error == 0);
  REQUIRE(counted.burst() == 1000 - HK_SHARE_GUARANTEED);

  REQUIRE_OK(dpu.ports->RemovePod(dpu.pod_key));

  CHECK(Eventually([&] { return counted.claims() == 0 && counted.used() == 0 && counted.burst() == 0; }));
  // Added anew with its sockets open: counted once, by the scan. The second time before it is swept up.
  for (int i = 0; i < 2; ++i) {
    REQUIRE_OK(dpu.ports->AddPod(dpu.Pod()));
    CHECK(counted.used() == 1000);
    CHECK(counted.burst() == 1000 - HK_SHARE_GUARANTEED);
    if (i == 0) REQUIRE_OK(dpu.ports->RemovePod(dpu.pod_key));
  }
  sockets.clear();
  CHECK(Eventually([&] { return counted.used() == 0 && counted.burst() == 0; }));
}

TEST_CASE("a Pod that changes all the time is told in lumps, its neighbour at once", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  Neighbour neighbour(dpu);
  timespec began{}, ended{};
  clock_gettime(CLOCK_MONOTONIC, &began);
  uint64_t before = dpu.ports->counters().comparisons;
  std::atomic<bool> stop = false;
  std::vector<std::thread> restless;
  for (int number = 0; number < 3; ++number) {
    restless.emplace_back([&, number] {
      (void)sys::InNetns(dpu.ns, [&] {
        for (int i = 0; !stop; ++i) {
          sys::UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
          (void)Bind(fd, kAny, static_cast<uint16_t>(2000 + 1000 * number + i % 900));
        }
        return absl::OkStatus();
      });
    });
  }
  int error = 0;
  for (int i = 0; i < 20; ++i) {
    auto fds = Occupy(neighbour.place.ns, SOCK_STREAM, kLocalhost, static_cast<uint16_t>(100 + i), 1, &error);
    REQUIRE(error == 0);
    PortKey key{.address = kLocalhost, .port = static_cast<uint16_t>(100 + i)};
    pus.AwaitTold(dpu, key, true);
  }
  stop = true;
  for (std::thread& thread : restless) thread.join();
  clock_gettime(CLOCK_MONOTONIC, &ended);

  uint64_t windows = (static_cast<uint64_t>(ended.tv_sec - began.tv_sec) + 1) * 1'000'000'000 / HK_WINDOW_NS;
  CHECK(dpu.ports->counters().comparisons - before <= windows);
  // In the end it is known what is open: nothing of the restless Pod.
  CHECK(Eventually([&] { return pus.host().ports->Remote(dpu.pod_key).empty(); }));
}

TEST_CASE("callers that bound themselves are forgotten with their Pod", "[netns]") {
  TwoPus pus;
  Pu& dpu = pus.dpu();
  Counted counted(dpu);
  PortKey key;
  sys::UniqueFd server = Server(pus, dpu, AF_INET, SOCK_DGRAM, kAny, false, &key);
  sys::UniqueFd caller = pus.host().Socket(AF_INET, SOCK_DGRAM);
  REQUIRE(Bind(caller, kLocalhost, 0) == 0);
  REQUIRE(Call(caller, "ping", kLocalhost, key.port, /*connected=*/true) == 0);
  REQUIRE(ReceiveFrom(server, kPatienceMs) == "ping from 127.0.0.1");
  CHECK(counted.callers() == 1);

  REQUIRE_OK(dpu.ports->RemovePod(dpu.pod_key));

  CHECK(Eventually([&] { return counted.callers() == 0; }));
}

}  // namespace
}  // namespace heterok8s::ports
