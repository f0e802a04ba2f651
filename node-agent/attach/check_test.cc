// CHECK, on a split Pod of which something is missing.
#include <catch2/catch.hpp>

#include "common/testing/matchers.h"
#include "node-agent/attach/testing/two_engines.h"

namespace heterok8s::attach {
namespace {

using heterok8s::testing::Says;

TEST_CASE("CHECK finds what is missing, on either PU") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit, 8080);
  cni::Result result = *node.host().Add(add);
  cni::Request check = node.Check(add, result);
  CHECK_OK(node.host().Check(check));

  SECTION("no prevResult") {
    check.config.prev_result.reset();
    CHECK_THAT(node.host().Check(check), Says("prevResult"));
  }
  SECTION("prevResult shows another address") {
    check.config.prev_result->ips[0].address = *IpPrefix::Parse("10.88.0.200/32");
    CHECK_FALSE(node.host().Check(check).ok());
  }
  SECTION("the host's wiring is gone") {
    REQUIRE_OK(node.host_podnet.RemoveLink(*node.host().inspect().LinkOf("uid-1")));
    CHECK_THAT(node.host().Check(check), Says("no link"));
  }
  SECTION("the ports are not followed") {
    REQUIRE_OK(node.host_ports.RemovePod("uid-1"));
    CHECK_THAT(node.host().Check(check), Says("ports"));
  }
  SECTION("the DPU half is gone") {
    REQUIRE_OK(node.dpu().Remove({"uid-1", node.HostGeneration("uid-1")}));
    CHECK_THAT(node.host().Check(check), Says("the DPU half") && Says("is not here"));
  }
  SECTION("the host ports are gone") {
    REQUIRE_OK(node.host_podnet.RemoveHostPorts("uid-1"));
    CHECK_THAT(node.host().Check(check), Says("no host ports"));
  }
  const pu::OwnerTag tag{.instance = "demo", .pod_key = "uid-1", .ifname = "eth0"};
  SECTION("the DPU's uplink is gone") {
    REQUIRE_OK(node.dpu_podnet.RemoveUplink(tag, ""));
    CHECK_THAT(node.host().Check(check), Says("the DPU half") && Says("no uplink"));
  }
  SECTION("the DPU's wiring is gone") {
    REQUIRE_OK(node.dpu_podnet.RemoveLink(*node.dpu().inspect().LinkOf("uid-1")));
    CHECK_THAT(node.host().Check(check), Says("no link"));
  }
  SECTION("the DPU's host ports are gone") {
    REQUIRE_OK(node.dpu_podnet.RemoveHostPorts("uid-1"));
    CHECK_THAT(node.host().Check(check), Says("the DPU half") && Says("no host ports"));
  }
  SECTION("the DPU does not follow the ports") {
    REQUIRE_OK(node.dpu_ports.RemovePod("uid-1"));
    CHECK_THAT(node.host().Check(check), Says("the DPU half") && Says("ports"));
  }
  SECTION("the DPU does not answer, and the lease holds still") {
    node.to_dpu.SetDown(true, /*lease_too=*/false);
    CHECK(cni::CodeOf(node.host().Check(check)) == cni::kDpuUnavailable);
  }
  SECTION("the DPU is away") {
    node.SetConnected(false);
    CHECK(cni::CodeOf(node.host().Check(check)) == cni::kDpuUnavailable);
  }
  SECTION("it was never added") {
    cni::Request other = node.Check(node.HostAdd("c9", "uid-9", kSplit), result);
    CHECK(cni::CodeOf(node.host().Check(other)) == cni::kUnknownContainer);
  }
}

TEST_CASE("CHECK of an ordinary Pod finds missing host ports and masquerading") {
  TwoEngines node;
  const bool port = GENERATE(true, false);
  if (!port) node.extra_config["ipMasq"] = true;
  cni::Request add = node.HostAdd("c1", "uid-1", kOrdinary, port ? 8080 : 0);
  cni::Request check = node.Check(add, *node.host().Add(add));
  CHECK_OK(node.host().Check(check));

  REQUIRE_OK(node.host_podnet.RemoveHostPorts("uid-1"));

  CHECK_THAT(node.host().Check(check), Says("no host ports"));
}

}  // namespace
}  // namespace heterok8s::attach
