// What only the kernel can show: names, tags and half-made states of the netns back end.

#include "node-agent/pu/netns_backend.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>

#include "common/netlink/libnl_netlink.h"
#include "common/testing/matchers.h"

//  host root      pod-h ──── veth ──── DPU root ──(accept)──▶ pod-d
namespace heterok8s::pu {
namespace {

using netlink::Netlink;
using testing::HasCode;

struct World {
  std::string prefix = fmt::format("/run/netns/hkpun{}-", getpid());
  sys::NetnsRef host_root = *sys::CreateNetns(prefix + "host"), dpu_root = *sys::CreateNetns(prefix + "dpu");
  sys::NetnsRef pod_h = *sys::CreateNetns(prefix + "pod-h"), pod_d = *sys::CreateNetns(prefix + "pod-d");
  std::unique_ptr<Backend> host, dpu;
  OwnerTag tag{"test", "pod-1", "eth0"};
  LinkRequest at_host{.mtu = 1500, .netns = &pod_h, .ifname = "eth0"};
  LinkRequest at_dpu{.mtu = 1500, .netns = &pod_d, .ifname = "xpu0"};

  World() {
    REQUIRE_OK(sys::InNetns(host_root, [&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(host, NewNetnsBackend({Side::kHost, "test", prefix + "dpu"}));
      return absl::OkStatus();
    }));
    REQUIRE_OK(sys::InNetns(dpu_root, [&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(dpu, NewNetnsBackend({Side::kDpu, "test", ""}));
      return absl::OkStatus();
    }));
  }
  ~World() {
    for (const char* name : {"host", "dpu", "pod-h", "pod-d"}) (void)sys::DeleteNetns(prefix + name);
  }
  static std::unique_ptr<Netlink> Open(const sys::NetnsRef& netns) { return *netlink::OpenNetlinkIn(netns); }
  static size_t CountVeths(const sys::NetnsRef& netns) {
    auto links = *Open(netns)->Links();
    return std::count_if(links.begin(), links.end(), [](const netlink::Link& link) { return link.kind == "veth"; });
  }
  std::string peer_name() const { return InterfaceName(tag, 'x'); }
};

TEST_CASE("both ends carry the tag, and the Pod's answers to xpu0 as well", "[netns]") {
  World world;

  REQUIRE_OK(world.host->AcquireLink(world.tag, world.at_host));
  netlink::Link before = *World::Open(world.dpu_root)->FindLink(world.peer_name());
  REQUIRE_OK(world.dpu->AcceptLink(world.tag, world.at_dpu));

  netlink::Link mine = *World::Open(world.pod_h)->FindLink("xpu0");
  netlink::Link theirs = *World::Open(world.pod_d)->FindLink("xpu0");
  CHECK(mine.name == "eth0");
  CHECK(mine.alias == world.tag.ToAlias());
  CHECK(before.alias == world.tag.ToAlias());
  CHECK(theirs.name == "xpu0");
  CHECK(theirs.alias == world.tag.ToAlias());
  CHECK(mine.peer_index == theirs.index);
}

// What podnet makes for a Pod whose sandbox on the DPU is there first.
void AddUplink(World& world) {
  auto root = World::Open(world.dpu_root);
  std::string name = InterfaceName(world.tag, 'u');
  REQUIRE_OK(root->Do(netlink::AddVeth{.end = {.name = name}, .peer = {.name = "eth0", .netns_fd = world.pod_d.fd()}}));
  REQUIRE_OK(root->Do(netlink::SetLink{.by_name = name, .alias = world.tag.ToAlias()}));
}

TEST_CASE("the link is born in pod-d when the Pod's uplink is there", "[netns]") {
  World world;
  AddUplink(world);

  REQUIRE_OK(world.host->AcquireLink(world.tag, world.at_host));
  CHECK(World::CountVeths(world.dpu_root) == 1);
  CHECK_OK(world.host->AcquireLink(world.tag, world.at_host));
  netlink::Link born = *World::Open(world.pod_d)->FindLink("xpu0");

  SECTION("and is accepted there") {
    auto end = world.dpu->AcceptLink(world.tag, world.at_dpu);
    REQUIRE_OK(end);
    CHECK(end->mac == LinkMac(world.tag, Side::kDpu));
    netlink::Link accepted = *World::Open(world.pod_d)->FindLink("xpu0");
    CHECK(accepted.index == born.index);
    CHECK(accepted.alias == world.tag.ToAlias());
    CHECK_OK(world.dpu->AcceptLink(world.tag, world.at_dpu));
  }
  SECTION("and is released by the DPU before it is accepted") {
    CHECK_OK(world.dpu->ReleaseLink(world.tag, &world.pod_d));
    CHECK(World::CountVeths(world.pod_d) == 1);
    CHECK(World::CountVeths(world.pod_h) == 0);
  }
  SECTION("and is released by the host before it is accepted") {
    CHECK_OK(world.host->ReleaseLink(world.tag, &world.pod_h));
    CHECK(World::CountVeths(world.pod_d) == 1);
  }
  SECTION("unless pod-d has one of an earlier sandbox, which is replaced") {
    REQUIRE_OK(World::Open(world.pod_h)
                   ->Do(netlink::SetLink{.link = World::Open(world.pod_h)->FindLink("eth0")->index,
                                         .netns_fd = world.host_root.fd()}));
    REQUIRE_OK(world.host->AcquireLink(world.tag, world.at_host));
    REQUIRE_OK(world.dpu->AcceptLink(world.tag, world.at_dpu));
    CHECK(World::Open(world.pod_d)->FindLink("xpu0")->peer_index == World::Open(world.pod_h)->FindLink("eth0")->index);
    CHECK(World::CountVeths(world.host_root) == 0);
  }
}

TEST_CASE("an interface that is not ours is refused and left alone", "[netns]") {
  World world;
  REQUIRE_OK(World::Open(world.pod_h)->Do(netlink::AddVeth{.end = {.name = "eth0"}, .peer = {.name = "other"}}));
  REQUIRE_OK(World::Open(world.pod_d)->Do(netlink::AddVeth{.end = {.name = "xpu0"}, .peer = {.name = "other"}}));

  CHECK_THAT(world.host->AcquireLink(world.tag, world.at_host).status(), HasCode(absl::StatusCode::kAlreadyExists));
  CHECK(World::CountVeths(world.dpu_root) == 0);
  REQUIRE_OK(world.host->AcquireLink(world.tag, {}));
  CHECK_THAT(world.dpu->AcceptLink(world.tag, world.at_dpu).status(), HasCode(absl::StatusCode::kAlreadyExists));
  CHECK_OK(world.host->ReleaseLink(world.tag, &world.pod_h));
  CHECK_OK(world.dpu->ReleaseLink(world.tag, &world.pod_d));
  CHECK(World::CountVeths(world.pod_h) == 2);
  CHECK(World::CountVeths(world.pod_d) == 2);
}

TEST_CASE("a link that was made half-way is completed or removed", "[netns]") {
  World world;
  auto peer = World::Open(world.dpu_root);
  REQUIRE_OK(peer->Do(netlink::AddVeth{
      .end = {.name = world.peer_name(), .mac = LinkMac(world.tag, Side::kDpu)},
      .peer = {.name = "eth0", .mac = LinkMac(world.tag, Side::kHost), .netns_fd = world.pod_h.fd()}}));
  bool tagged = GENERATE(false, true);
  if (tagged) REQUIRE_OK(peer->Do(netlink::SetLink{.by_name = world.peer_name(), .alias = world.tag.ToAlias()}));

  SECTION("completed") {
    REQUIRE_OK(world.host->AcquireLink(world.tag, world.at_host));
    CHECK(World::Open(world.pod_h)->FindLink("xpu0")->alias == world.tag.ToAlias());
    CHECK_OK(world.dpu->AcceptLink(world.tag, world.at_dpu));
  }
  SECTION("removed by the host") {
    CHECK_OK(world.host->ReleaseLink(world.tag, &world.pod_h));
    CHECK(World::CountVeths(world.pod_h) == 0);
  }
  SECTION("removed by the DPU") {
    CHECK_OK(world.dpu->ReleaseLink(world.tag, nullptr));
    CHECK(World::CountVeths(world.pod_h) == 0);
  }
}

TEST_CASE("the Pod's uplink has the same tag and survives the release of the link", "[netns]") {
  World world;
  auto pod = World::Open(world.pod_d);
  REQUIRE_OK(
      pod->Do(netlink::AddVeth{.end = {.name = "eth0"}, .peer = {.name = "hku0", .netns_fd = world.dpu_root.fd()}}));
  REQUIRE_OK(pod->Do(netlink::SetLink{.by_name = "eth0", .alias = world.tag.ToAlias()}));

  CHECK_OK(world.dpu->ReleaseLink(world.tag, &world.pod_d));

  CHECK_OK(pod->FindLink("eth0"));
}

TEST_CASE("a link that comes anew replaces the one that pod-d has", "[netns]") {
  World world;
  REQUIRE_OK(world.host->AcquireLink(world.tag, world.at_host));
  REQUIRE_OK(world.dpu->AcceptLink(world.tag, world.at_dpu));
  // The host forgets its end without a word, as after a sandbox that was made again under the same Pod UID.
  REQUIRE_OK(World::Open(world.pod_h)
                 ->Do(netlink::SetLink{.link = World::Open(world.pod_h)->FindLink("eth0")->index,
                                       .netns_fd = world.host_root.fd()}));

  REQUIRE_OK(world.host->AcquireLink(world.tag, world.at_host));
  REQUIRE_OK(world.dpu->AcceptLink(world.tag, world.at_dpu));

  CHECK(World::Open(world.pod_h)->FindLink("eth0")->peer_index == World::Open(world.pod_d)->FindLink("xpu0")->index);
  CHECK(World::CountVeths(world.pod_d) == 1);
  CHECK(World::CountVeths(world.host_root) == 0);
}

}  // namespace
}  // namespace heterok8s::pu
