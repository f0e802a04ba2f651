// The routes of a Pod, beside those of its other interfaces.
#include "common/testing/matchers.h"
#include "node-agent/podnet/uplink_world.h"

namespace heterok8s::podnet {
namespace {

using testing::Says;

TEST_CASE("a second interface leaves the first one's default routes alone, and takes none along", "[netns]") {
  World world;
  UplinkSpec first = world.Spec(world.a, 5), second = world.Spec(world.a, 6), other = world.Spec(world.b, 7);
  second.owner = {"test", "pod-5", "net1"};
  second.ifname = "net1";
  auto leaves_by_eth0 = [&] {
    const char* script =
        "for f in -4 -6; do ip $f route show default | grep 'dev eth0' && ! ip $f route show default | grep net1 "
        "|| exit 1; done";
    return world.a.Exit({"sh", "-c", script}) == 0;
  };
  REQUIRE_OK(world.Ensure(first));
  REQUIRE_OK(world.Ensure(other));

  for (int i = 0; i < 2; ++i) REQUIRE_OK(world.Ensure(second));

  CHECK(leaves_by_eth0());
  CHECK_OK(world.Check(first));
  CHECK_OK(world.Check(second));
  CHECK(world.a.Pings("10.88.0.7"));

  CHECK_OK(world.Remove(second));
  CHECK(leaves_by_eth0());
  CHECK_OK(world.Check(first));
  CHECK(world.a.Pings("10.88.0.7"));
  CHECK(world.a.Pings("fd00:88::7"));
}

TEST_CASE("a Pod has the routes that are asked for, and no others", "[netns]") {
  World world;
  UplinkSpec a = world.Spec(world.a, 5), other = world.Spec(world.b, 7);
  REQUIRE_OK(world.Ensure(other));
  const bool had_default_routes = GENERATE(false, true);
  if (had_default_routes) REQUIRE_OK(world.Ensure(a));
  a.routes = {{.destination = *IpPrefix::Parse("10.88.0.0/16"), .mtu = 1400},
              {.destination = *IpPrefix::Parse("fd00:88::/64")}};
  if (had_default_routes) CHECK_THAT(world.Check(a), Says("no route to 10.88.0.0/16 via 169.254.1.1"));

  for (int i = 0; i < 2; ++i) REQUIRE_OK(world.Ensure(a));

  CHECK_OK(world.Check(a));
  CHECK(world.a.Exit({"sh", "-c", "ip route show default | grep . || ip -6 route show default | grep ."}) == 1);
  CHECK(world.a.Exit({"sh", "-c", "ip route show 10.88.0.0/16 | grep -q 'src 10.88.0.5 .*mtu 1400'"}) == 0);
  CHECK(world.a.Pings("10.88.0.7"));
  CHECK(world.a.Pings("fd00:88::7"));
  CHECK(world.a.Exit({"ping", "-c1", "-w30", "192.0.2.1"}) == 2);  // unreachable

  REQUIRE(world.a.Exit({"sh", "-c", "ip route change $(ip route show 10.88.0.0/16 | sed s/1400/1300/)"}) == 0);
  CHECK_THAT(world.Check(a), Says("no route to 10.88.0.0/16 via 169.254.1.1"));
}

TEST_CASE("a route of a family without an address counts for nothing", "[netns]") {
  World world;
  UplinkSpec a = world.Spec(world.a, 5);
  a.addresses.pop_back();
  a.routes = {{.destination = *IpPrefix::Parse("0.0.0.0/0")}, {.destination = *IpPrefix::Parse("::/0")}};

  REQUIRE_OK(world.Ensure(a));

  CHECK_OK(world.Check(a));
}

TEST_CASE("a default route that somebody has changed on our interface is put right", "[netns]") {
  World world;
  UplinkSpec a = world.Spec(world.a, 5);
  REQUIRE_OK(world.Ensure(a));
  REQUIRE(world.a.Exit({"ip", "route", "replace", "default", "dev", "eth0", "src", "10.88.0.5"}) == 0);

  CHECK_THAT(world.Check(a), Says("no route to 0.0.0.0/0"));
  CHECK_OK(world.Ensure(a));
  CHECK_OK(world.Check(a));
}

}  // namespace
}  // namespace heterok8s::podnet
