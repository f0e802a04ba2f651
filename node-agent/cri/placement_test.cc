// The rules of placement as tables: a Pod or container, where it goes, and the words that say why.
#include "node-agent/cri/placement.h"

#include "common/testing/matchers.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/bandwidth_check.h"
#include "node-agent/cri/twin.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

const PlacementRules kRules{.offload_containers = {"istio-proxy", "haproxy"}};
constexpr const char* kUid = "11111111-2222-3333-4444-555555555555";

rt::PodSandboxConfig Sandbox(const std::map<std::string, std::string>& annotations) {
  rt::PodSandboxConfig config;
  config.mutable_metadata()->set_uid(kUid);
  config.mutable_metadata()->set_name("web");
  config.mutable_metadata()->set_namespace_("shop");
  for (const auto& [key, value] : annotations) (*config.mutable_annotations())[key] = value;
  config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(rt::CONTAINER);
  return config;
}

TEST_CASE("a bandwidth that a runtime could not read is refused by name") {
  for (const char* good : {"1k", "10M", "1.5G", "1e6", "1P", "64Mi"}) {
    INFO(good);
    CHECK_OK(CheckBandwidth(Sandbox({{"kubernetes.io/egress-bandwidth", good}}).annotations()));
  }
  for (const char* bad : {"", "fast", "10Mbit", "-1M", "999", "2P"}) {
    INFO(bad);
    CHECK_THAT(CheckBandwidth(Sandbox({{"kubernetes.io/ingress-bandwidth", bad}}).annotations()),
               testing::HasCode(absl::StatusCode::kInvalidArgument) &&
                   testing::Says("kubernetes.io/ingress-bandwidth") && testing::Says(bad));
  }
  CHECK_OK(CheckBandwidth(Sandbox({}).annotations()));
}

TEST_CASE("a Pod without the annotation is not looked at") {
  PodVerdict verdict = DecidePod(Sandbox({}), "", kRules);
  CHECK(!verdict.wanted);
  CHECK(!verdict.split);
}

TEST_CASE("annotations decide which containers move, and a bad one is a reason") {
  struct Row {
    std::map<std::string, std::string> annotations;
    bool split;
    std::set<std::string> containers;
    std::string reason;
  };
  for (const Row& row : {
           Row{{{kOffload, "dpu"}}, true, {"istio-proxy", "haproxy"}, "the configuration lists"},
           Row{{{kOffload, "dpu"}, {kOffloadContainers, " a, b"}}, true, {"a", "b"}, "offload-containers: a,b"},
           Row{{{kOffload, "gpu"}}, false, {}, "heteropod.io/offload has the value 'gpu'; only 'dpu' is known"},
           Row{{{kOffload, "dpu"}, {kOffloadContainers, "a,,b"}}, false, {}, "separated by commas"},
           Row{{{kOffload, "dpu"}, {kOffloadContainers, ""}}, false, {}, "separated by commas"},
           Row{{{kOffload, "dpu"}, {kFallback, "maybe"}}, false, {}, "'host', 'pending' and 'fail' are known"},
           Row{{{kOffload, "dpu"}, {kVolumes, "cache"}}, false, {}, "is expected"},
       }) {
    PodVerdict verdict = DecidePod(Sandbox(row.annotations), "", kRules);
    INFO(verdict.reason);
    CHECK(verdict.wanted);
    CHECK(verdict.split == row.split);
    CHECK(verdict.containers == row.containers);
    CHECK(verdict.reason.find(row.reason) != std::string::npos);
  }
}

TEST_CASE("what a Pod shares with its computer keeps it on the host") {
  struct Row {
    std::function<void(rt::LinuxSandboxSecurityContext&)> change;
    std::string reason;
  };
  for (const Row& row : {
           Row{[](auto& s) { s.mutable_namespace_options()->set_network(rt::NODE); }, "hostNetwork"},
           Row{[](auto& s) { s.mutable_namespace_options()->set_pid(rt::NODE); }, "hostPID"},
           Row{[](auto& s) { s.mutable_namespace_options()->set_pid(rt::POD); }, "shareProcessNamespace"},
           Row{[](auto& s) { s.mutable_namespace_options()->set_ipc(rt::NODE); }, "hostIPC"},
           Row{[](auto& s) { s.mutable_namespace_options()->mutable_userns_options()->set_mode(rt::POD); },
               "hostUsers false"},
       }) {
    rt::PodSandboxConfig config = Sandbox({{kOffload, "dpu"}});
    row.change(*config.mutable_linux()->mutable_security_context());
    PodVerdict verdict = DecidePod(config, "", kRules);
    INFO(verdict.reason);
    CHECK(verdict.wanted);
    CHECK(!verdict.split);
    CHECK(verdict.reason.find(row.reason) != std::string::npos);
  }
}

