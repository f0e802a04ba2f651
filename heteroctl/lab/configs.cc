#include "heteroctl/lab/configs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/sys/unique_fd.h"
#include "heteroctl/lab/kubernetes.h"
#include "heteroctl/lab/topology.h"

namespace heterok8s::lab {
namespace {

namespace fs = std::filesystem;

constexpr const char* kAgentPort = "7443";

// Not synced, unlike sys::WriteFileAtomic: a lab does not outlive the machine.
absl::Status Write(const std::string& path, const std::string& text) {
  sys::UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd.valid() || write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return ErrnoToStatus(errno, fmt::format("write '{}'", path));
  }
  return absl::OkStatus();
}

absl::Status MakeFolders(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("make '{}'", path));
  return absl::OkStatus();
}

// In the /etc overlay: hides the machine's folder of the same name instead of adding to it.
absl::Status MakeOwnFolder(const std::string& path) {
  HK_RETURN_IF_ERROR(MakeFolders(path));
  if (setxattr(path.c_str(), "trusted.overlay.opaque", "y", 1, 0) != 0) {
    return ErrnoToStatus(errno, fmt::format("mark '{}' opaque", path));
  }
  return absl::OkStatus();
}

std::string Etc(const Layout& layout, Place pu) { return layout.PuState(pu) + "/etc"; }

absl::Status MakePuFolders(const Layout& layout, Place pu) {
  const std::string state = layout.PuState(pu);
  for (const char* folder : {"/etc", "/etc-work", "/var/lib/containerd", "/var/lib/cni", "/var/lib/heterok8s",
                             "/var/lib/kubelet", "/var/log/pods", "/var/log/containers", "/var/log/heterok8s/pods"}) {
    HK_RETURN_IF_ERROR(MakeFolders(state + folder));
  }
  HK_RETURN_IF_ERROR(MakeOwnFolder(Etc(layout, pu) + "/cni"));
  HK_RETURN_IF_ERROR(MakeFolders(Etc(layout, pu) + "/cni/net.d"));
  HK_RETURN_IF_ERROR(MakeOwnFolder(Etc(layout, pu) + "/heterok8s"));
  HK_RETURN_IF_ERROR(MakeFolders(Etc(layout, pu) + "/heterok8s/pki"));
  HK_RETURN_IF_ERROR(MakeFolders(layout.PuRun(pu) + "/lab/bin"));
  HK_RETURN_IF_ERROR(MakeFolders(layout.PuRun(pu) + "/lab/kubernetes"));
  return MakeFolders(layout.PuRun(pu) + "/netns");
}

// With Kubernetes a dozen daemons share the machine's processors, and all of a Deployment's Pods start at once: a DPU
// that is only starved must not count as lost.
int LeaseMs(const ConfigOptions& options) { return options.kubernetes.empty() ? 5000 : 20000; }

DaemonSpec Containerd() {
  return {.name = "containerd", .argv = {"containerd", "--config", "/etc/heterok8s/containerd.toml"}, .env = {}};
}
DaemonSpec Agent(const std::string& name) {
  return {.name = name,
          .argv = {fmt::format("{}/{}", kInsideBin, name), "--config", fmt::format("/etc/heterok8s/{}.yaml", name)},
          .env = {}};
}

}  // namespace

std::string ContainerdToml(const ConfigOptions& options) {
  return fmt::format(R"(version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "heterok8s.local/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin}"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      # Everything that wants to reach a CNI plugin or a sandbox as an annotation must be let through by name.
      pod_annotations = ["heteropod.io/*"]
      container_annotations = ["heteropod.io/*"]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
)",
                     fmt::arg("bin", kInsideBin), fmt::arg("snapshotter", options.snapshotter));
}

std::string HeterodYaml(const Layout& layout, Place pu, const ConfigOptions& options) {
  const bool host = pu == Place::kHost;
  const Addresses at = AddressesOf(layout.Node());
  std::string text =
      fmt::format(R"(role: {role}
instance: {instance}
node_name: {node}
state_dir: /var/lib/heterok8s
run_dir: /run/heterok8s
listen: "{own}:{port}"
peer: {{address: "{other}:{port}"}}
tls: {{ca: /etc/heterok8s/pki/ca.crt, cert: /etc/heterok8s/pki/{role}.crt, key: /etc/heterok8s/pki/{role}.key}}
lease: {{interval_ms: 1000, duration_ms: {lease}}}
ephemeral: {{host: [32768, 47103], dpu: [47104, 60999]}}
link_range: 169.254.64.0/18
mtu: 0
metrics: {{listen: "127.0.0.1:9464"}}
ports: {{mechanism: {ports}}}
log: {{level: {level}}}
)",
                  fmt::arg("role", Name(pu)), fmt::arg("instance", layout.name), fmt::arg("node", layout.name),
                  fmt::arg("own", host ? at.host : at.dpu), fmt::arg("other", host ? at.dpu : at.host),
                  fmt::arg("port", kAgentPort), fmt::arg("level", options.log_level), fmt::arg("ports", options.ports),
                  fmt::arg("lease", LeaseMs(options)));
  if (host) {
    text += fmt::format("pu: {{backend: netns, peer_netns: {}/dpu.netns}}\non_dpu_down: {}\n", kInsideFolder,
                        options.on_dpu_down);
  } else {
    text +=
        "pu: {backend: netns}\n"
        // The machine's own disk says nothing about a lab's: its images stay.
        "cri: {socket: /run/containerd/containerd.sock, pod_log_root: /var/log/heterok8s/pods, image_gc: "
        "{high_percent: 100}}\n";
  }
  return text;
}

