#include "node-agent/ports/claims.h"

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"

namespace heterok8s::ports {
namespace {

using testing::HasCode;

PortKey Key(const char* address, uint16_t port = 80, bool dual = false, Protocol protocol = Protocol::kTcp) {
  return {.protocol = protocol, .address = *IpAddress::Parse(address), .port = port, .dual_stack = dual};
}

TEST_CASE("claims collide when one packet could be meant for both") {
  struct Row {
    PortKey a, b;
    bool overlap;
  };
  const Row rows[] = {
      {Key("127.0.0.1"), Key("127.0.0.1"), true},
      {Key("127.0.0.1"), Key("10.0.0.1"), false},
      {Key("127.0.0.1"), Key("127.0.0.1", 81), false},
      {Key("127.0.0.1"), Key("127.0.0.1", 80, false, Protocol::kUdp), false},
      {Key("0.0.0.0"), Key("127.0.0.1"), true},
      {Key("0.0.0.0"), Key("::1"), false},
      {Key("0.0.0.0"), Key("::"), false},
      {Key("0.0.0.0"), Key("::", 80, true), true},
      {Key("::"), Key("::1"), true},
      {Key("::"), Key("127.0.0.1"), false},
      {Key("::", 80, true), Key("10.0.0.1"), true},
      {Key("::", 80, true), Key("fd00::1"), true},
      {Key("::", 80, true), Key("::"), true},
  };
  for (const Row& row : rows) {
    INFO(row.a.ToString() << " and " << row.b.ToString());
    CHECK(Overlaps(row.a, row.b) == row.overlap);
    CHECK(Overlaps(row.b, row.a) == row.overlap);
  }
}

TEST_CASE("a claim is written the way people write it") {
  CHECK(Key("127.0.0.1", 8080).ToString() == "tcp 127.0.0.1:8080");
  CHECK(Key("::", 80, true).ToString() == "tcp [::]:80 (dual stack)");
  CHECK(Key("::1", 53, false, Protocol::kUdp).ToString() == "udp [::1]:53");
}

TEST_CASE("equal claims become equal values") {
  CHECK(Normalized(Key("::ffff:10.0.0.1", 80, true)) == Key("10.0.0.1"));
  CHECK(Normalized(Key("::", 80, true)) == Key("::", 80, true));
  CHECK(Normalized(Key("fd00::1", 80, true)) == Key("fd00::1"));
}

TEST_CASE("a Pod survives the way into the maps and back, seen from either side") {
  for (pu::Side side : {pu::Side::kHost, pu::Side::kDpu}) {
    auto v4 = [](int last) { return IpAddress::V4(0xa9fe4000 + last); };
    PodPorts pod{.pod_key = "uid-1",
                 .side = side,
                 .netns_path = "/run/netns/a",
                 .addresses = {*IpAddress::Parse("10.88.0.5"), *IpAddress::Parse("fd00:88::5")},
                 .link = {.host_localhost = v4(4), .dpu_localhost = v4(5), .host_pod = v4(6), .dpu_pod = v4(7)},
                 .own_ephemeral = {32768, 47103},
                 .other_ephemeral = {47104, 60999}};

    auto wire = ToWire(pod);
    auto name = NameToWire(pod);

    REQUIRE_OK(wire);
    REQUIRE_OK(name);
    PodPorts back = FromWire(*wire, *name);
    CHECK(back.pod_key == pod.pod_key);
    CHECK(back.netns_path == pod.netns_path);
    CHECK(back.side == side);
    CHECK(back.addresses == pod.addresses);
    CHECK(back.link.host_localhost == pod.link.host_localhost);
    CHECK(back.link.dpu_pod == pod.link.dpu_pod);
    CHECK(back.own_ephemeral == pod.own_ephemeral);
    CHECK(back.other_ephemeral == pod.other_ephemeral);
    CHECK(FromWire(wire->pair[HK_LOCALHOST].self[0]) == (side == pu::Side::kHost ? v4(4) : v4(5)));
    CHECK(FromWire(wire->pair[HK_POD_IP].shown[1]) == pod.addresses[1]);
  }
}

TEST_CASE("a port that the other PU claims on more addresses than fit is one claim that overlaps them all") {
  std::set<PortKey> claims;
  for (int i = 0; i < HK_REMOTE_CLAIMS; ++i) claims.insert({.address = IpAddress::V4(0x0a000000 + i), .port = 80});
  CHECK(FromWire({.netns = 1, .port = 80, .protocol = 6}, ToWire(claims)) == claims);

  claims.insert({.address = *IpAddress::Parse("fd00::1"), .port = 80});

  hk_remote wire = ToWire(claims);
  REQUIRE(wire.count == 1);
  std::set<PortKey> held = FromWire({.netns = 1, .port = 80, .protocol = 6}, wire);
  for (const PortKey& claim : claims) CHECK(Overlaps(*held.begin(), claim));
}

TEST_CASE("a Pod that does not fit the maps is refused") {
  PodPorts pod{.pod_key = "uid-1", .netns_path = "/run/netns/a"};
  CHECK_THAT(ToWire(pod).status(), HasCode(absl::StatusCode::kInvalidArgument));
  pod.addresses = {*IpAddress::Parse("10.88.0.5")};
  CHECK_THAT(ToWire(pod).status(), HasCode(absl::StatusCode::kInvalidArgument));  // no link addresses
  pod.pod_key = std::string(300, 'x');
  CHECK_THAT(NameToWire(pod).status(), HasCode(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace heterok8s::ports
