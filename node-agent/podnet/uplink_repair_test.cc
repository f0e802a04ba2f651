// What is damaged or was made half-way is named and put right.
#include <catch2/catch.hpp>
#include <functional>

#include "common/testing/matchers.h"
#include "node-agent/podnet/bandwidth.h"
#include "node-agent/podnet/uplink_plan.h"
#include "node-agent/podnet/uplink_world.h"

namespace heterok8s::podnet {
namespace {

using testing::HasCode;
using testing::Says;

// What the damages below need to name.
struct Ids {
  UplinkPlan plan;
  int pod, root, ifb;  // ifindexes
  int elsewhere;       // a namespace
};

TEST_CASE("every damage is named by Check and repaired by Ensure", "[netns]") {
  World world;
  UplinkSpec a = world.Spec(world.a, 5), b = world.Spec(world.b, 6);
  a.bandwidth = Bandwidth{.ingress_rate_bits = 80000000,
                          .ingress_burst_bits = 8000000,
                          .egress_rate_bits = 80000000,
                          .egress_burst_bits = 8000000};
  REQUIRE_OK(world.Ensure(a));
  REQUIRE_OK(world.Ensure(b));
  REQUIRE_OK(world.Check(a));
  UplinkPlan plan = *UplinkPlan::Of(a);
  Ids ids{.plan = plan,
          .pod = world.a.Find("eth0")->index,
          .root = world.root.Find(plan.root_name)->index,
          .ifb = world.root.Find(pu::InterfaceName(a.owner, 'b'))->index,
          .elsewhere = world.b.ref().fd()};

  struct Case {
    std::string says;
    bool in_pod;
    std::function<netlink::Change(const Ids&)> damage;
  };
  Case c = GENERATE(values<Case>({
      {"'eth0' is missing in the Pod", true, [](const Ids& i) { return netlink::DeleteLink{i.pod}; }},
      {"'eth0' is missing in the Pod", true,
       [](const Ids& i) { return netlink::SetLink{.link = i.pod, .name = "lost", .netns_fd = i.elsewhere}; }},
      {"'eth0' has the owner ''", true, [](const Ids& i) { return netlink::SetLink{.link = i.pod, .alias = ""}; }},
      {"'eth0' is down", true, [](const Ids& i) { return netlink::SetLink{.link = i.pod, .up = false}; }},
      {"'eth0' has the MAC 02:00:00:00:00:01", true,
       [](const Ids& i) { return netlink::SetLink{.link = i.pod, .mac = "02:00:00:00:00:01"}; }},
      {"'eth0' has the MTU 9000", true, [](const Ids& i) { return netlink::SetLink{.link = i.pod, .mtu = 9000}; }},
      {"no address 10.88.0.5/32", true,
       [](const Ids& i) { return netlink::DeleteAddress{i.plan.PodAddresses(i.pod)[0]}; }},
      {"no address fd00:88::5/128", true,
       [](const Ids& i) { return netlink::DeleteAddress{i.plan.PodAddresses(i.pod)[1]}; }},
      {"no route to 0.0.0.0/0 via 169.254.1.1", true,
       [](const Ids& i) { return netlink::DeleteRoute{i.plan.PodRoutes(i.pod)[0]}; }},
      {"no route to ::/0 via fe80::1", true,
       [](const Ids& i) { return netlink::DeleteRoute{i.plan.PodRoutes(i.pod)[1]}; }},
      {"no permanent neighbour 169.254.1.1", true,
       [](const Ids& i) { return netlink::DeleteNeighbor{i.plan.PodNeighbors(i.pod)[0]}; }},
      {"no permanent neighbour fe80::1", true,
       [](const Ids& i) { return netlink::DeleteNeighbor{i.plan.PodNeighbors(i.pod)[1]}; }},
      {"is down", false, [](const Ids& i) { return netlink::SetLink{.link = i.root, .up = false}; }},
      {"no route to 10.88.0.5/32", false,
       [](const Ids& i) { return netlink::DeleteRoute{i.plan.RootRoutes(i.root)[0]}; }},
      {"no route to fd00:88::5/128", false,
       [](const Ids& i) { return netlink::DeleteRoute{i.plan.RootRoutes(i.root)[1]}; }},
      {"no permanent neighbour 10.88.0.5", false,
       [](const Ids& i) { return netlink::DeleteNeighbor{i.plan.RootNeighbors(i.root)[0]}; }},
      {"traffic to the Pod is not limited", false, [](const Ids& i) { return netlink::DeleteRootQueue{i.root}; }},
      {"traffic to the Pod is limited to 5 bytes/s", false,
       [](const Ids& i) {
         return netlink::ReplaceTbf{i.root, {5, 2000, 2000}};
       }},
      {"traffic from the Pod does not go to", false, [](const Ids& i) { return netlink::DeleteRedirect{i.root}; }},
      {"ifb", false, [](const Ids& i) { return netlink::DeleteLink{i.ifb}; }},
      {"traffic from the Pod is not limited", false, [](const Ids& i) { return netlink::DeleteRootQueue{i.ifb}; }},
  }));
  INFO(c.says);
  (c.in_pod ? world.a : world.root).Change(c.damage(ids));

  CHECK_THAT(world.Check(a), HasCode(absl::StatusCode::kFailedPrecondition) && Says(c.says));
  CHECK_OK(world.Ensure(a));
  CHECK_OK(world.Check(a));
  CHECK(world.a.Pings("10.88.0.6"));
  CHECK(world.a.Pings("fd00:88::6"));
}

TEST_CASE("an uplink that was made half-way is completed", "[netns]") {
  World world;
  UplinkSpec a = world.Spec(world.a, 5);
  UplinkPlan plan = *UplinkPlan::Of(a);

  SECTION("the pair exists, nothing is set") {
    world.root.Change(
        netlink::AddVeth{.end = {.name = plan.root_name}, .peer = {.name = "eth0", .netns_fd = world.a.ref().fd()}});
  }
  SECTION("the root end belongs to an earlier sandbox of the Pod") {
    a.netns_path = world.b.path();
    REQUIRE_OK(world.Ensure(a));
    a.netns_path = world.a.path();
  }
  SECTION("it had other addresses and a limit before") {
    UplinkSpec before = a;
    before.addresses = {*IpAddress::Parse("10.88.0.77"), *IpAddress::Parse("fd00:88::77")};
    before.bandwidth = Bandwidth{.ingress_rate_bits = 8000000, .egress_rate_bits = 8000000};
    REQUIRE_OK(world.Ensure(before));
  }

  CHECK_OK(world.Ensure(a));
  CHECK_OK(world.Check(a));
  CHECK_OK(world.Ensure(a));
  CHECK(world.root.Links().size() == 2);
  CHECK(world.root.Pings("fd00:88::77") == false);
  CHECK(world.a.Exit({"sh", "-c", "ip addr show | grep -F .77; ip -6 addr show | grep ::77"}) == 1);
  CHECK(world.root.Exit({"sh", "-c", "ip route show | grep -F .77; ip -6 route show | grep ::77"}) == 1);
}

}  // namespace
}  // namespace heterok8s::podnet
