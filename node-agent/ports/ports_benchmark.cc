// How long until heterod knows of a listener, and what a direct call costs beside the bare link. Prints, asserts
// nothing.
//
//   bazel build -c opt //node-agent/ports:ports_benchmark && bazel-bin/node-agent/ports/ports_benchmark
#include <fmt/format.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <thread>

#include "common/testing/matchers.h"
#include "node-agent/ports/two_pus.h"

namespace heterok8s::ports {
namespace {

double NowUs() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

void Print(const char* what, std::vector<double> us) {
  std::sort(us.begin(), us.end());
  fmt::print("{:<44} n={:<6} p50={:8.1f} us  p99={:8.1f} us\n", what, us.size(), us[us.size() / 2],
             us[us.size() * 99 / 100]);
}

TEST_CASE("a listener is reported") {
  TwoPus pus(/*start=*/false);
  std::atomic<uint16_t> reported = 0;
  std::atomic<double> at = 0;
  REQUIRE_OK(pus.dpu().StartHeterod([&](const PortChange& change) {
    if (!change.opened) return;
    at = NowUs();
    reported = change.key.port;
  }));
  for (int type : {SOCK_STREAM, SOCK_DGRAM}) {
    for (Where where : {Where::kAny, Where::kLocalhost}) {
      std::vector<double> us;
      for (int i = 0; i < 2000; ++i) {
        sys::UniqueFd fd = pus.dpu().Socket(AF_INET, type);
        if (type == SOCK_STREAM) REQUIRE(Bind(fd, AddressOf(where, AF_INET), 0) == 0);
        double before = NowUs();
        if (type == SOCK_STREAM) REQUIRE(listen(fd.get(), 1) == 0);
        if (type == SOCK_DGRAM) REQUIRE(Bind(fd, AddressOf(where, AF_INET), 0) == 0);
        uint16_t port = PortOf(fd);
        for (int wait = 0; reported != port && wait < 100'000; ++wait) usleep(10);
        us.push_back(at - before);
      }
      Print(fmt::format("{} on {} -> callback", type == SOCK_STREAM ? "listen()" : "UDP bind()",
                        where == Where::kAny ? "0.0.0.0" : "127.0.0.1")
                .c_str(),
            us);
    }
  }
  std::vector<double> us;
  PortKey key{.address = AddressOf(Where::kAny, AF_INET), .port = 80};
  for (int i = 0; i < 2000; ++i) {
    double before = NowUs();
    REQUIRE_OK(pus.dpu().ports->SetRemote(pus.dpu().pod_key, key, i % 2 == 0, 1));
    us.push_back(NowUs() - before);
  }
  Print("SetRemote()", us);
  us.clear();
  for (int i = 0; i < 50; ++i) {
    double before = NowUs();
    REQUIRE_OK(pus.dpu().ports->RemovePod(pus.dpu().pod_key));
    double middle = NowUs();
    REQUIRE_OK(pus.dpu().ports->AddPod(pus.dpu().Pod()));
    us.push_back(NowUs() - middle);
    (void)before;
  }
  Print("AddPod()", us);
  us.clear();
  for (int i = 0; i < 10; ++i) {
    pus.dpu().KillHeterod();
    double before = NowUs();
    auto ports = NewBpfPorts(pus.dpu().options(), [](const PortChange&) {});
    us.push_back(NowUs() - before);
    REQUIRE_OK(ports);
  }
  Print("NewBpfPorts() over pins", us);
}

// What ownership costs a program that opens and closes ports, such as a resolver, interleaved with the same elsewhere.
TEST_CASE("a port that opens and closes beside one of no Pod") {
  TwoPus pus(/*start=*/false);
  REQUIRE_OK(pus.dpu().StartHeterod([](const PortChange&) {}));
  Pu elsewhere(fmt::format("hkpe{}", getpid()), pus.dpu().side);
  std::vector<double> us[2];
  for (int i = 0; i < 20000; ++i) {
    sys::UniqueFd fd = (i % 2 == 0 ? pus.dpu() : elsewhere).Socket(AF_INET, SOCK_DGRAM);
    double before = NowUs();
    REQUIRE(Bind(fd, AddressOf(Where::kAny, AF_INET), 0) == 0);
    fd.reset();
    us[i % 2].push_back(NowUs() - before);
  }
  Print("UDP bind() to 0 and close(), of a Pod", us[0]);
  Print("UDP bind() to 0 and close(), of no Pod", us[1]);
}

// What a Pod waits for when others do their worst: many sockets bound to one address each, some of which come and go
// all the time.
TEST_CASE("a listener is reported beside a Pod that changes all the time") {
  TwoPus pus(/*start=*/false);
  std::atomic<uint16_t> reported = 0;
  std::atomic<double> at = 0;
  REQUIRE_OK(pus.dpu().StartHeterod([&](const PortChange& change) {
    if (!change.opened || change.pod_key == pus.dpu().pod_key) return;
    at = NowUs();
    reported = change.key.port;
  }));
  Pu quiet(fmt::format("hkpq{}", getpid()), pus.dpu().side);
  PodPorts pod = quiet.Pod();
  auto v4 = [](int last) { return IpAddress::V4(0xa9fe4000 + last); };
  pod.link = {.host_localhost = v4(8), .dpu_localhost = v4(9), .host_pod = v4(10), .dpu_pod = v4(11)};
  pod.addresses = {*IpAddress::Parse("10.200.0.6")};
  REQUIRE_OK(pus.dpu().ports->AddPod(pod));
  std::atomic<bool> stop = false, full = false;
  std::thread restless([&] {
    (void)sys::InNetns(pus.dpu().ns, [&] {
      std::vector<sys::UniqueFd> fds(800);
      for (size_t i = 0; !stop; ++i) {
        sys::UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
        const uint32_t number = static_cast<uint32_t>(i % 16000);
        (void)Bind(fd, IpAddress::V4(0x7f000100 + number), 5000);
        fds[i % fds.size()] = std::move(fd);
        full = i > fds.size();
      }
      return absl::OkStatus();
    });
  });
  while (!full) usleep(1000);
  for (int type : {SOCK_STREAM, SOCK_DGRAM}) {
    std::vector<double> us;
    for (int i = 0; i < 300; ++i) {
      sys::UniqueFd fd = quiet.Socket(AF_INET, type);
      if (type == SOCK_STREAM) REQUIRE(Bind(fd, AddressOf(Where::kLocalhost, AF_INET), 0) == 0);
      double before = NowUs();
      if (type == SOCK_STREAM) REQUIRE(listen(fd.get(), 1) == 0);
      if (type == SOCK_DGRAM) REQUIRE(Bind(fd, AddressOf(Where::kLocalhost, AF_INET), 0) == 0);
      uint16_t port = PortOf(fd);
      for (int wait = 0; reported != port && wait < 100'000; ++wait) usleep(10);
      us.push_back(at - before);
    }
    Print(type == SOCK_STREAM ? "busy neighbour: listen() on 127.0.0.1" : "busy neighbour: UDP bind() on 127.0.0.1",
          us);
  }
  stop = true;
  restless.join();
  REQUIRE_OK(pus.dpu().ports->RemovePod(pod.pod_key));
}

// 16 bytes there and back, interleaved with the bare link so that both meet the same machine.
TEST_CASE("a direct call beside the bare link") {
  TwoPus pus;
  for (int type : {SOCK_STREAM, SOCK_DGRAM}) {
    sys::UniqueFd server = pus.dpu().Socket(AF_INET, type);
    REQUIRE(Bind(server, AddressOf(Where::kAny, AF_INET), 0) == 0);
    if (type == SOCK_STREAM) REQUIRE(listen(server.get(), 4) == 0);
    PortKey key{.protocol = type == SOCK_STREAM ? Protocol::kTcp : Protocol::kUdp,
                .address = AddressOf(Where::kAny, AF_INET),
                .port = PortOf(server)};
    pus.AwaitTold(pus.dpu(), key, true);
    IpAddress targets[] = {AddressOf(Where::kLocalhost, AF_INET), AddressOf(Where::kPodIp, AF_INET),
                           pus.dpu().Pod().link.dpu_localhost};
    const char* names[] = {"localhost", "Pod IP", "bare link"};
    std::vector<sys::UniqueFd> clients;
    std::vector<std::thread> servers;
    for (const IpAddress& target : targets) {
      clients.push_back(pus.host().Socket(AF_INET, type));
      REQUIRE(Connect(clients.back(), target, key.port) == 0);
      if (type == SOCK_STREAM) {
        servers.emplace_back([fd = Accept(server)] {
          char buffer[16];
          while (recv(fd.get(), buffer, sizeof buffer, MSG_WAITALL) == 16) send(fd.get(), buffer, 16, 0);
        });
      }
    }
    if (type == SOCK_DGRAM) {
      servers.emplace_back([&] {
        char buffer[16];
        sockaddr_storage from;
        socklen_t length = sizeof from;
        while (recvfrom(server.get(), buffer, 16, 0, reinterpret_cast<sockaddr*>(&from), &length) == 16) {
          sendto(server.get(), buffer, 16, 0, reinterpret_cast<sockaddr*>(&from), length);
          length = sizeof from;
        }
      });
    }
    std::vector<double> us[3];
    for (int i = 0; i < 6000; ++i) {
      char buffer[16] = {};
      double before = NowUs();
      REQUIRE(send(clients[i % 3].get(), buffer, 16, 0) == 16);
      REQUIRE(recv(clients[i % 3].get(), buffer, 16, MSG_WAITALL) == 16);
      us[i % 3].push_back(NowUs() - before);
    }
    for (int i = 0; i < 3; ++i)
      Print(fmt::format("{} round trip, {}", type == SOCK_STREAM ? "TCP" : "UDP", names[i]).c_str(), us[i]);
    std::vector<double> setup[3];
    for (int i = 0; type == SOCK_STREAM && i < 3000; ++i) {
      sys::UniqueFd fd = pus.host().Socket(AF_INET, SOCK_STREAM);
      double before = NowUs();
      REQUIRE(Connect(fd, targets[i % 3], key.port) == 0);
      setup[i % 3].push_back(NowUs() - before);
      Accept(server);
    }
    for (int i = 0; type == SOCK_STREAM && i < 3; ++i) Print(fmt::format("connect(), {}", names[i]).c_str(), setup[i]);
    if (type == SOCK_DGRAM) send(clients[2].get(), "", 0, 0);  // ends the server
    clients.clear();
    for (std::thread& thread : servers) thread.join();
  }
}

}  // namespace
}  // namespace heterok8s::ports
