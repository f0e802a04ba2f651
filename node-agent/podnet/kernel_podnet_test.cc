#include "node-agent/podnet/kernel_podnet.h"

#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <thread>
#include <vector>

#include "common/sys/file.h"
#include "common/sys/process.h"
#include "common/testing/eventually.h"
#include "common/testing/matchers.h"

// A PodNet that was made in one namespace and is called from another: the test's own, which it must not touch.
namespace heterok8s::podnet {
namespace {

struct World {
  static std::string Path(const std::string& name) { return fmt::format("/run/netns/hkkp{}-{}", getpid(), name); }

  sys::NetnsRef root = *sys::CreateNetns(Path("root"));
  std::unique_ptr<PodNet> podnet;
  std::vector<UplinkSpec> pods;

  World() {
    REQUIRE_OK(sys::InNetns(root, [&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(podnet,
                          NewKernelPodNet({.instance = "test", .mend_interval = std::chrono::milliseconds(20)}));
      return absl::OkStatus();
    }));
    for (int i = 0; i < 8; ++i) {
      std::string path = Path(std::to_string(i));
      REQUIRE_OK(sys::CreateNetns(path));
      pods.push_back({.owner = {"test", fmt::format("pod-{}", i), "eth0"},
                      .netns_path = path,
                      .ifname = "eth0",
                      .addresses = {IpAddress::V4(0x0a580002u + static_cast<uint32_t>(i))}});
    }
  }
  ~World() {
    for (const UplinkSpec& pod : pods) (void)sys::DeleteNetns(pod.netns_path);
    (void)sys::DeleteNetns(Path("root"));
  }
};

TEST_CASE("the root namespace is prepared, more than once", "[netns]") {
  World world;

  REQUIRE_OK(world.podnet->PrepareRoot());
  REQUIRE_OK(world.podnet->PrepareRoot());

  CHECK_OK(sys::InNetns(world.root, []() -> absl::Status {
    for (const char* path : {"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"}) {
      HK_ASSIGN_OR_RETURN(std::string text, sys::ReadFile(path));
      CHECK(text == "1\n");
    }
    return absl::OkStatus();
  }));
}

TEST_CASE("Pods come and go in parallel, in the namespace that PodNet was made in", "[netns]") {
  World world;
  REQUIRE_OK(world.podnet->PrepareRoot());

  std::vector<absl::Status> results(world.pods.size());
  auto all = [&](auto call) {
    std::vector<std::thread> threads;
    for (size_t i = 0; i < world.pods.size(); ++i) threads.emplace_back([&, i] { results[i] = call(world.pods[i]); });
    for (std::thread& thread : threads) thread.join();
    for (const absl::Status& result : results) CHECK_OK(result);
  };

  all([&](const UplinkSpec& pod) { return world.podnet->EnsureUplink(pod).status(); });
  all([&](const UplinkSpec& pod) { return world.podnet->CheckUplink(pod); });
  CHECK(world.podnet->ListUplinks()->size() == world.pods.size());
  all([&](const UplinkSpec& pod) { return world.podnet->RemoveUplink(pod.owner, pod.netns_path); });
  CHECK(world.podnet->ListUplinks()->empty());
}

TEST_CASE("host ports lead to an uplink and go with it", "[netns]") {
  World world;
  REQUIRE_OK(world.podnet->PrepareRoot());
  UplinkSpec pod = world.pods[0];
  REQUIRE_OK(world.podnet->EnsureUplink(pod));
  HostPortSpec spec{
      .pod_key = pod.owner.pod_key, .ports = {{.host_port = 8080, .container_port = 80}}, .addresses = pod.addresses};

  CHECK_OK(world.podnet->EnsureHostPorts(spec));
  spec.pod_key = "another";
  CHECK_THAT(world.podnet->EnsureHostPorts(spec), testing::HasCode(absl::StatusCode::kAlreadyExists));
  CHECK_OK(world.podnet->RemoveHostPorts(pod.owner.pod_key));
  CHECK_OK(world.podnet->EnsureHostPorts(spec));
}

std::string Nft(const sys::NetnsRef& ns, const std::string& command) {
  std::string output;
  REQUIRE_OK(sys::InNetns(ns, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(sys::RunResult run, sys::Run({.argv = {"sh", "-c", "nft " + command + " 2>&1"}}));
    output = run.stdout_text;
    return absl::OkStatus();
  }));
  return output;
}

TEST_CASE("a root table that somebody has flushed comes back, with all that was in it", "[netns]") {
  World world;
  REQUIRE_OK(world.podnet->PrepareRoot());
  for (size_t i = 0; i < 2; ++i) {
    const UplinkSpec& pod = world.pods[i];
    REQUIRE_OK(world.podnet->EnsureUplink(pod));
    REQUIRE_OK(
        world.podnet->EnsureHostPorts({.pod_key = pod.owner.pod_key,
                                       .ports = {{.host_port = static_cast<uint16_t>(8080 + i), .container_port = 80}},
                                       .addresses = pod.addresses,
                                       .masquerade_outside = {*IpPrefix::Parse("10.88.0.0/16")}}));
  }
  REQUIRE_OK(world.podnet->RemoveHostPorts(world.pods[1].owner.pod_key));
  const std::string before = Nft(world.root, "list table inet heterok8s_test");

  Nft(world.root, "flush ruleset");

  CHECK(testing::Eventually([&] { return Nft(world.root, "list table inet heterok8s_test") == before; }));
  CHECK(world.podnet->RootTablesRemade() == 1);
}

}  // namespace
}  // namespace heterok8s::podnet
