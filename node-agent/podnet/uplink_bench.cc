// What making, repeating, checking and removing an uplink costs in this kernel. Prints; asserts nothing about time.

#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <chrono>
#include <functional>
#include <thread>

#include "common/netlink/libnl_netlink.h"
#include "common/sys/netns.h"
#include "common/testing/matchers.h"
#include "node-agent/podnet/uplink.h"

namespace heterok8s::podnet {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPods = 100;

double CpuMs() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto ms = [](const timeval& t) { return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_usec) / 1e3; };
  return ms(usage.ru_utime) + ms(usage.ru_stime);
}

void Measure(const std::string& what, const std::vector<UplinkSpec>& specs,
             const std::function<absl::Status(const UplinkSpec&)>& call) {
  std::vector<double> ms;
  double cpu = CpuMs();
  for (const UplinkSpec& spec : specs) {
    auto start = Clock::now();
    REQUIRE_OK(call(spec));
    ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
  }
  cpu = (CpuMs() - cpu) / static_cast<double>(specs.size());
  std::sort(ms.begin(), ms.end());
  fmt::print("{:<28} p50 {:7.3f} ms   p99 {:7.3f} ms   cpu {:6.3f} ms   n {}\n", what, ms[ms.size() / 2],
             ms[ms.size() * 99 / 100], cpu, ms.size());
}

TEST_CASE("uplink costs", "[netns][bench]") {
  auto path = [](const std::string& name) { return fmt::format("/run/netns/hkb{}-{}", getpid(), name); };
  sys::NetnsRef root = *sys::CreateNetns(path("root"));
  std::vector<UplinkSpec> plain, limited;
  for (int i = 0; i < kPods; ++i) {
    REQUIRE_OK(sys::CreateNetns(path(std::to_string(i))));
    plain.push_back({.owner = {"bench", fmt::format("pod-{}", i), "eth0"},
                     .netns_path = path(std::to_string(i)),
                     .ifname = "eth0",
                     .addresses = {IpAddress::V4(0x0a580000u + static_cast<uint32_t>(i) + 2),
                                   IpAddress::Parse("fd00:88::")->Plus(static_cast<uint64_t>(i) + 2)}});
    limited.push_back(plain.back());
    limited.back().bandwidth = Bandwidth{80000000, 8000000, 80000000, 8000000};
  }

  REQUIRE_OK(sys::InNetns(root, [&]() -> absl::Status {
    HK_RETURN_IF_ERROR(EnableForwarding());
    auto ensure = [](const UplinkSpec& spec) { return EnsureUplink(spec).status(); };
    auto remove = [](const UplinkSpec& spec) { return RemoveUplink(spec.owner, spec.netns_path); };
    Measure("EnsureUplink, new", plain, ensure);
    Measure("EnsureUplink, again", plain, ensure);
    Measure("CheckUplink", plain, CheckUplink);
    Measure("RemoveUplink", plain, remove);
    Measure("RemoveUplink, nothing there", plain, remove);
    Measure("EnsureUplink with limits", limited, ensure);
    Measure("RemoveUplink with limits", limited, remove);
    return absl::OkStatus();
  }));

  for (const UplinkSpec& spec : plain) CHECK_OK(sys::DeleteNetns(spec.netns_path));
  CHECK_OK(sys::DeleteNetns(path("root")));
}

// TCP from one namespace to another for a second; bits per second that arrived after the burst was spent.
double Throughput(const sys::NetnsRef& from, const sys::NetnsRef& to, const IpAddress& address) {
  constexpr auto kWarmUp = std::chrono::milliseconds(500), kLength = std::chrono::milliseconds(2000);
  sys::UniqueFd listener, sender;
  sockaddr_in target{};
  target.sin_family = AF_INET;
  target.sin_addr.s_addr = htonl(address.v4());
  REQUIRE_OK(sys::InNetns(to, [&]() -> absl::Status {
    listener.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    socklen_t length = sizeof target;
    bool ok = bind(listener.get(), reinterpret_cast<sockaddr*>(&target), length) == 0 &&
              listen(listener.get(), 1) == 0 &&
              getsockname(listener.get(), reinterpret_cast<sockaddr*>(&target), &length) == 0;
    return ok ? absl::OkStatus() : ErrnoToStatus(errno, "listen");
  }));
  REQUIRE_OK(sys::InNetns(from, [&]() -> absl::Status {
    sender.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    timeval timeout{.tv_sec = 5};
    setsockopt(sender.get(), SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    bool ok = connect(sender.get(), reinterpret_cast<sockaddr*>(&target), sizeof target) == 0;
    return ok ? absl::OkStatus() : ErrnoToStatus(errno, "connect");
  }));
  sys::UniqueFd receiver(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    std::vector<char> data(65536);
    while (!stop && send(sender.get(), data.data(), data.size(), MSG_NOSIGNAL) > 0) {
    }
  });
  std::vector<char> data(65536);
  double bytes = 0;
  auto start = Clock::now();
  for (auto now = start; now < start + kWarmUp + kLength; now = Clock::now()) {
    ssize_t n = recv(receiver.get(), data.data(), data.size(), 0);
    if (n > 0 && now >= start + kWarmUp) bytes += static_cast<double>(n);
  }
  stop = true;
  receiver.reset();
  writer.join();
  return bytes * 8 / std::chrono::duration<double>(kLength).count();
}

TEST_CASE("bandwidth that is enforced", "[netns][bench]") {
  auto path = [](const std::string& name) { return fmt::format("/run/netns/hkbw{}-{}", getpid(), name); };
  sys::NetnsRef root = *sys::CreateNetns(path("root")), a = *sys::CreateNetns(path("a")),
                b = *sys::CreateNetns(path("b"));
  UplinkSpec first{.owner = {"bench", "a", "eth0"},
                   .netns_path = path("a"),
                   .ifname = "eth0",
                   .addresses = {*IpAddress::Parse("10.88.0.2")}};
  UplinkSpec second{.owner = {"bench", "b", "eth0"},
                    .netns_path = path("b"),
                    .ifname = "eth0",
                    .addresses = {*IpAddress::Parse("10.88.0.3")}};
  auto ensure = [&] {
    return sys::InNetns(root, [&]() -> absl::Status {
      HK_RETURN_IF_ERROR(EnableForwarding());
      HK_RETURN_IF_ERROR(EnsureUplink(second).status());
      return EnsureUplink(first).status();
    });
  };
  REQUIRE_OK(ensure());
  fmt::print("no limit: {:.1f} Mbit/s\n", Throughput(a, b, second.addresses[0]) / 1e6);
  for (double mbits : {10.0, 100.0, 1000.0}) {
    auto rate = static_cast<uint64_t>(mbits * 1e6);
    first.bandwidth = Bandwidth{rate, rate / 20, rate, rate / 20};
    REQUIRE_OK(ensure());
    fmt::print("limit {:6.0f} Mbit/s: to the Pod {:7.1f}, from the Pod {:7.1f} Mbit/s\n", mbits,
               Throughput(b, a, first.addresses[0]) / 1e6, Throughput(a, b, second.addresses[0]) / 1e6);
  }
  for (const char* name : {"root", "a", "b"}) CHECK_OK(sys::DeleteNetns(path(name)));
}

}  // namespace
}  // namespace heterok8s::podnet