TEST_CASE("a sysctl that would undo what a split Pod needs keeps it on the host") {
  struct Row {
    std::string name;
    bool split;
  };
  for (const Row& row : {
           Row{"net.ipv4.ip_local_port_range", false},
           Row{"net/ipv4/ip_local_port_range", false},
           Row{"net.ipv4.conf.all.rp_filter", false},
           Row{"net.ipv4.tcp_syncookies", true},
           Row{"kernel.shm_rmid_forced", true},
       }) {
    rt::PodSandboxConfig config = Sandbox({{kOffload, "dpu"}});
    (*config.mutable_linux()->mutable_sysctls())[row.name] = "1";

    PodVerdict verdict = DecidePod(config, "", kRules);

    INFO(row.name << ": " << verdict.reason);
    CHECK(verdict.wanted);
    CHECK(verdict.split == row.split);
    CHECK((verdict.reason.find("sysctl net.ipv4.") != std::string::npos) == !row.split);
  }
}

TEST_CASE("a RuntimeClass keeps a Pod on the host: the DPU's runtime may be no sandbox of that kind") {
  const rt::PodSandboxConfig config = Sandbox({{kOffload, "dpu"}});
  CHECK(DecidePod(config, "", kRules).split);
  PodVerdict verdict = DecidePod(config, "kata", kRules);
  CHECK(verdict.wanted);
  CHECK(!verdict.split);
  CHECK(verdict.reason == "runtimeClassName: handler 'kata' is the host's");
}

rt::Mount Mount(const std::string& host, const std::string& container, bool readonly) {
  rt::Mount mount;
  mount.set_host_path(host);
  mount.set_container_path(container);
  mount.set_readonly(readonly);
  return mount;
}

TEST_CASE("a subPath moves when it is of a small volume and only read") {
  const std::string path = std::string("/var/lib/kubelet/pods/") + kUid + "/volume-subpaths/v/a/0";
  PodVerdict pod = DecidePod(Sandbox({{kOffload, "dpu"}, {kOffloadContainers, "a"}}), "", kRules);
  struct Row {
    std::map<std::string, std::string> kinds;
    bool readonly, dpu;
  };
  for (const Row& row : {
           Row{{{path, "configmap"}}, true, true},
           Row{{{path, "secret"}}, true, true},
           Row{{{path, "secret"}}, false, false},
           Row{{{path, "empty-dir"}}, true, false},
           Row{{{path, "csi"}}, true, false},
           Row{{}, true, false},
       }) {
    rt::ContainerConfig config;
    config.mutable_metadata()->set_name("a");
    *config.add_mounts() = Mount(path, "/etc/a.cfg", row.readonly);

    ContainerVerdict decided = DecideContainer(pod, kUid, config, {}, std::nullopt, row.kinds);

    CHECK(decided.dpu == row.dpu);
    if (!row.dpu) CHECK(decided.reason == "mount '/etc/a.cfg': a subPath of a volume");
  }
}

