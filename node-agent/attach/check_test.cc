// CHECK, on a split Pod of which something is missing.
#include <catch2/catch.hpp>

#include "common/testing/matchers.h"
#include "node-agent/attach/testing/two_engines.h"

namespace heterok8s::attach {
namespace {

using heterok8s::testing::Says;

TEST_CASE("CHECK finds what is missing, on either PU") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
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
    CHECK_THAT(node.host().Check(check), Says("was not prepared"));
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

}  // namespace
}  // namespace heterok8s::attach
