#include "node-agent/podnet/uplink.h"

#include "common/testing/matchers.h"
#include "node-agent/podnet/uplink_world.h"

namespace heterok8s::podnet {
namespace {

using testing::HasCode;
using testing::Says;

TEST_CASE("two Pods reach each other over both families, without any ARP or NDP", "[netns]") {
  World world;
  UplinkSpec a = world.Spec(world.a, 5), b = world.Spec(world.b, 6);

  REQUIRE_OK(world.Ensure(a));
  REQUIRE_OK(world.Ensure(b));

  CHECK(world.a.Pings("10.88.0.6"));
  CHECK(world.a.Pings("fd00:88::6"));
  CHECK_OK(world.Check(a));
  CHECK_OK(world.Check(b));
  CHECK(world.List() == std::vector<pu::OwnerTag>{a.owner, b.owner});
  CHECK(world.a.Exit({"sh", "-c", "ip neigh show dev eth0 | grep -v PERMANENT | grep ."}) == 1);
  CHECK(world.root.Exit({"sh", "-c", "ip neigh show | grep -v PERMANENT | grep ."}) == 1);

  CHECK_OK(world.Remove(a));
  CHECK_OK(world.Remove(b));
  CHECK(world.List().empty());
}

TEST_CASE("a Pod may have one family only", "[netns]") {
  World world;
  UplinkSpec a = world.Spec(world.a, 5), b = world.Spec(world.b, 6);
  size_t keep = GENERATE(0u, 1u);
  a.addresses = {a.addresses[keep]};
  b.addresses = {b.addresses[keep]};

  REQUIRE_OK(world.Ensure(a));
  REQUIRE_OK(world.Ensure(b));

  CHECK(world.a.Pings(b.addresses[0].ToString()));
  CHECK_OK(world.Check(a));
}

TEST_CASE("removing an uplink leaves nothing, and may be repeated", "[netns]") {
  World world;
  UplinkSpec a = world.Spec(world.a, 5);
  a.bandwidth = Bandwidth{.ingress_rate_bits = 8000000,
                          .ingress_burst_bits = 800000,
                          .egress_rate_bits = 8000000,
                          .egress_burst_bits = 800000};
  REQUIRE_OK(world.Ensure(a));
  REQUIRE(world.root.Links().size() == 3);

  SECTION("while the Pod lives") { CHECK_OK(world.Remove(a)); }
  SECTION("after the Pod's namespace") {
    CHECK_OK(sys::DeleteNetns(world.a.path()));
    CHECK_OK(world.Remove(a));
  }
  SECTION("without a namespace path") {
    a.netns_path = "";
    CHECK_OK(world.Remove(a));
  }

  CHECK(world.root.Links().size() == 1);
  CHECK(world.root.Exit(
            {"sh", "-c", "ip route show table all | grep 10.88; ip -6 route show table all | grep fd00:88"}) == 1);
  CHECK(world.List().empty());
  CHECK_OK(world.Remove(a));
}

TEST_CASE("an interface of the wanted name that is not ours is refused and left alone", "[netns]") {
  World world;
  UplinkSpec a = world.Spec(world.a, 5);
  world.a.Change(netlink::AddVeth{.end = {.name = "eth0"}, .peer = {.name = "other"}});

  CHECK_THAT(world.Ensure(a), HasCode(absl::StatusCode::kAlreadyExists) && Says("'eth0' that is not ours"));

  CHECK(world.a.Find("eth0"));
  CHECK(world.root.Links().size() == 1);
  CHECK_OK(world.Remove(a));
  CHECK(world.a.Find("eth0"));
}

TEST_CASE("a namespace that is gone is not found", "[netns]") {
  World world;
  UplinkSpec a = world.Spec(world.a, 5);
  a.netns_path += "-gone";

  CHECK_THAT(world.Ensure(a), HasCode(absl::StatusCode::kNotFound));
  CHECK_THAT(world.Check(a), HasCode(absl::StatusCode::kNotFound));
}

TEST_CASE("IPv6 that a namespace starts without is turned on for a Pod that has it", "[netns]") {
  World world;
  UplinkSpec a = world.Spec(world.a, 5);
  REQUIRE(world.a.Exit({"sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"}) == 0);

  CHECK_OK(world.Ensure(a));
  CHECK_OK(world.Check(a));
}

}  // namespace
}  // namespace heterok8s::podnet
