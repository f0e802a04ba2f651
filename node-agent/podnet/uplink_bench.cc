// What making, repeating, checking and removing an uplink costs in this kernel. Prints; asserts nothing about time.

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <functional>

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

}  // namespace
}  // namespace heterok8s::podnet
