// What the netns back end's link costs in this kernel. Prints; asserts nothing about time.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <functional>

#include "common/netlink/libnl_netlink.h"
#include "common/testing/matchers.h"
#include "node-agent/pu/netns_backend.h"

namespace heterok8s::pu {
namespace {

constexpr int kPods = 50;

void Measure(const std::string& what, const std::function<absl::Status(int)>& call) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> ms;
  for (int i = 0; i < kPods; ++i) {
    auto start = Clock::now();
    REQUIRE_OK(call(i));
    ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
  }
  std::sort(ms.begin(), ms.end());
  fmt::print("{:<24} p50 {:7.3f} ms   p99 {:7.3f} ms   n {}\n", what, ms[ms.size() / 2], ms[ms.size() * 99 / 100],
             ms.size());
}

TEST_CASE("link costs", "[netns][bench]") {
  auto path = [](const std::string& name) { return fmt::format("/run/netns/hkpb{}-{}", getpid(), name); };
  sys::NetnsRef dpu_root = *sys::CreateNetns(path("dpu"));
  std::vector<sys::NetnsRef> pod_h, pod_d;
  for (int i = 0; i < kPods; ++i) {
    pod_h.push_back(*sys::CreateNetns(path(fmt::format("h{}", i))));
    pod_d.push_back(*sys::CreateNetns(path(fmt::format("d{}", i))));
  }
  auto host = *NewNetnsBackend({Side::kHost, "bench", path("dpu")});
  std::unique_ptr<Backend> dpu;
  REQUIRE_OK(sys::InNetns(dpu_root, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(dpu, NewNetnsBackend({Side::kDpu, "bench", ""}));
    return absl::OkStatus();
  }));
  auto tag = [](int i) { return OwnerTag{"bench", fmt::format("pod-{}", i), "eth0"}; };

  auto acquire = [&](int i) { return host->AcquireLink(tag(i), {1500, &pod_h[i], "eth0"}).status(); };
  auto accept = [&](int i) { return dpu->AcceptLink(tag(i), {1500, &pod_d[i], "xpu0"}).status(); };
  Measure("AcquireLink, new", acquire);
  Measure("AcceptLink, new", accept);
  Measure("AcquireLink, again", acquire);
  Measure("AcceptLink, again", accept);
  Measure("ReleaseLink", [&](int i) { return host->ReleaseLink(tag(i), &pod_h[i]); });

  // As after a twin sandbox: the Pod's uplink shows where pod-d is.
  auto root = *netlink::OpenNetlinkIn(dpu_root);
  for (int i = 0; i < kPods; ++i) {
    std::string name = InterfaceName(tag(i), 'u');
    REQUIRE_OK(root->Do(netlink::AddVeth{.end = {.name = name}, .peer = {.name = "eth0", .netns_fd = pod_d[i].fd()}}));
    REQUIRE_OK(root->Do(netlink::SetLink{.by_name = name, .alias = tag(i).ToAlias()}));
  }
  Measure("AcquireLink, into pod-d", acquire);
  Measure("AcceptLink, in place", accept);

  for (int i = 0; i < kPods; ++i) {
    CHECK_OK(sys::DeleteNetns(pod_h[i].path()));
    CHECK_OK(sys::DeleteNetns(pod_d[i].path()));
  }
  CHECK_OK(sys::DeleteNetns(path("dpu")));
}

}  // namespace
}  // namespace heterok8s::pu
