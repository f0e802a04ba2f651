#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "common/sys/file.h"
#include "common/testing/matchers.h"
#include "heteroctl/manifest/manifest.h"
#include "heteroctl/pod/log_reader.h"
#include "heteroctl/pod/runner.h"
#include "heteroctl/pod/translate.h"
#include "heteroctl/pod/volumes.h"

namespace heterok8s::ctl {
namespace {

namespace fs = std::filesystem;

manifest::Manifest Sample() {
  auto parsed = manifest::ParseManifest(R"(
kind: Pod
metadata: {name: web, namespace: shop, uid: u-1, annotations: {heteropod.io/offload: dpu}}
spec:
  shareProcessNamespace: true
  securityContext: {runAsUser: 7}
  containers:
  - name: a
    image: img:1
    env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    ports: [{containerPort: 53, hostPort: 5353, protocol: UDP}]
    volumeMounts: [{name: conf, mountPath: /c, subPath: x.conf}, {name: tmp, mountPath: /t}]
    resources: {limits: {cpu: 500m, memory: 1Mi}}
  volumes:
  - {name: conf, configMap: {name: cm, items: [{key: k, path: x.conf}]}}
  - {name: tmp, emptyDir: {}}
---
{kind: ConfigMap, metadata: {name: cm}, data: {k: hello, other: no}}
)",
                                        "t");
  REQUIRE_OK(parsed);
  return *parsed;
}

TEST_CASE("a Pod reaches the runtime as a kubelet would say it") {
  manifest::Manifest m = Sample();
  PodPlace place{.folder = "/pods/u-1", .cgroup_parent = "/hk"};

  auto sandbox = SandboxConfig(m.pod, place);
  auto container = ContainerConfig(m.pod, m.pod.containers[0], place, "10.0.0.9");

  CHECK(sandbox.metadata().uid() == "u-1");
  CHECK(sandbox.labels().at(kLabelPodNamespace) == "shop");
  CHECK(sandbox.annotations().at("heteropod.io/offload") == "dpu");
  CHECK(sandbox.port_mappings(0).host_port() == 5353);
  CHECK(sandbox.port_mappings(0).protocol() == runtime::v1::UDP);
  CHECK(sandbox.linux().security_context().namespace_options().pid() == runtime::v1::POD);
  REQUIRE_OK(container);
  CHECK(container->envs(0).value() == "10.0.0.9");
  CHECK(container->mounts(0).host_path() == "/pods/u-1/volumes/kubernetes.io~configmap/conf/x.conf");
  CHECK(container->mounts(0).readonly());
  CHECK_FALSE(container->mounts(1).readonly());
  CHECK(container->linux().resources().cpu_quota() == 50000);
  CHECK(container->linux().security_context().run_as_user().value() == 7);
  CHECK(container->log_path() == "a/0.log");
}

TEST_CASE("a sidecar's host port is the Pod's, that of an init container which ends is not") {
  auto m = manifest::ParseManifest(R"(
kind: Pod
metadata: {name: web, uid: u-1}
spec:
  initContainers:
  - {name: once, image: i, ports: [{containerPort: 1, hostPort: 1001}]}
  - {name: proxy, image: i, restartPolicy: Always, ports: [{containerPort: 2, hostPort: 1002}]}
  containers:
  - {name: app, image: i, ports: [{containerPort: 3, hostPort: 1003}]}
)",
                                   "t");
  REQUIRE_OK(m);

  auto sandbox = SandboxConfig(m->pod, {});

  REQUIRE(sandbox.port_mappings_size() == 2);
  CHECK(sandbox.port_mappings(0).host_port() == 1002);
  CHECK(sandbox.port_mappings(1).host_port() == 1003);
}

TEST_CASE("a split Pod is told who uses each emptyDir") {
  auto annotation = [&](const std::string& said, const std::string& b) {
    auto m = manifest::ParseManifest(fmt::format(R"(
kind: Pod
metadata: {{name: web, uid: u-1, annotations: {{{}}}}}
spec:
  initContainers:
  - {{name: fill, image: i, volumeMounts: [{{name: shared, mountPath: /s}}]}}
  containers:
  - {{name: app, image: i, volumeMounts: [{{name: shared, mountPath: /s}}]}}
  - {{name: a, image: i, volumeMounts: [{{name: cache, mountPath: /c}}]}}
  - {{name: b, image: i, volumeMounts: [{{name: cache, mountPath: /c}}, {{name: both, mountPath: /b}}]}}
  - {{name: c, image: i, {}, volumeMounts: [{{name: both, mountPath: /b}}]}}
  volumes: [{{name: shared, emptyDir: {{}}}}, {{name: cache, emptyDir: {{medium: Memory}}}}, {{name: unused, emptyDir: {{}}}},
            {{name: both, emptyDir: {{}}}}]
)",
                                                 said, b),
                                     "t");
    REQUIRE_OK(m);
    auto all = SandboxConfig(m->pod, {}).annotations();
    return all.contains(kAnnotationVolumes) ? all.at(kAnnotationVolumes) : "none";
  };

  CHECK(annotation("heteropod.io/offload: dpu", "tty: false") == "shared=fill,app;cache=a,b;both=b,c");
  // c cannot leave the host: nor can what it shares, nor what is shared with those that share it.
  CHECK(annotation("heteropod.io/offload: dpu", "securityContext: {privileged: true}") == "shared=fill,app");
  CHECK(annotation("heteropod.io/offload: dpu, heteropod.io/volumes: cache=a", "tty: false") == "cache=a");
  CHECK(annotation("", "tty: false") == "none");
}

