#include "node-agent/config/heterod_config.h"

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"

namespace heterok8s::config {
namespace {

using heterok8s::testing::HasCode;
using heterok8s::testing::Says;

const std::string kLeast = R"(
role: host
instance: demo
node_name: demo
listen: "192.0.2.1:7443"
peer: {address: "192.0.2.2:7443"}
tls: {ca: /p/ca.crt, cert: /p/host.crt, key: /p/host.key}
pu: {peer_netns: /run/dpu.netns}
)";

absl::Status StatusWith(const std::string& more) { return ParseHeterodConfig(kLeast + more, "heterod.yaml").status(); }

}  // namespace

TEST_CASE("what a file leaves out has its documented default") {
  absl::StatusOr<HeterodConfig> config = ParseHeterodConfig(kLeast, "heterod.yaml");

  REQUIRE_OK(config);
  CHECK(config->role == pu::Side::kHost);
  CHECK(config->state_dir == "/var/lib/heterok8s");
  CHECK(config->lease.duration == std::chrono::seconds(5));
  CHECK(config->host_ephemeral == podnet::PortRange{32768, 47103});
  CHECK(config->link_range.ToString() == "169.254.64.0/18");
  CHECK(config->metrics_listen == "127.0.0.1:9464");
  CHECK(config->on_dpu_down == OnDpuDown::kFail);
  CHECK(config->ports_mechanism == ports::Mechanism::kAuto);
  CHECK(config->self().Uri() == "heterok8s://demo/host");
  CHECK(config->peer().DnsName() == "dpu.demo.heterok8s");
}

TEST_CASE("what a file says is taken") {
  absl::StatusOr<HeterodConfig> config = ParseHeterodConfig(R"(
role: dpu
instance: lab-7
node_name: n1.example
state_dir: /s
run_dir: /r
listen: "[fd00::2]:7443"
peer: {address: "[fd00::1]:7443"}
tls: {ca: /p/ca.crt, cert: /p/dpu.crt, key: /p/dpu.key}
lease: {interval_ms: 100, duration_ms: 500}
pu: {backend: netns}
ephemeral: {host: [20000, 29999], dpu: [30000, 39999]}
link_range: 169.254.128.0/20
mtu: 9000
metrics: {listen: "127.0.0.1:0"}
on_dpu_down: host
ports: {mechanism: placeholder}
cri: {socket: /c.sock, pod_log_root: /logs, image_gc: {high_percent: 70, low_percent: 60}, lost_netns_after_s: 20}
log: {level: debug}
)",
                                                            "heterod.yaml");

  REQUIRE_OK(config);
  CHECK(config->role == pu::Side::kDpu);
  CHECK(config->peer_address == "[fd00::1]:7443");
  CHECK(config->lease.interval == std::chrono::milliseconds(100));
  CHECK(config->dpu_ephemeral == podnet::PortRange{30000, 39999});
  CHECK(config->mtu == 9000);
  CHECK(config->on_dpu_down == OnDpuDown::kHost);
  CHECK(config->pod_log_root == "/logs");
  CHECK(config->image_gc_low_percent == 60);
  CHECK(config->lost_netns_after == std::chrono::seconds(20));
  CHECK(config->log_level == "debug");
}

TEST_CASE("each mistake is named with file and key") {
  struct Case {
    std::string more, says;
  };
  const Case cases[] = {
      {.more = "colour: red", .says = "heterod.yaml: unknown key 'colour'"},
      {.more = "lease: {interval: 5}", .says = "heterod.yaml: unknown key 'lease.interval'"},
      {.more = "lease: {interval_ms: soon}", .says = "heterod.yaml: lease.interval_ms: is no number"},
      {.more = "lease: {interval_ms: 1000, duration_ms: 1500}", .says = "lease.duration_ms: is less than twice"},
      {.more = "ephemeral: {host: [30000, 50000]}", .says = "ephemeral: the ranges of host and dpu overlap"},
      {.more = "ephemeral: {host: [50000, 40000]}", .says = "ephemeral.host: is no range"},
      {.more = "ephemeral: 5", .says = "ephemeral: is no mapping"},
      {.more = "mtu: 500", .says = "mtu: is less than the 1280"},
      {.more = "link_range: 169.254.0.0/16", .says = "link_range: holds 169.254.213.2"},
      {.more = "link_range: fe80::/64", .says = "link_range: 'fe80::/64' is no IPv4 range"},
      {.more = "metrics: {listen: localhost}", .says = "metrics.listen: 'localhost' is no ADDRESS:PORT"},
      {.more = "state_dir: var/lib", .says = "state_dir: 'var/lib' is no absolute path"},
      {.more = "on_dpu_down: retry", .says = "on_dpu_down: 'retry' is none of fail, host"},
      {.more = "cri: {socket: [a]}", .says = "cri.socket: is no text"},
      {.more = "cri: {image_gc: {low_percent: 90}}", .says = "cri.image_gc.low_percent: is above high_percent"},
      {.more = "mtu: 500\ncolour: red",
       .says = "heterod.yaml: mtu: is less than the 1280 bytes that IPv6 needs; unknown key 'colour'"},
      {.more = "{", .says = "heterod.yaml: "},
  };
  for (const Case& c : cases) {
    INFO(c.more);
    CHECK_THAT(StatusWith(c.more), HasCode(absl::StatusCode::kInvalidArgument));
    CHECK_THAT(StatusWith(c.more), Says(c.says));
  }
}

TEST_CASE("what a role cannot do without is asked for") {
  CHECK_THAT(ParseHeterodConfig("role: host", "f").status(), Says("f: instance: is missing"));
  CHECK_THAT(ParseHeterodConfig("instance: x", "f").status(), Says("f: role: is missing"));
  CHECK_THAT(ParseHeterodConfig("- a", "f").status(), Says("f: is no mapping"));
  CHECK_THAT(ParseHeterodConfig("", "f").status(), HasCode(absl::StatusCode::kInvalidArgument));
  CHECK_THAT(ParseHeterodConfig("", "f").status(), Says("f: role: is missing; instance: is missing"));
  CHECK_THAT(LoadHeterodConfig("/nowhere/heterod.yaml").status(), Says("/nowhere/heterod.yaml"));
}

}  // namespace heterok8s::config
