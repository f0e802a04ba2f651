#include "node-agent/podnet/uplink_plan.h"

#include "common/testing/matchers.h"
#include "node-agent/podnet/bandwidth.h"

namespace heterok8s::podnet {
namespace {

using testing::HasCode;

TEST_CASE("specs that cannot work are refused") {
  UplinkSpec spec{.owner = {"test", "pod", "eth0"}, .ifname = "eth0", .addresses = {*IpAddress::Parse("fd00:88::5")}};
  SECTION("no address") { spec.addresses.clear(); }
  SECTION("loopback") { spec.addresses = {*IpAddress::Parse("127.0.0.1")}; }
  SECTION("too small for IPv6") { spec.mtu = 1000; }

  CHECK_THAT(UplinkPlan::Of(spec).status(), HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_CASE("a token bucket is never smaller than a packet and never overflows") {
  CHECK(TokenBucket(80000, 0, 1500).burst_bytes == 1514);
  CHECK(TokenBucket(8000000, 8, 1500).burst_bytes == 1514);
  CHECK(TokenBucket(8000000, 0, 1500).burst_bytes == 20000);
  CHECK(TokenBucket(8000000, 80000, 1500) == netlink::Tbf{1000000, 10000, 35000});
  CHECK(TokenBucket(~0ull, ~0ull, 1500).limit_bytes == 0xffffffff);
}

}  // namespace
}  // namespace heterok8s::podnet