// A Pod root of its own, with a UID that no other run of this test has: memory volumes share one place.
class PodRoot {
 public:
  PodRoot() { REQUIRE(mkdtemp(path_.data()) != nullptr); }
  ~PodRoot() {
    RemovePodFolder(path_, uid_).IgnoreError();
    fs::remove_all(path_);
  }
  const std::string& path() const { return path_; }
  const std::string& uid() const { return uid_; }

 private:
  std::string path_ = "/tmp/hk-pod-test.XXXXXX";
  std::string uid_ = fmt::format("hk-pod-test-{}", getpid());
};

TEST_CASE("volumes appear as folders and go again") {
  PodRoot root;
  manifest::Manifest m = Sample();
  m.pod.volumes[1].in_memory = true;

  absl::StatusOr<std::string> folder = MakePodFolder(root.path(), root.uid());
  REQUIRE_OK(folder);
  REQUIRE_OK(MakeVolumes(m, *folder));
  const std::string memory = VolumePath(*folder, m.pod.volumes[1]);
  CHECK(*sys::ReadFile(VolumePath(*folder, m.pod.volumes[0]) + "/x.conf") == "hello");
  CHECK_FALSE(fs::exists(VolumePath(*folder, m.pod.volumes[0]) + "/other"));
  CHECK(fs::is_directory(memory));
  CHECK_OK(RemovePodFolder(root.path(), root.uid()));
  CHECK_FALSE(fs::exists(*folder));
  CHECK_FALSE(fs::exists(memory));
  CHECK_OK(RemovePodFolder(root.path(), root.uid()));
}

TEST_CASE("a UID that would be a path makes and removes nothing") {
  PodRoot root;
  fs::create_directories(root.path() + "/pods");
  fs::create_directories(root.path() + "/precious");
  const std::string pods = root.path() + "/pods";

  for (const char* uid : {"..", ".", "", "../precious", "a/../../precious", "/tmp"}) {
    INFO(uid);
    CHECK_THAT(PodFolder(pods, uid).status(), testing::HasCode(absl::StatusCode::kInvalidArgument));
    CHECK_THAT(MakePodFolder(pods, uid).status(), testing::HasCode(absl::StatusCode::kInvalidArgument));
    CHECK_THAT(RemovePodFolder(pods, uid), testing::HasCode(absl::StatusCode::kInvalidArgument));
  }
  CHECK(fs::exists(root.path() + "/precious"));
  CHECK(fs::is_empty(pods));
}

TEST_CASE("the folder of another Pod is never taken over") {
  PodRoot root;
  REQUIRE_OK(MakePodFolder(root.path(), root.uid()));

  CHECK_THAT(MakePodFolder(root.path(), root.uid()).status(), testing::HasCode(absl::StatusCode::kAlreadyExists));
}

TEST_CASE("only the folder that the UID names beneath the root is a Pod's to be removed") {
  FoundPod pod;
  pod.sandbox.mutable_metadata()->set_uid("u-1");
  auto says = [&](const std::string& folder) -> FoundPod& {
    (*pod.sandbox.mutable_annotations())[kAnnotationFolder] = folder;
    return pod;
  };

  CHECK_FALSE(SaysFolder(pod));
  CHECK_FALSE(HasFolderBeneath(pod, "/pods"));
  CHECK(HasFolderBeneath(says("/pods/u-1"), "/pods"));
  CHECK(HasFolderBeneath(says("/pods/u-1"), "/pods/"));
  for (const char* folder : {"/", "/etc", "/pods", "/pods/u-2", "/pods/u-1/..", "/pods/../pods/u-1", "u-1", ""}) {
    INFO(folder);
    CHECK_FALSE(HasFolderBeneath(says(folder), "/pods"));
  }
  pod.sandbox.mutable_metadata()->set_uid("../etc");
  CHECK_FALSE(HasFolderBeneath(says("/pods/../etc"), "/pods"));
  CHECK_FALSE(HasFolderBeneath(says("/etc"), "/pods"));
}

TEST_CASE("a ConfigMap path cannot leave its volume") {
  std::string root = "/tmp/hk-pod-test.XXXXXX";
  REQUIRE(mkdtemp(root.data()) != nullptr);
  manifest::Manifest m = Sample();
  m.pod.volumes[0].items = {{"k", "../../evil"}};

  CHECK_THAT(MakeVolumes(m, root + "/p"), testing::Says("leaves the volume"));
  fs::remove_all(root);
}