TEST_CASE("mounts decide whether a chosen container can move") {
  const std::string pod = std::string("/var/lib/kubelet/pods/") + kUid;
  PodVerdict verdict = DecidePod(
      Sandbox({{kOffload, "dpu"}, {kOffloadContainers, "a,b"}, {kVolumes, "run=a,b;cache=a,app"}}), "", kRules);
  struct Row {
    rt::Mount mount;
    bool dpu;
    std::string reason;
    MountPlan::Kind plan = MountPlan::Kind::kCopy;
  };
  for (const Row& row : {
           Row{Mount(pod + "/volumes/kubernetes.io~configmap/conf", "/etc/a", true), true, "", MountPlan::Kind::kCopy},
           Row{Mount(pod + "/volumes/kubernetes.io~projected/token", "/run/t", true), true, "", MountPlan::Kind::kCopy},
           Row{Mount(pod + "/etc-hosts", "/etc/hosts", false), true, "", MountPlan::Kind::kCopy},
           Row{Mount(pod + "/containers/a/1234", "/dev/termination-log", false), true, "",
               MountPlan::Kind::kTermination},
           Row{Mount(pod + "/volumes/kubernetes.io~empty-dir/run", "/run/a", false), true, "",
               MountPlan::Kind::kDpuLocal},
           Row{Mount(pod + "/volumes/kubernetes.io~empty-dir/run", "/run/a", true), true, "",
               MountPlan::Kind::kDpuLocal},
           Row{Mount(pod + "/volumes/kubernetes.io~empty-dir/cache", "/c", false), false,
               "shared volume 'cache' with app"},
           Row{Mount(pod + "/volumes/kubernetes.io~empty-dir/used", "/c", false), false,
               "shared volume 'used' with nginx"},
           Row{Mount(pod + "/volumes/kubernetes.io~empty-dir/other", "/c", false), false, "does not say who uses it"},
           Row{Mount(pod + "/volumes/kubernetes.io~empty-dir/run/sub", "/c", false), false, "subPath"},
           Row{Mount(pod + "/volume-subpaths/conf/a/0", "/c", true), false, "subPath"},
           Row{Mount(pod + "/volumes/kubernetes.io~csi/pvc-1/mount", "/c", true), false, "host path"},
           Row{Mount("/var/log", "/logs", true), false, "mount '/logs': host path '/var/log'"},
           Row{Mount(pod + "/../../../../etc", "/c", true), false, "host path"},
           Row{Mount(std::string("/dev/shm/heterok8s-pods/") + kUid + "/run", "/run/a", false), true, "",
               MountPlan::Kind::kDpuLocal},
       }) {
    rt::ContainerConfig config;
    config.mutable_metadata()->set_name("a");
    *config.add_mounts() = row.mount;
    ContainerVerdict decided = DecideContainer(verdict, kUid, config, {{"used", "nginx"}}, std::nullopt);
    INFO(row.mount.host_path() << ": " << decided.reason);
    CHECK(decided.dpu == row.dpu);
    if (row.dpu) {
      REQUIRE(decided.mounts.size() == 1);
      CHECK(decided.mounts[0].kind == row.plan);
      CHECK(decided.mounts[0].volume.find('/') == std::string::npos);
    } else {
      CHECK(decided.reason.find(row.reason) != std::string::npos);
    }
  }
}

TEST_CASE("an emptyDir's name is one of a folder") {
  const std::string volumes = "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~empty-dir/";
  CHECK(EmptyDirOf(volumes + "cache", "uid") == "cache");
  CHECK(EmptyDirOf(volumes + "cache/below", "uid") == "cache");
  for (const char* none : {"", "/x", ".", "./x", "..", "../x"}) CHECK_FALSE(EmptyDirOf(volumes + none, "uid"));
}

TEST_CASE("privileges and devices of the host stay on the host; a debug container goes to its target") {
  PodVerdict pod = DecidePod(Sandbox({{kOffload, "dpu"}, {kOffloadContainers, "a"}}), "", kRules);
  rt::ContainerConfig plain;
  plain.mutable_metadata()->set_name("a");
  CHECK(DecideContainer(pod, kUid, plain, {}, std::nullopt).dpu);
  rt::ContainerConfig privileged = plain;
  privileged.mutable_linux()->mutable_security_context()->set_privileged(true);
  CHECK(!DecideContainer(pod, kUid, privileged, {}, std::nullopt).dpu);
  rt::ContainerConfig device = plain;
  device.add_devices()->set_host_path("/dev/fuse");
  CHECK(DecideContainer(pod, kUid, device, {}, std::nullopt).reason == "device '/dev/fuse' of the host");
  rt::ContainerConfig confined = plain;
  rt::LinuxContainerSecurityContext& security = *confined.mutable_linux()->mutable_security_context();
  security.mutable_seccomp()->set_profile_type(rt::SecurityProfile::Localhost);
  CHECK(DecideContainer(pod, kUid, confined, {}, std::nullopt).dpu);
  security.mutable_apparmor()->set_profile_type(rt::SecurityProfile::Localhost);
  security.mutable_apparmor()->set_localhost_ref("ours");
  CHECK(DecideContainer(pod, kUid, confined, {}, std::nullopt).reason == "AppArmor profile 'ours' of the host");
  rt::ContainerConfig huge = plain;
  auto& pages = *huge.mutable_linux()->mutable_resources()->mutable_hugepage_limits();
  pages.Add()->set_page_size("1GB");  // kubelet names every size
  CHECK(DecideContainer(pod, kUid, huge, {}, std::nullopt).dpu);
  pages.Add()->set_page_size("2MB");
  pages[1].set_limit(4 << 20);
  CHECK(DecideContainer(pod, kUid, huge, {}, std::nullopt).reason == "huge pages of the host: 4194304 of 2MB");
  rt::ContainerConfig other;
  other.mutable_metadata()->set_name("app");
  CHECK(DecideContainer(pod, kUid, other, {}, std::nullopt).reason == "application container: not among a");
  CHECK(DecideContainer(pod, kUid, other, {}, true).dpu);
  CHECK(!DecideContainer(pod, kUid, plain, {}, false).dpu);
}

