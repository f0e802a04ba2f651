#include "node-agent/attach/details.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"
#include "node-agent/attach/fences.h"
#include "node-agent/attach/placement.h"

namespace heterok8s::attach {
namespace {

using heterok8s::testing::HasCode;
using heterok8s::testing::Says;

TEST_CASE("details come back from their text as they were") {
  Details d;
  d.owner = "uid-1.net1";
  d.placement_reason = "annotation \"x\"";
  d.ips = {{.address = *IpPrefix::Parse("10.88.0.5/32")}, {.address = *IpPrefix::Parse("fd00::5/128")}};
  d.addresses = {d.ips[0].address.address, d.ips[1].address.address};
  d.routes = {{.dst = *IpPrefix::Parse("0.0.0.0/0")}};
  d.pod_routes = {{.destination = *IpPrefix::Parse("10.0.0.0/8"), .mtu = 1300},
                  {.destination = *IpPrefix::Parse("fd00::/64")}};
  d.dns.nameservers = {"10.0.0.1"};
  d.mtu = 1400;
  d.mac = "02:00:00:00:00:01";
  d.bandwidth = podnet::Bandwidth{1, 2, 3, 4};
  d.masquerade_outside = {*IpPrefix::Parse("10.88.0.0/16"), *IpPrefix::Parse("fd00:88::/64")};
  d.host_ports = {
      {.protocol = Protocol::kUdp, .host_ip = *IpAddress::Parse("127.0.0.1"), .host_port = 53, .container_port = 5353}};
  d.join = Join{.generation = 7,
                .committed = true,
                .addresses = LinkBlock(*IpAddress::Parse("169.254.64.4")),
                .host_ephemeral = {32768, 47103},
                .dpu_ephemeral = {47104, 60999}};
  d.own_netns = "/run/hk/netns/a";
  d.delegated_stdin = "{}";
  d.delegated_environment = {{"CNI_COMMAND", "ADD"}};

  absl::StatusOr<Details> parsed = Details::Parse(d.ToText());

  REQUIRE_OK(parsed);
  CHECK(parsed->ToText() == d.ToText());
  CHECK(parsed->addresses == d.addresses);
  CHECK(parsed->pod_routes == d.pod_routes);
  CHECK(parsed->bandwidth == d.bandwidth);
  CHECK(parsed->masquerade_outside == d.masquerade_outside);
  CHECK(parsed->host_ports == d.host_ports);
  CHECK(parsed->join->generation == 7);
  CHECK(parsed->join->addresses.dpu_pod == *IpAddress::Parse("169.254.64.7"));
  CHECK(parsed->dns.nameservers == d.dns.nameservers);
}

TEST_CASE("a row's text that is not ours is refused, not thrown") {
  for (const char* text : {"", "[]", "{}", R"({"owner":1,"reason":"","mtu":0})",
                           R"({"owner":"a","reason":"","mtu":0,"addresses":["x"]})"}) {
    INFO(text);
    CHECK_THAT(Details::Parse(text).status(), HasCode(absl::StatusCode::kDataLoss));
  }
}

TEST_CASE("a number that its field does not hold makes a row not ours") {
  const auto row = [](const char* mtu, const char* generation, const char* port, const char* rate) {
    return fmt::format(R"({{"owner":"u","reason":"r","mtu":{},"bandwidth":[{},1,1,1],
      "hostPorts":[{{"protocol":"tcp","hostPort":80,"containerPort":{}}}],
      "join":{{"generation":{},"committed":true,"link":["169.254.0.0","169.254.0.1","169.254.0.2","169.254.0.3"],
      "hostEphemeral":[32768,{}],"dpuEphemeral":[46001,60999]}}}})",
                       mtu, rate, port, generation, port);
  };
  REQUIRE_OK(Details::Parse(row("1500", "18446744073709551615", "65535", "0")));

  for (const char* wrong : {"65536.46000", "1e300", "-1e300", "-1", "0.5", "18446744073709551616", "\"1\"", "null"}) {
    INFO(wrong);
    CHECK_THAT(Details::Parse(row("1500", wrong, "1", "1")).status(), Says("'generation' must be a whole number"));
    CHECK_THAT(Details::Parse(row("1500", "1", wrong, "1")).status(), Says("'containerPort' must be a whole number"));
    CHECK_THAT(Details::Parse(row("1500", "1", "1", wrong)).status(), Says("'bandwidth[0]' must be a whole number"));
  }
  CHECK_THAT(Details::Parse(row("2147483648", "1", "1", "1")).status(), Says("'mtu' must be a whole number"));
  CHECK_THAT(Details::Parse(row("1500", "1", "65536", "1")).status(), HasCode(absl::StatusCode::kDataLoss));
}

