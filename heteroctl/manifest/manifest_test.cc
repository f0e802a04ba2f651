#include "heteroctl/manifest/manifest.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <random>

#include "common/testing/matchers.h"
#include "heteroctl/manifest/names.h"

namespace heterok8s::manifest {
namespace {

using testing::Says;

constexpr const char* kPod = R"(
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {heteropod.io/offload: dpu}
spec:
  initContainers:
  - {name: prepare, image: box, command: [sh, -c, "true"]}
  - {name: mesh, image: proxy, restartPolicy: Always}
  containers:
  - name: nginx
    image: nginx:1
    env: [{name: A, value: "1"}, {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    ports: [{containerPort: 80, hostPort: 8080, protocol: UDP}]
    volumeMounts: [{name: conf, mountPath: /etc/nginx, readOnly: true}]
    resources: {limits: {cpu: 250m, memory: 64Mi}}
    securityContext: {runAsUser: 33, capabilities: {drop: [ALL]}}
    readinessProbe: {httpGet: {port: 80}}
  volumes:
  - {name: conf, configMap: {name: nginx}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: nginx}
data: {nginx.conf: "events {}"}
)";

std::string Pod(const std::string& spec) {
  return fmt::format("{{kind: Pod, metadata: {{name: p}}, spec: {{{}}}}}", spec);
}

TEST_CASE("a Pod with a ConfigMap is read whole") {
  auto manifest = ParseManifest(kPod, "web.yaml");
  REQUIRE_OK(manifest);
  const auto& pod = manifest->pod;

  CHECK(pod.name == "web");
  CHECK(pod.annotations.at("heteropod.io/offload") == "dpu");
  REQUIRE(pod.init_containers.size() == 2);
  CHECK(pod.init_containers[1].is_sidecar);
  const Container& nginx = pod.containers.at(0);
  CHECK(nginx.env.at(1).field_path == "status.podIP");
  CHECK(nginx.ports.at(0).host_port == 8080);
  CHECK(nginx.ports.at(0).protocol == Protocol::kUdp);
  CHECK(nginx.resources.cpu_limit_milli == 250);
  CHECK(nginx.resources.memory_limit_bytes == 64 << 20);
  CHECK(*nginx.security.run_as_user == 33);
  CHECK(manifest->config_maps.at("nginx").at("nginx.conf") == "events {}");
  CHECK(manifest->warnings == std::vector<std::string>{"spec.containers[0].readinessProbe: has no effect here"});
}

TEST_CASE("bad input is refused by path, value and remedy") {
  struct Row {
    std::string text, says;
  };
  const Row rows[] = {
      {Pod("containers: [{name: a, image: b, imag: c}]"), "p.yaml: spec.containers[0].imag: unknown field"},
      {Pod("containers: []"), "spec.containers: needs at least one container"},
      {Pod("containers: [{name: A_B, image: b}]"), "spec.containers[0].name: 'A_B' is not a name"},
      {Pod("containers: [{name: a, image: b, ports: [{containerPort: 99999}]}]"),
       "'99999' is not a number from 1 to 65535"},
      {Pod("containers: [{name: a, image: b, ports: [{containerPort: 1, protocol: icmp}]}]"),
       "unknown protocol 'icmp'"},
      {Pod("containers: [{name: a, image: b, volumeMounts: [{name: v, mountPath: /x}]}]"),
       "'v' is no volume of this Pod"},
      {Pod("containers: [{name: a, image: b}], volumes: [{name: v, configMap: {name: c}}]"),
       "no ConfigMap 'c' in this file"},
      {Pod("containers: [{name: a, image: b}], volumes: [{name: v, nfs: {}}]"), "needs exactly one of"},
      {Pod("containers: [{name: a, image: b}, {name: a, image: b}]"), "container 'a' is there twice"},
      {Pod("containers: [{name: a, image: b, resources: {limits: {cpu: lots}}}]"), "'lots' is not a quantity"},
      {Pod("containers: [{name: a, image: b, env: [{name: X, valueFrom: {secretKeyRef: {}}}]}]"),
       "is not supported here"},
      {Pod("containers: [{name: a, image: b, ports: [{containerPort: 1, hostPort: 1, hostIP: 300.1.1.1}]}]"),
       "'300.1.1.1' is not an IP address"},
      {Pod("containers: [{name: a, image: b}], volumes: [{name: v}]"), "spec.volumes[0]: needs exactly one of"},
      {Pod("containers: [{name: .., image: b}]"), "spec.containers[0].name: '..' is not a name"},
      {Pod("containers: [{name: a.b, image: b}]"), "spec.containers[0].name: 'a.b' is not a name"},
      {Pod("containers: [{name: a, image: b}], volumes: [{name: .., emptyDir: {}}]"), "'..' is not a name"},
      {Pod("containers: [{name: a, image: b}], hostname: a/b"), "spec.hostname: 'a/b' is not a name"},
      {"{kind: Pod, metadata: {name: ..}}", "metadata.name: '..' is not a name"},
      {"{kind: Pod, metadata: {name: p, namespace: ../x}}", "metadata.namespace: '../x' is not a name"},
      {"{kind: Pod, metadata: {name: p, uid: ../../etc}}", "metadata.uid: '../../etc' is not a UID"},
      {"{kind: Pod, metadata: {name: p, uid: ..}}", "metadata.uid: '..' is not a UID"},
      {"kind: Pod\n\x1b[31m", "line 2: byte 0x1b cannot be part of a text"},
      {"kind: Deployment", "'Deployment' cannot be run here"},
      {"kind: Pod\nspec: {}", "metadata.name: is required"},
      {"a: [", "line"},
      {"", "no document of kind Pod"},
      {"[]", "expected a mapping"},
  };
  for (const Row& row : rows) {
    INFO(row.text);
    CHECK_THAT(ParseManifest(row.text, "p.yaml").status(), Says(row.says));
  }
}

TEST_CASE("names are what Kubernetes takes, and never a path") {
  struct Row {
    std::string text;
    bool label, subdomain, uid;
  };
  const Row rows[] = {
      {"web", true, true, true},
      {"web-1", true, true, true},
      {"web.shop", false, true, false},
      {"WEB", false, false, true},
      {"0ac1f2de-7d3b-4a53-9a1f-8f1f0e7f2b11", true, true, true},
      {"d41d8cd98f00b204e9800998ecf8427e", true, true, true},  // a static Pod's
      {"", false, false, false},
      {".", false, false, false},
      {"..", false, false, false},
      {"a..b", false, false, false},
      {"a.", false, false, false},
      {"-a", false, false, false},
      {"a-", false, false, true},
      {"a/b", false, false, false},
      {"a_b", false, false, false},
      {std::string("a\0b", 3), false, false, false},
      {std::string(63, 'a'), true, true, true},
      {std::string(64, 'a'), false, true, false},
      {std::string(254, 'a'), false, false, false},
  };
  for (const Row& row : rows) {
    INFO(row.text);
    CHECK(IsDnsLabel(row.text) == row.label);
    CHECK(IsDnsSubdomain(row.text) == row.subdomain);
    CHECK(IsUid(row.text) == row.uid);
  }
}

TEST_CASE("a Pod without a host name gets its own, as long as a kernel takes it") {
  const std::string name = std::string(62, 'a') + ".b";
  auto manifest = ParseManifest(
      fmt::format("{{kind: Pod, metadata: {{name: {}}}, spec: {{containers: [{{name: a, image: b}}]}}}}", name), "t");

  REQUIRE_OK(manifest);
  CHECK(manifest->pod.hostname == std::string(62, 'a'));
}

TEST_CASE("damaged manifests never crash the reader") {
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::string text = kPod;
    for (int edits = 0; edits < 4; ++edits) {
      size_t at = random() % text.size();
      switch (random() % 3) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.erase(at, random() % 20);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), random() % 20));
      }
    }
    auto ignored = ParseManifest(text, "fuzz");
  }
}

TEST_CASE("text that is no YAML document is refused, not read forever") {
  const auto manifest = ParseManifest(",\nkind: Pod\n", "comma.yaml");

  CHECK_THAT(manifest.status(), testing::HasCode(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace heterok8s::manifest