struct Sandbox {
  const char *id, *uid, *pod_namespace, *name;
};

// The later ones are the younger ones. Each has a container "c-ID".
absl::StatusOr<FoundPod> Pick(const std::vector<Sandbox>& sandboxes, const std::string& reference) {
  runtime::v1::ListPodSandboxResponse list;
  runtime::v1::ListContainersResponse containers;
  for (const Sandbox& from : sandboxes) {
    runtime::v1::PodSandbox& sandbox = *list.add_items();
    sandbox.set_id(from.id);
    sandbox.mutable_metadata()->set_uid(from.uid);
    sandbox.mutable_metadata()->set_namespace_(from.pod_namespace);
    sandbox.mutable_metadata()->set_name(from.name);
    sandbox.set_created_at(list.items_size());
    runtime::v1::Container& container = *containers.add_containers();
    container.set_id(fmt::format("c-{}", from.id));
    container.set_pod_sandbox_id(from.id);
  }
  return PickPod(list, containers, reference);
}

TEST_CASE("a Pod is found by its name, or by a prefix that is no other's") {
  const std::vector<Sandbox> sandboxes = {{"aaaaaa11", "uuuuuu-1", "default", "web"},
                                          {"aaaaaa22", "uuuuuu-2", "shop", "db"},
                                          {"bbbbbb33", "vvvvvv-3", "default", "aaaaaa"}};

  CHECK(Pick(sandboxes, "web")->sandbox.id() == "aaaaaa11");
  CHECK(Pick(sandboxes, "shop/db")->sandbox.id() == "aaaaaa22");
  CHECK(Pick(sandboxes, "uuuuuu-2")->sandbox.id() == "aaaaaa22");
  CHECK(Pick(sandboxes, "aaaaaa")->sandbox.id() == "bbbbbb33");  // a name
  CHECK(Pick(sandboxes, "aaaaaa2")->sandbox.id() == "aaaaaa22");
  const absl::Status of_two = Pick(sandboxes, "uuuuuu").status();
  CHECK_THAT(of_two, testing::HasCode(absl::StatusCode::kFailedPrecondition));
  CHECK_THAT(of_two, testing::Says("default/web (uuuuuu-1), shop/db (uuuuuu-2)"));
  CHECK_THAT(Pick(sandboxes, "uuuuu").status(), testing::HasCode(absl::StatusCode::kNotFound));  // too short
}

TEST_CASE("a Pod's former sandboxes belong to it, another Pod of its name does not") {
  const std::vector<Sandbox> sandboxes = {{"s1", "uid-old", "default", "web-0"},
                                          {"s2", "uid-new", "default", "web-0"},
                                          {"s3", "uid-new", "default", "web-0"}};

  const absl::StatusOr<FoundPod> pod = Pick(sandboxes, "web-0");

  REQUIRE_OK(pod);
  CHECK(pod->sandbox.id() == "s3");
  REQUIRE(pod->containers.size() == 1);
  CHECK(pod->containers[0].id() == "c-s3");
  REQUIRE(pod->former_sandboxes.size() == 1);
  CHECK(pod->former_sandboxes[0].id() == "s2");
  REQUIRE(pod->former_containers.size() == 1);
  CHECK(pod->former_containers[0].id() == "c-s2");
}

TEST_CASE("CRI log lines are taken apart and foreign lines kept whole") {
  LogLine full = ParseLogLine("2026-01-01T00:00:00Z stderr F a b");
  CHECK(full.stream == "stderr");
  CHECK(full.text == "a b");
  CHECK_FALSE(full.partial);
  CHECK(ParseLogLine("2026-01-01T00:00:00Z stdout P half").partial);
  CHECK(ParseLogLine("2026-01-01T00:00:00Z stdout F ").text.empty());
  CHECK(ParseLogLine("no format at all here").text == "no format at all here");
}

TEST_CASE("the tail of a log is its last lines, and following ends with the container") {
  std::string path = "/tmp/hk-log-test.XXXXXX";
  int fd = mkstemp(path.data());
  REQUIRE(fd >= 0);
  close(fd);
  std::ofstream(path) << "t stdout F 1\nt stdout F 2\nt stdout F 3\n";

  CHECK(LastLines(path, 2) == std::vector<std::string>{"2", "3"});
  CHECK(LastLines(path, 9).size() == 3);

  // What it writes at the very end, when it is asked after, is read too.
  auto ends = [&] {
    std::ofstream(path, std::ios::app) << "t stdout F 4\n";
    return false;
  };
  std::vector<std::string> seen;
  CHECK_OK(ReadLog(path, {.tail = 1, .follow = true, .still_running = ends},
                   [&](const LogLine& line) { seen.push_back(line.text); }));
  CHECK(seen == std::vector<std::string>{"3", "4"});
  unlink(path.c_str());
}

}  // namespace
}  // namespace heterok8s::ctl
