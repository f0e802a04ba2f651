#include "heteroctl/lab/kubernetes.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "common/testing/matchers.h"
#include "heteroctl/lab/topology.h"

namespace heterok8s::lab {
namespace {

using testing::HasCode;

TEST_CASE("a further Node of a lab has the lab's name and a number, and no user's name looks like that") {
  const Layout second = Layout{"demo"}.OfNode(2);

  CHECK(second.name == "demo.2");
  CHECK(second.Node() == 2);
  CHECK(second.First() == "demo");
  CHECK(second.OfNode(1).name == "demo");
  REQUIRE_OK(CheckName("demo.2"));
  for (const char* name : {"demo.1", "demo.9", "demo.x", "demo.2.3", "demo.02", ".2", "demo."}) {
    INFO(name);
    CHECK_THAT(CheckName(name), HasCode(absl::StatusCode::kInvalidArgument));
  }
}

TEST_CASE("no two Nodes share an address or a range, and all are clients of one outside") {
  std::set<std::string> seen;
  for (int node = 1; node <= kMaxNodes; ++node) {
    const Addresses at = AddressesOf(node);

    for (const std::string& text :
         {at.host, at.dpu, at.uplink, at.nodes, at.pods, at.host6, at.dpu6, at.uplink6, at.nodes6, at.pods6}) {
      INFO(text);
      CHECK(seen.insert(text).second);
    }
    CHECK(at.client == AddressesOf(1).client);
  }
}

TEST_CASE("kubelet is pointed at heterocri, and every file it is told of is one that is made") {
  const auto files = KubernetesFiles({"demo"}, Place::kHost);

  const auto kubelet =
      std::find_if(files.begin(), files.end(), [](const auto& f) { return f.first == "kubelet.yaml"; });
  REQUIRE(kubelet != files.end());
  const YAML::Node yaml = YAML::Load(kubelet->second);
  CHECK(yaml["containerRuntimeEndpoint"].as<std::string>() == "unix:///run/heterok8s/cri.sock");
  CHECK(yaml["tlsCertFile"].as<std::string>() == "/etc/heterok8s/pki/kubernetes/demo-kubelet-server.crt");
}

TEST_CASE("kubelet sends names to the address of the cluster's DNS, which answers for kubelet's domain") {
  const auto files = KubernetesFiles({"demo"}, Place::kHost);
  const auto kubelet =
      std::find_if(files.begin(), files.end(), [](const auto& f) { return f.first == "kubelet.yaml"; });
  REQUIRE(kubelet != files.end());
  const YAML::Node yaml = YAML::Load(kubelet->second);

  std::string address, corefile;
  for (const YAML::Node& object : YAML::LoadAll(DnsManifest())) {
    if (object["kind"].as<std::string>() == "Service") address = object["spec"]["clusterIP"].as<std::string>();
    if (object["kind"].as<std::string>() == "ConfigMap") corefile = object["data"]["Corefile"].as<std::string>();
  }

  CHECK(address == yaml["clusterDNS"][0].as<std::string>());
  CHECK(corefile.find("kubernetes " + yaml["clusterDomain"].as<std::string>()) != std::string::npos);
  CHECK(corefile.find("forward . " + AddressesOf(1).client + "\n") != std::string::npos);
}

TEST_CASE("the control plane is outside the Nodes, and each PU has its own kube-proxy") {
  auto names = [](Place place) {
    std::set<std::string> found;
    for (const DaemonSpec& daemon : KubernetesDaemons({"demo"}, place)) found.insert(daemon.name);
    return found;
  };

  CHECK(names(Place::kHost) == std::set<std::string>{"kubelet", "kube-proxy"});
  CHECK(names(Place::kDpu) == std::set<std::string>{"kube-proxy"});
  CHECK(names(Place::kClient).count("kube-apiserver") == 1);
}

}  // namespace
}  // namespace heterok8s::lab
