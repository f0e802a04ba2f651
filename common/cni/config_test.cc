#include <catch2/catch.hpp>

#include "common/cni/types.h"
#include "common/testing/matchers.h"

namespace heterok8s::cni {
namespace {

using testing::Says;

std::string With(const std::string& fields) {
  return R"({"cniVersion":"1.1.0","name":"podnet","type":"heterok8s-cni")" + (fields.empty() ? "" : "," + fields) + "}";
}

TEST_CASE("a configuration is read with everything a runtime adds") {
  absl::StatusOr<NetworkConfig> config = ParseConfig(With(R"(
    "socket": "/run/hk/cni.sock", "queueDir": "/var/lib/hk/q", "timeoutSeconds": 7, "mtu": 1400, "ipMasq": true,
    "ipam": {"type": "heterok8s", "ranges": [[{"subnet": "10.88.0.0/16"}]]},
    "dns": {"nameservers": ["10.0.0.10"], "domain": "x"},
    "someoneElse": {"kept": true},
    "runtimeConfig": {
      "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIP": "127.0.0.1"},
                       {"hostPort": 0, "containerPort": 81}],
      "bandwidth": {"ingressRate": 1000, "ingressBurst": 2000},
      "ips": ["10.88.3.4", "fd00:88::4/64"], "mac": "02-00-00-00-00-0A",
      "dns": {"servers": ["10.0.0.11"], "searches": ["svc"]},
      "io.kubernetes.cri.pod-annotations": {"heteropod.io/offload": "dpu"}})"));

