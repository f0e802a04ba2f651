#include "node-agent/podnet/uplink.h"

#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <functional>
#include <memory>
#include <optional>

#include "common/netlink/libnl_netlink.h"
#include "common/sys/netns.h"
#include "common/sys/process.h"
#include "common/testing/matchers.h"
#include "node-agent/podnet/bandwidth.h"
#include "node-agent/podnet/uplink_plan.h"

// root namespace (of the test)            Pod a                       Pod b
//   hku…(a) ───────────────────────────── eth0 10.88.0.5 fd00:88::5
//   hku…(b) ─────────────────────────────────────────────────────── eth0 10.88.0.6 fd00:88::6
namespace heterok8s::podnet {
namespace {

using netlink::Netlink;
using testing::HasCode;
using testing::Says;

class Netns {
 public:
  explicit Netns(const std::string& name)
      : path_(fmt::format("/run/netns/hk{}-{}", getpid(), name)), ref_(*sys::CreateNetns(path_)) {}
  ~Netns() { (void)sys::DeleteNetns(path_); }
  const std::string& path() const { return path_; }
  const sys::NetnsRef& ref() const { return ref_; }

  // Runs `fn` there and returns its status.
  template <typename Fn>
  absl::Status In(Fn fn) const {
    return sys::InNetns(ref_, fn);
  }
  void Change(const netlink::Change& change) const {
    CHECK_OK(In([&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(auto netlink, netlink::OpenNetlink());
      return netlink->Do(change);
    }));
  }
  std::optional<netlink::Link> Find(const std::string& name) const {
    std::optional<netlink::Link> found;
    (void)In([&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(auto netlink, netlink::OpenNetlink());
      HK_ASSIGN_OR_RETURN(found, netlink->FindLink(name));
      return absl::OkStatus();
    });
    return found;
  }
  std::vector<netlink::Link> Links() const {
    std::vector<netlink::Link> links;
    CHECK_OK(In([&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(auto netlink, netlink::OpenNetlink());
      HK_ASSIGN_OR_RETURN(links, netlink->Links());
      return absl::OkStatus();
    }));
    return links;
  }
  int Exit(const std::vector<std::string>& argv) const {
    int code = -1;
    (void)In([&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(sys::RunResult result, sys::Run({.argv = argv}));
      code = result.exit_code;
      INFO(result.stdout_text << result.stderr_text);
      return absl::OkStatus();
    });
    return code;
  }
  bool Pings(const std::string& address) const { return Exit({"ping", "-c1", "-w30", address}) == 0; }

 private:
  std::string path_;
  sys::NetnsRef ref_;
};

struct World {
  Netns root{"root"}, a{"a"}, b{"b"};

  World() {
    CHECK_OK(root.In([] { return EnableForwarding(); }));
  }

  UplinkSpec Spec(const Netns& pod, int number) const {
    return {.owner = {"test", fmt::format("pod-{}", number), "eth0"},
            .netns_path = pod.path(),
            .ifname = "eth0",
            .addresses = {*IpAddress::Parse(fmt::format("10.88.0.{}", number)),
                          *IpAddress::Parse(fmt::format("fd00:88::{}", number))}};
  }
  absl::Status Ensure(const UplinkSpec& spec) const {
    return root.In([&] { return EnsureUplink(spec).status(); });
  }
  absl::Status Check(const UplinkSpec& spec) const {
    return root.In([&] { return CheckUplink(spec); });
  }
  absl::Status Remove(const UplinkSpec& spec) const {
    return root.In([&] { return RemoveUplink(spec.owner, spec.netns_path); });
  }
  std::vector<pu::OwnerTag> List() const {
    std::vector<pu::OwnerTag> tags;
    CHECK_OK(root.In([&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(tags, ListUplinks("test"));
      return absl::OkStatus();
    }));
    return tags;
  }
};

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

TEST_CASE("IPv6 that a namespace starts without is turned on for a Pod that has it", "[netns]") {
  World world;
  UplinkSpec a = world.Spec(world.a, 5);
  REQUIRE(world.a.Exit({"sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"}) == 0);

  CHECK_OK(world.Ensure(a));
  CHECK_OK(world.Check(a));
}

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