TEST_CASE("the two sides of a link see each other's hardware address") {
  ledger::Attachment row{.key = {"podnet", "c1", "eth0"}, .pod_key = "uid-1"};
  Details details{.join = Join{}};

  podnet::LinkSpec host = LinkSpecOf({.instance = "demo", .side = pu::Side::kHost}, row, details);
  podnet::LinkSpec dpu = LinkSpecOf({.instance = "demo", .side = pu::Side::kDpu}, row, details);

  CHECK(host.mac == dpu.peer_mac);
  CHECK(host.peer_mac == dpu.mac);
  CHECK(host.ifname == "eth0");
  CHECK(dpu.ifname == kDpuLinkName);
  CHECK(dpu.uplink_ifname == "eth0");
}

cni::NetworkConfig WithAnnotations(std::map<std::string, std::string> annotations) {
  cni::NetworkConfig config;
  config.pod_annotations = std::move(annotations);
  return config;
}

TEST_CASE("the router's verdict wins over the Pod's wish") {
  struct Case {
    std::map<std::string, std::string> annotations;
    bool split;
    const char* reason;
  };
  const Case cases[] = {
      {.annotations = {}, .split = false, .reason = "no annotation heteropod.io/offload"},
      {.annotations = {{kOffloadAnnotation, "dpu"}}, .split = true, .reason = "annotation heteropod.io/offload=dpu"},
      {.annotations = {{kOffloadAnnotation, "dpu"},
                       {kPlacementAnnotation, "host"},
                       {kPlacementReasonAnnotation, "hostNetwork"}},
       .split = false,
       .reason = "hostNetwork"},
      {.annotations = {{kPlacementAnnotation, "split"}},
       .split = true,
       .reason = "annotation heteropod.io/placement=split"},
  };
  for (const Case& c : cases) {
    absl::StatusOr<Placement> placement = DecidePlacement(WithAnnotations(c.annotations));
    REQUIRE_OK(placement);
    CHECK(placement->split == c.split);
    CHECK(placement->reason == c.reason);
  }
}

TEST_CASE("an unknown annotation value is refused with key, value and what is allowed") {
  absl::Status offload = DecidePlacement(WithAnnotations({{kOffloadAnnotation, "yes"}})).status();
  CHECK(cni::CodeOf(offload) == cni::kInvalidConfig);
  CHECK_THAT(offload, Says("annotation heteropod.io/offload: 'yes' is not known; allowed: dpu"));
  CHECK_OK(DecidePlacement(WithAnnotations({{kOffloadAnnotation, "yes"}, {kPlacementAnnotation, "host"}})));
  CHECK_THAT(DecidePlacement(WithAnnotations({{kPlacementAnnotation, "both"}})).status(), Says("split, host"));
}

TEST_CASE("a fence refuses its generation and older ones, and is forgotten when no call can be that old") {
  Fences fences;
  Fences::Clock::time_point now = Fences::Clock::now();
  fences.Raise("a", 5, now);
  fences.Raise("a", 4, now);

  CHECK(fences.Refuses("a", 5));
  CHECK(fences.Refuses("a", 4));
  CHECK_FALSE(fences.Refuses("a", 6));
  CHECK_FALSE(fences.Refuses("b", 1));
  fences.Raise("b", 1, now + 2 * Fences::kKeep);
  CHECK(fences.size() == 1);
}

}  // namespace
}  // namespace heterok8s::attach
