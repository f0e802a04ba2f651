// What wiring a split Pod costs here: prints, asserts nothing about time.
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <memory>

#include "common/testing/matchers.h"
#include "node-agent/podnet/link.h"
#include "node-agent/podnet/split_pod_topology.h"

namespace heterok8s::podnet {
namespace {

TEST_CASE("time of wiring and of a port") {
  auto measure = [](const char* what, int rounds, auto fn) {
    std::vector<double> ms;
    for (int i = 0; i < rounds; ++i) {
      auto start = std::chrono::steady_clock::now();
      fn();
      ms.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    std::sort(ms.begin(), ms.end());
    fmt::print("{:28} p50 {:6.2f} ms  p99 {:6.2f} ms  n {}\n", what, ms[ms.size() / 2], ms[ms.size() * 99 / 100],
               rounds);
  };
  std::vector<std::unique_ptr<SplitPodTopology>> pods;
  for (int i = 0; i < 20; ++i) pods.push_back(std::make_unique<SplitPodTopology>());
  size_t next = 0;
  (void)CheckLink(pods[0]->DpuSpec());  // once: kernel and libnftables warm up
  measure("EnsureLink, pod-d, new", 20, [&] { REQUIRE_OK(EnsureLink(pods[next++]->DpuSpec())); });
  next = 0;
  measure("EnsureLink, pod-h, new", 20, [&] { REQUIRE_OK(EnsureLink(pods[next++]->HostSpec())); });
  measure("EnsureLink, pod-d, again", 50, [&] { REQUIRE_OK(EnsureLink(pods[0]->DpuSpec())); });
  measure("EnsureLink, pod-h, again", 50, [&] { REQUIRE_OK(EnsureLink(pods[0]->HostSpec())); });
  measure("CheckLink, pod-d", 20, [&] { REQUIRE_OK(CheckLink(pods[0]->DpuSpec())); });
  for (int n = 0; n < 1000; ++n) REQUIRE_OK(SetPort(pods[0]->DpuSpec(), Protocol::kTcp, 1000 + n, true));
  uint16_t port = 3000;
  measure("SetPort, opened, 1000 owned", 200,
          [&] { REQUIRE_OK(SetPort(pods[0]->DpuSpec(), Protocol::kTcp, port++, true)); });
  measure("SetPort, closed, 1000 owned", 200,
          [&] { REQUIRE_OK(SetPort(pods[0]->DpuSpec(), Protocol::kTcp, --port, false)); });
  std::vector<std::pair<Protocol, uint16_t>> thousand;
  for (uint16_t n = 0; n < 1000; ++n) thousand.emplace_back(Protocol::kTcp, 1000 + n);
  measure("ReplacePorts, 1000", 100, [&] { REQUIRE_OK(ReplacePorts(pods[0]->DpuSpec(), thousand)); });
}

}  // namespace
}  // namespace heterok8s::podnet