  REQUIRE_OK(config);
  CHECK(config->socket == "/run/hk/cni.sock");
  CHECK(config->queue_dir == "/var/lib/hk/q");
  CHECK(config->timeout == std::chrono::seconds(7));
  CHECK(config->mtu == 1400);
  CHECK(config->ip_masq);
  CHECK(config->ipam["type"] == "heterok8s");
  CHECK(config->raw["someoneElse"]["kept"] == true);
  REQUIRE(config->port_mappings.size() == 1);
  CHECK(config->port_mappings[0].host_port == 8080);
  CHECK(config->port_mappings[0].protocol == Protocol::kUdp);
  CHECK(config->port_mappings[0].host_ip->ToString() == "127.0.0.1");
  CHECK(config->bandwidth->ingress_burst == 2000);
  REQUIRE(config->requested_ips.size() == 2);
  CHECK(config->requested_ips[0].ToString() == "10.88.3.4/32");
  CHECK(config->requested_ips[1].ToString() == "fd00:88::4/64");
  CHECK(config->requested_mac == "02:00:00:00:00:0a");
  CHECK(config->dns.nameservers == std::vector<std::string>{"10.0.0.11"});
  CHECK(config->dns.search == std::vector<std::string>{"svc"});
  CHECK(config->dns.domain == "x");
  CHECK(config->pod_annotations.at("heteropod.io/offload") == "dpu");
}

TEST_CASE("what containerd writes is read, though its names begin with capitals") {
  absl::StatusOr<NetworkConfig> config = ParseConfig(With(R"("runtimeConfig": {
      "portMappings": [{"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": "127.0.0.1"}],
      "bandwidth": {"IngressRate": 1000, "IngressBurst": 4294967295, "EgressRate": 5, "EgressBurst": 6},
      "dns": {"Servers": ["10.0.0.11"], "Searches": ["svc"], "Options": ["ndots:5"]}})"));

  REQUIRE_OK(config);
  REQUIRE(config->port_mappings.size() == 1);
  CHECK(config->port_mappings[0].host_port == 8080);
  CHECK(config->port_mappings[0].container_port == 80);
  CHECK(config->port_mappings[0].host_ip->ToString() == "127.0.0.1");
  CHECK(config->bandwidth->ingress_burst == 4294967295);
  CHECK(config->bandwidth->egress_rate == 5);
  CHECK(config->dns.nameservers == std::vector<std::string>{"10.0.0.11"});
}

TEST_CASE("a wrong field is refused by its full name") {
  struct Row {
    const char *fields, *says;
  };
  for (const Row& row : {
           Row{.fields = R"("mtu": "big")", .says = "'mtu'"},
           Row{.fields = R"("mtu": 10)", .says = "at least 68"},
           Row{.fields = R"("socket": 5)", .says = "'socket' must be a string"},
           Row{.fields = R"("ipam": [])", .says = "'ipam' must be an object"},
           Row{.fields = R"("runtimeConfig": [])", .says = "'runtimeConfig'"},
           Row{.fields = R"("runtimeConfig": {"portMappings": [{"hostPort": 70000, "containerPort": 80}]})",
           .says = "'runtimeConfig.portMappings[0].hostPort' must be a whole number from 0 to 65535, not 70000"},
           Row{.fields = R"("runtimeConfig": {"portMappings": [{"hostPort": 80.5, "containerPort": 80}]})",
           .says = "'runtimeConfig.portMappings[0].hostPort' must be a whole number from 0 to 65535, not 80.5"},
           Row{.fields = R"("runtimeConfig": {"portMappings": [{"hostPort": 70}]})", .says = "containerPort"},
           Row{.fields = R"("runtimeConfig": {"portMappings": [{"hostPort": 7, "containerPort": 7, "protocol": "x"}]})",
           .says = "unknown protocol 'x'"},
           Row{.fields = R"("runtimeConfig": {"bandwidth": {"ingressRate": -1}})", .says = "ingressRate"},
           Row{.fields = R"("runtimeConfig": {"bandwidth": {"egressBurst": 1}})", .says = "egressRate is not"},
           Row{.fields = R"("runtimeConfig": {"ips": ["10.0.0.300"]})", .says = "'10.0.0.300' is not an IP address"},
           Row{.fields = R"("runtimeConfig": {"mac": "02:00"})", .says = "not a MAC address"},
           Row{.fields = R"("runtimeConfig": {"mac": "01:00:00:00:00:00"})", .says = "group address"},
           Row{.fields = R"("args": {"cni": {"ips": "10.0.0.1"}})", .says = "'args.cni.ips' must be a list"},
           Row{.fields = R"("cni.dev/attachments": [{"containerID": "a"}])", .says = "{containerID, ifname}"},
           Row{.fields = R"("prevResult": {"ips": [{"address": "10.0.0.1"}]})", .says = "prevResult: 'ips[0].address'"},
       }) {
    INFO(row.fields);
    absl::Status status = ParseConfig(With(row.fields)).status();

    CHECK(CodeOf(status) == kInvalidConfig);
    CHECK_THAT(status, Says(row.says));
  }
}

TEST_CASE("what is no configuration at all is told apart from a wrong one") {
  CHECK(CodeOf(ParseConfig("").status()) == kDecodingFailure);
  CHECK(CodeOf(ParseConfig("{").status()) == kDecodingFailure);
  CHECK(CodeOf(ParseConfig("[]").status()) == kDecodingFailure);
  CHECK(CodeOf(ParseConfig("{\"name\":\"\xff\"}").status()) == kDecodingFailure);
  CHECK(CodeOf(ParseConfig(R"({"name": 5})").status()) == kDecodingFailure);
  CHECK(CodeOf(ParseConfig(std::string(5'000'000, '[')).status()) == kDecodingFailure);
  CHECK(CodeOf(ParseConfig("{}").status()) == kInvalidConfig);
  CHECK(CodeOf(ParseConfig(R"({"name": "../x"})").status()) == kInvalidConfig);
}

TEST_CASE("valid attachments are accepted under both names, and an empty list differs from none") {
  absl::StatusOr<NetworkConfig> both =
      ParseConfig(With(R"("cni.dev/valid-attachments": [{"containerID": "b", "ifname": "eth0"}],
                          "cni.dev/attachments": [{"containerID": "a", "ifname": "eth0"},
                                                  {"containerID": "b", "ifname": "eth0"}])"));
  absl::StatusOr<NetworkConfig> empty = ParseConfig(With(R"("cni.dev/valid-attachments": null)"));
  absl::StatusOr<NetworkConfig> none = ParseConfig(With(""));

  REQUIRE_OK(both);
  REQUIRE(both->valid_attachments.size() == 2);
  CHECK(both->valid_attachments[0].container_id == "a");
  CHECK(both->has_valid_attachments);
  CHECK(empty->has_valid_attachments);
  CHECK(empty->valid_attachments.empty());
  CHECK_FALSE(none->has_valid_attachments);
}

}  // namespace
}  // namespace heterok8s::cni