std::string HeterocriYaml(const Layout& layout, const ConfigOptions& options) {
  return fmt::format(R"(listen: /run/heterok8s/cri.sock
state_dir: /var/lib/heterok8s
host: {{socket: /run/containerd/containerd.sock}}
dpu:
  address: "{dpu}:{port}"
  tls: {{ca: /etc/heterok8s/pki/ca.crt, cert: /etc/heterok8s/pki/cri.crt, key: /etc/heterok8s/pki/cri.key}}
  pod_log_root: /var/log/heterok8s/pods
lease: {{interval_ms: 1000, duration_ms: {lease}}}
offload_containers: [istio-proxy, envoy, haproxy, fluent-bit, rsyslog, otel-collector]
metrics: {{listen: "127.0.0.1:9465"}}
log: {{level: {level}}}
)",
                     fmt::arg("lease", LeaseMs(options)), fmt::arg("dpu", AddressesOf(layout.Node()).dpu),
                     fmt::arg("port", kAgentPort), fmt::arg("level", options.log_level));
}

std::string CniConflist(const Layout& layout) {
  const Addresses at = AddressesOf(layout.Node());
  return R"({"cniVersion":"1.0.0","name":"heterok8s","plugins":[
 {"type":"heterok8s-cni","socket":"/run/heterok8s/cni.sock","queueDir":"/var/lib/heterok8s/cni-queue",
  "capabilities":{"portMappings":true,"bandwidth":true,"ips":true,"mac":true,"dns":true,"io.kubernetes.cri.pod-annotations":true},
  "ipam":{"type":"heterok8s","ranges":[[{"subnet":")" +
         at.pods + R"("}],[{"subnet":")" + at.pods6 + R"("}]]}}]}
)";
}

InitSpec MakeInitSpec(const Layout& layout, Place pu, const ConfigOptions& options) {
  const std::string state = layout.PuState(pu);
  const std::string run = layout.PuRun(pu);
  const bool kubernetes = !options.kubernetes.empty();
  InitSpec spec{.hostname = layout.Hostname(pu),
                .etc_upper = Etc(layout, pu),
                .etc_work = state + "/etc-work",
                .binds = {},
                .control = layout.Control(pu),
                .log_folder = layout.Logs(),
                .log_prefix = Name(pu) + "-",
                .daemons = {}};
  spec.binds.push_back({layout.Bin(), run + "/lab/bin"});
  if (kubernetes) spec.binds.push_back({options.kubernetes, run + "/lab/kubernetes"});
  if (pu == Place::kClient) spec.binds.push_back({layout.MachineNetns(), run + "/lab/machine.netns"});
  // The host's heterod makes links whose other end is born in the DPU's root namespace.
  if (pu == Place::kHost) spec.binds.push_back({layout.Netns(Place::kDpu), run + "/lab/dpu.netns"});
  spec.binds.push_back({layout.Pki(), "/etc/heterok8s/pki"});
  if (pu == Place::kHost) spec.binds.push_back({layout.Pods(), state + layout.Pods()});
  spec.binds.push_back({state + "/var/log", "/var/log"});
  // Covers the state folder: nothing of it can be named after this.
  spec.binds.push_back({state + "/var/lib", "/var/lib", /*recursive=*/true});
  spec.binds.push_back({run, "/run", /*recursive=*/true});
  if (pu != Place::kClient) spec.daemons.push_back(Containerd());
  if (pu != Place::kClient && options.agents) spec.daemons.push_back(Agent("heterod"));
  if (pu == Place::kHost && options.agents) spec.daemons.push_back(Agent("heterocri"));
  if (!kubernetes) return spec;
  for (DaemonSpec& daemon : KubernetesDaemons(layout, pu)) spec.daemons.push_back(std::move(daemon));
  return spec;
}

std::vector<Place> PlacesWithInit(const Layout& layout, const ConfigOptions& options) {
  std::vector<Place> places(kPus.begin(), kPus.end());
  if (!options.kubernetes.empty() && layout.Node() == 1) places.push_back(Place::kClient);
  return places;
}