TEST_CASE("a Pod's cgroup on the DPU is a folder in a folder, and a slice in a slice") {
  CHECK(PodCgroupBelow("/dpu", "0a1b-2c") == "/dpu/pod0a1b-2c");
  CHECK(PodCgroupBelow("dpu-pods.slice", "0a1b-2c") == "dpu-pods-pod0a1b_2c.slice");
}

TEST_CASE("the twin is the same Pod with the DPU's paths, and keeps what we do not know") {
  rt::PodSandboxConfig config = Sandbox({{kOffload, "dpu"}});
  config.set_log_directory("/var/log/pods/x");
  config.add_port_mappings()->set_host_port(80);
  config.mutable_linux()->set_cgroup_parent("/kubepods/pod1");
  rt::SecurityProfile& seccomp = *config.mutable_linux()->mutable_security_context()->mutable_seccomp();
  seccomp.set_profile_type(rt::SecurityProfile::Localhost);
  seccomp.set_localhost_ref("/var/lib/kubelet/seccomp/a.json");
  config.GetReflection()->MutableUnknownFields(&config)->AddVarint(900, 7);
  rt::PodSandboxConfig twin = TwinConfig(config, {.pod_log_root = "/logs", .cgroup_parent = "/dpu"});
  CHECK(twin.metadata().uid() == kUid);
  CHECK(twin.log_directory() == std::string("/logs/shop_web_") + kUid);
  CHECK(twin.port_mappings_size() == 0);
  CHECK(twin.linux().cgroup_parent() == std::string("/dpu/pod") + kUid);
  CHECK(twin.annotations().at(kPlacement) == "split");
  CHECK(twin.annotations().at(kCgroup) == std::string("/dpu/pod") + kUid);
  CHECK(twin.linux().security_context().seccomp().profile_type() == rt::SecurityProfile::RuntimeDefault);
  CHECK(twin.linux().security_context().seccomp().localhost_ref().empty());
  rt::PodSandboxConfig again;
  REQUIRE(again.ParseFromString(twin.SerializeAsString()));
  CHECK(again.GetReflection()->GetUnknownFields(again).field_count() == 1);

  rt::CreateContainerRequest request;
  request.set_pod_sandbox_id("host-id");
  *request.mutable_sandbox_config() = config;
  request.mutable_config()->set_log_path("a/0.log");
  *request.mutable_config()->add_mounts() = Mount("/x", "/y", true);
  *request.mutable_config()->mutable_linux()->mutable_security_context()->mutable_seccomp() = seccomp;
  rt::LinuxContainerResources& resources = *request.mutable_config()->mutable_linux()->mutable_resources();
  resources.set_memory_limit_in_bytes(1 << 20);
  resources.set_cpuset_cpus("40-47");
  resources.set_cpuset_mems("1");
  resources.GetReflection()->MutableUnknownFields(&resources)->AddVarint(10, 7);
  rt::CreateContainerRequest dpu = ContainerOnDpu(
      request, {.pod_log_root = "/logs"},
      {.twin_id = "twin-id", .image = "img", .epoch = 3, .mount_paths = {"/dpu/x"}, .seccomp_profile = "/dpu/a.json"});
  CHECK(dpu.pod_sandbox_id() == "twin-id");
  CHECK(dpu.config().mounts(0).host_path() == "/dpu/x");
  CHECK(dpu.config().linux().security_context().seccomp().localhost_ref() == "/dpu/a.json");
  const rt::LinuxContainerResources& on_dpu = dpu.config().linux().resources();
  CHECK(on_dpu.memory_limit_in_bytes() == 1 << 20);
  CHECK((on_dpu.cpuset_cpus().empty() && on_dpu.cpuset_mems().empty()));
  CHECK(on_dpu.GetReflection()->GetUnknownFields(on_dpu).field_count() == 1);
  CHECK(HostLogPath(config.log_directory(), DpuLogPath(request)) == "/var/log/pods/x/a/0.log");
  CHECK(dpu.config().annotations().at(kEpoch) == "3");
  CHECK(dpu.sandbox_config().linux().cgroup_parent() == "/kubepods/pod1");
  CHECK(DpuLogPath(request) == std::string("shop_web_") + kUid + "/a/0.log");
}

}  // namespace
}  // namespace heterok8s::cri
