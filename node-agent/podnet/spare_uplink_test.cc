#include "node-agent/podnet/spare_uplink.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>

#include "common/netlink/libnl_netlink.h"
#include "common/testing/matchers.h"
#include "node-agent/podnet/uplink.h"

//  root namespace              spare namespace, a Pod's later
//    hkus…  ─────── veth ─────── eth0
namespace heterok8s::podnet {
namespace {

using testing::HasCode;

struct World {
  const std::string prefix = fmt::format("/run/netns/hksu{}-", getpid());
  sys::NetnsRef root = *sys::CreateNetns(prefix + "root"), pod = *sys::CreateNetns(prefix + "pod");
  const UplinkSpec spec{.owner = {"test", "pod-1", "eth0"},
                        .netns_path = prefix + "pod",
                        .ifname = "eth0",
                        .addresses = {*IpAddress::Parse("10.88.0.5"), *IpAddress::Parse("fd00:88::5")}};

  World() {
    REQUIRE_OK(InRoot([&] { return MakeSpareUplink(pod); }));
  }
  ~World() {
    for (const char* name : {"root", "pod"}) (void)sys::DeleteNetns(prefix + name);
  }
  absl::Status InRoot(const std::function<absl::Status()>& fn) const { return sys::InNetns(root, fn); }
  absl::Status Place(const UplinkSpec& wanted) const {
    return InRoot([&] { return PlaceUplink(wanted).status(); });
  }
  absl::Status PlaceAndFinish(const UplinkSpec& wanted) const {
    return InRoot([&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(PlacedUplink placed, PlaceUplink(wanted));
      HK_RETURN_IF_ERROR(placed.finish());
      return RouteUplink(wanted);
    });
  }
  absl::Status Check(const UplinkSpec& wanted) const {
    return InRoot([&] { return CheckUplink(wanted); });
  }
  absl::Status Remove() const {
    return InRoot([&] { return RemoveUplink(spec.owner, spec.netns_path); });
  }
  std::vector<pu::OwnerTag> List() const {
    std::vector<pu::OwnerTag> tags;
    REQUIRE_OK(InRoot([&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(tags, ListUplinks("test"));
      return absl::OkStatus();
    }));
    return tags;
  }
  // The veths' real names.
  static std::vector<std::string> Veths(const sys::NetnsRef& ns) {
    std::vector<std::string> names;
    const auto links = (*netlink::OpenNetlinkIn(ns))->Links();
    REQUIRE_OK(links);
    for (const netlink::Link& link : *links) {
      if (link.kind == "veth") names.push_back(link.name);
    }
    return names;
  }
};

using Names = std::vector<std::string>;

TEST_CASE("the pair that waits becomes the Pod's uplink, under the owner's name", "[netns]") {
  World world;
  const Names before = World::Veths(world.root);
  REQUIRE(before.size() == 1);
  CHECK(before[0].starts_with("hkus"));
  CHECK(world.List().empty());
  UplinkSpec wanted = world.spec;
  SECTION("as it was made") {}
  SECTION("with another MTU and hardware address") {
    wanted.mtu = 1400;
    wanted.mac = "02:00:00:00:00:09";
  }
  SECTION("with a larger MTU, and with limits whose bursts are a packet") {
    wanted.mtu = 9000;
    wanted.bandwidth = Bandwidth{.ingress_rate_bits = 80000000, .egress_rate_bits = 80000000};
  }

  REQUIRE_OK(world.PlaceAndFinish(wanted));

  CHECK(World::Veths(world.root) == before);
  CHECK(World::Veths(world.pod) == Names{"eth0"});
  CHECK_OK(world.Check(wanted));
  CHECK(world.List() == std::vector<pu::OwnerTag>{wanted.owner});
  CHECK_OK((*netlink::OpenNetlinkIn(world.root))->FindLink(pu::InterfaceName(wanted.owner, 'u')));
  CHECK_OK(world.PlaceAndFinish(wanted));
  CHECK(World::Veths(world.root) == before);
  CHECK_OK(world.Remove());
  CHECK(World::Veths(world.root).empty());
}

TEST_CASE("a finished uplink is shown to nobody before it is routed", "[netns]") {
  World world;
  REQUIRE_OK(world.InRoot([&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(PlacedUplink placed, PlaceUplink(world.spec));
    return placed.finish();
  }));
  auto root = *netlink::OpenNetlinkIn(world.root);
  const int link = root->FindLink(pu::InterfaceName(world.spec.owner, 'u'))->index;
  CHECK(root->Routes(netlink::kTableMain, link)->empty());
  CHECK(root->Neighbors(link)->empty());

  CHECK_OK(world.InRoot([&] { return RouteUplink(world.spec); }));

  CHECK(root->Routes(netlink::kTableMain, link)->size() == 2);
  CHECK_OK(world.Check(world.spec));
}

TEST_CASE("a pair that was only placed is placed again, or removed", "[netns]") {
  World world;
  REQUIRE_OK(world.Place(world.spec));
  CHECK(world.List() == std::vector<pu::OwnerTag>{world.spec.owner});

  SECTION("placed again") {
    CHECK_OK(world.PlaceAndFinish(world.spec));
    CHECK_OK(world.Check(world.spec));
    CHECK_OK(world.Remove());
  }
  SECTION("removed") { CHECK_OK(world.Remove()); }

  CHECK(World::Veths(world.root).empty());
}

TEST_CASE("a pair that cannot be the Pod's gives way to one that can", "[netns]") {
  World world;
  UplinkSpec wanted = world.spec;
  const std::string name = pu::InterfaceName(wanted.owner, 'u');

  SECTION("the interface is to have another name") {
    wanted.ifname = "net1";
    REQUIRE_OK(world.PlaceAndFinish(wanted));
    CHECK(World::Veths(world.pod) == Names{"net1"});
    CHECK_OK(world.Check(wanted));
  }
  SECTION("the Pod's earlier uplink has the root end's name") {
    const sys::NetnsRef earlier = *sys::CreateNetns(world.prefix + "earlier");
    UplinkSpec other = wanted;
    other.netns_path = world.prefix + "earlier";
    REQUIRE_OK(world.PlaceAndFinish(other));
    REQUIRE_OK(world.PlaceAndFinish(wanted));
    CHECK(World::Veths(earlier).empty());
    CHECK_OK(world.Check(wanted));
    CHECK_OK(sys::DeleteNetns(other.netns_path));
  }
  SECTION("a stranger has it") {
    REQUIRE_OK((*netlink::OpenNetlinkIn(world.root))
                   ->Do(netlink::AddVeth{.end = {.name = name}, .peer = {.name = "stranger"}}));
    REQUIRE_OK((*netlink::OpenNetlinkIn(world.root))->Do(netlink::SetLink{.by_name = name, .alias = "a stranger's"}));
    CHECK_THAT(world.PlaceAndFinish(wanted), HasCode(absl::StatusCode::kAlreadyExists));
    return;
  }

  CHECK(World::Veths(world.root) == Names{name});
}

}  // namespace
}  // namespace heterok8s::podnet
