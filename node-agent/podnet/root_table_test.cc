#include "node-agent/podnet/root_table.h"

#include "common/testing/matchers.h"
#include "node-agent/podnet/hostports.h"
#include "node-agent/podnet/refused_packets.h"
#include "node-agent/podnet/uplink_world.h"

// A Pod whose packets the root table of a Node refuses when they are forged; the table is flushed by the test.
namespace heterok8s::podnet {
namespace {

struct Node {
  World world;
  UplinkSpec pod = world.Spec(world.a, 5);
  RootTable table{"test", RootGuard{}};
  RefusedPackets refused{"test", table};

  Node() {
    REQUIRE_OK(world.root.In([&] { return table.Prepare(); }));
    REQUIRE_OK(world.Ensure(pod));
    REQUIRE(world.a.Exit({"ip", "address", "add", "203.0.113.9/32", "dev", "lo"}) == 0);
  }
  HostPortSpec Ports(uint16_t host_port) const {
    return {.pod_key = pod.owner.pod_key + std::to_string(host_port),
            .ports = {{.host_port = host_port, .container_port = 80}},
            .addresses = pod.addresses};
  }
  absl::Status Ensure(const HostPortSpec& spec) {
    return world.root.In([&] { return table.Ensure(spec); });
  }
  void Mend() {
    CHECK_OK(world.root.In([&] { return table.Mend().status(); }));
  }
  void Flush() { REQUIRE(world.root.Exit({"nft", "flush", "ruleset"}) == 0); }
  // One packet with an address that is not the Pod's.
  void Spoof() { CHECK(world.a.Exit({"ping", "-c1", "-W1", "-I", "203.0.113.9", "10.88.0.77"}) == 1); }
  uint64_t Spoofed() {
    CHECK_OK(world.root.In([&] {
      refused.Read();
      return absl::OkStatus();
    }));
    return refused.Sum()["spoofed"];
  }
  bool Has(uint16_t host_port) const {
    return world.root.Exit({"sh", "-c", "nft list ruleset | grep -qw " + std::to_string(host_port)}) == 0;
  }
};

TEST_CASE("what was refused stays counted when the table is made again, whoever makes it", "[netns]") {
  Node node;
  const bool by_ensure = GENERATE(true, false);
  node.Spoof();
  node.Spoof();
  REQUIRE(node.Spoofed() == 2);

  node.Flush();
  CHECK(node.Spoofed() == 2);
  if (by_ensure) {
    CHECK_OK(node.Ensure(node.Ports(8080)));
  } else {
    node.Mend();
  }
  CHECK(node.Spoofed() == 2);
  node.Spoof();

  CHECK(node.Spoofed() == 3);
}

TEST_CASE("one Pod that cannot be served again keeps no other from it, and is served once it can be", "[netns]") {
  Node node;
  HostPortSpec without_way = node.Ports(8081);
  without_way.addresses = {*IpAddress::Parse("10.88.0.99")};
  REQUIRE(node.world.root.Exit({"ip", "route", "add", "10.88.0.99/32", "dev", "lo"}) == 0);
  REQUIRE_OK(node.Ensure(node.Ports(8080)));
  REQUIRE_OK(node.Ensure(without_way));
  REQUIRE(node.world.root.Exit({"ip", "route", "del", "10.88.0.99/32", "dev", "lo"}) == 0);

  node.Flush();
  for (int i = 0; i < 8; ++i) node.Mend();
  CHECK(node.Has(8080));
  CHECK_FALSE(node.Has(8081));

  REQUIRE(node.world.root.Exit({"ip", "route", "add", "10.88.0.99/32", "dev", "lo"}) == 0);
  for (int i = 0; i < 8; ++i) node.Mend();  // the fifth attempt is the sixteenth call
  CHECK(node.Has(8081));
  CHECK(node.table.remade() == 1);
}

}  // namespace
}  // namespace heterok8s::podnet