absl::Status WriteConfigs(const Layout& layout, const ConfigOptions& options) {
  for (const std::string& folder : {layout.Logs(), layout.Run() + "/netns", layout.Pki(), layout.Bin(), layout.Pods(),
                                    layout.PuState(Place::kHost) + layout.Pods()}) {
    HK_RETURN_IF_ERROR(MakeFolders(folder));
  }
  chmod(layout.State().c_str(), 0700);
  const Addresses at = AddressesOf(layout.Node());
  for (Place pu : PlacesWithInit(layout, options)) {
    HK_RETURN_IF_ERROR(MakePuFolders(layout, pu));
    if (pu == Place::kHost) {
      // The mount point of the bind above; a namespace is bound over a file.
      HK_RETURN_IF_ERROR(Write(layout.PuRun(pu) + "/lab/dpu.netns", ""));
    }
    if (pu == Place::kClient) HK_RETURN_IF_ERROR(Write(layout.PuRun(pu) + "/lab/machine.netns", ""));
    const std::string etc = Etc(layout, pu);
    std::vector<std::pair<std::string, std::string>> files = {
        {etc + "/hostname", layout.Hostname(pu) + "\n"},
        {etc + "/hosts", fmt::format("127.0.0.1 localhost\n::1 localhost ip6-localhost\n{} {}\n{} {}\n", at.host,
                                     layout.Hostname(Place::kHost), at.dpu, layout.Hostname(Place::kDpu))},
        {etc + "/resolv.conf", "# A lab has no way out: names fail at once instead of after a time.\n"},
        {layout.InitSpec(pu), ToJson(MakeInitSpec(layout, pu, options))},
    };
    if (pu != Place::kClient) files.push_back({etc + "/heterok8s/containerd.toml", ContainerdToml(options)});
    if (options.agents && pu != Place::kClient) {
      files.push_back({etc + "/heterok8s/heterod.yaml", HeterodYaml(layout, pu, options)});
      files.push_back({etc + "/cni/net.d/10-heterok8s.conflist", CniConflist(layout)});
      if (pu == Place::kHost) files.push_back({etc + "/heterok8s/heterocri.yaml", HeterocriYaml(layout, options)});
    }
    if (!options.kubernetes.empty()) {
      for (auto& [name, text] : KubernetesFiles(layout, pu)) files.push_back({etc + "/heterok8s/" + name, text});
    }
    for (const auto& [path, text] : files) HK_RETURN_IF_ERROR(Write(path, text));
  }
  return Write(layout.Env(), EnvJson(layout, options));
}

std::string EnvJson(const Layout& layout, const ConfigOptions& options) {
  const Addresses at = AddressesOf(layout.Node());
  nlohmann::json kubernetes;
  if (!options.kubernetes.empty()) {
    kubernetes = {{"kubeconfig", layout.OfNode(1).Kubeconfig()}, {"kubernetes", options.kubernetes}};
  }
  const std::string host = layout.PuRun(Place::kHost), dpu = layout.PuRun(Place::kDpu);
  nlohmann::json json{
      {"name", layout.name},
      {"host_admin", host + "/heterok8s/admin.sock"},
      {"dpu_admin", dpu + "/heterok8s/admin.sock"},
      {"cri", host + "/heterok8s/cri.sock"},
      {"pod_root", layout.Pods()},
      {"cgroup_parent", "/pods"},  // in the PU's cgroup namespace
      {"host_containerd", host + "/containerd/containerd.sock"},
      {"dpu_containerd", dpu + "/containerd/containerd.sock"},
      {"host_cni", host + "/heterok8s/cni.sock"},
      {"dpu_cni", dpu + "/heterok8s/cni.sock"},
      {"host_netns", layout.Netns(Place::kHost)},
      {"dpu_netns", layout.Netns(Place::kDpu)},
      {"client_netns", layout.OfNode(1).Netns(Place::kClient)},
      {"host_control", layout.Control(Place::kHost)},
      {"dpu_control", layout.Control(Place::kDpu)},
      {"host_run", host},
      {"dpu_run", dpu},
      {"host_var", layout.PuState(Place::kHost) + "/var"},
      {"dpu_var", layout.PuState(Place::kDpu) + "/var"},
      {"logs", layout.Logs()},
      {"pki", layout.Pki()},
      {"bin", layout.Bin()},
      {"host_v4", at.host},
      {"dpu_v4", at.dpu},
      {"client_v4", at.client},
      {"host_v6", at.host6},
      {"dpu_v6", at.dpu6},
      {"client_v6", at.client6},
  };
  if (kubernetes.is_object()) json.update(kubernetes);
  return json.dump(2);
}

}  // namespace heterok8s::lab
