#include "heteroctl/pod/translate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "heteroctl/pod/subpath.h"
#include "heteroctl/pod/volumes.h"

namespace heterok8s::ctl {
namespace {

namespace cri = runtime::v1;

template <typename Message>
void AddPodLabels(const manifest::Pod& pod, Message& message) {
  auto& labels = *message.mutable_labels();
  labels[kLabelPodName] = pod.name;
  labels[kLabelPodNamespace] = pod.pod_namespace;
  labels[kLabelPodUid] = pod.uid;
}

cri::Protocol ToCri(Protocol protocol) {
  switch (protocol) {
    case Protocol::kTcp:
      return cri::TCP;
    case Protocol::kUdp:
      return cri::UDP;
    case Protocol::kSctp:
      return cri::SCTP;
  }
  return cri::TCP;
}

void SetNamespaces(const manifest::Pod& pod, cri::NamespaceOption& options) {
  options.set_network(pod.host_network ? cri::NODE : cri::POD);
  options.set_ipc(pod.host_ipc ? cri::NODE : cri::POD);
  options.set_pid(pod.host_pid ? cri::NODE : pod.share_process_namespace ? cri::POD : cri::CONTAINER);
}

std::string FieldValue(const manifest::Pod& pod, const std::string& field_path, const std::string& pod_ip) {
  if (field_path == "metadata.name") return pod.name;
  if (field_path == "metadata.namespace") return pod.pod_namespace;
  if (field_path == "metadata.uid") return pod.uid;
  if (field_path == "status.podIP") return pod_ip;
  return pod.hostname;  // spec.nodeName: this machine, which the manifest reader already limited us to
}

void SetSecurity(const manifest::Pod& pod, const manifest::Container& container,
                 cri::LinuxContainerSecurityContext& out) {
  const manifest::SecurityContext& mine = container.security;
  SetNamespaces(pod, *out.mutable_namespace_options());
  out.set_privileged(mine.privileged);
  out.set_readonly_rootfs(mine.read_only_root_filesystem);
  auto user = mine.run_as_user ? mine.run_as_user : pod.security.run_as_user;
  auto group = mine.run_as_group ? mine.run_as_group : pod.security.run_as_group;
  if (user) out.mutable_run_as_user()->set_value(*user);
  // CRI refuses a group without a user; the image's user then decides both.
  if (group && user) out.mutable_run_as_group()->set_value(*group);
  for (const std::string& name : mine.add_capabilities) out.mutable_capabilities()->add_add_capabilities(name);
  for (const std::string& name : mine.drop_capabilities) out.mutable_capabilities()->add_drop_capabilities(name);
}

void SetResources(const manifest::Resources& resources, cri::LinuxContainerResources& out) {
  // As kubelet: a period of 100 ms, shares of 1024 per CPU (kubelet/cm/helpers_linux.go MilliCPUToQuota,
  // MilliCPUToShares).
  if (resources.cpu_limit_milli > 0) {
    out.set_cpu_period(100000);
    out.set_cpu_quota(std::max<int64_t>(1000, resources.cpu_limit_milli * 100));
  }
  int64_t request = resources.cpu_request_milli > 0 ? resources.cpu_request_milli : resources.cpu_limit_milli;
  if (request > 0) out.set_cpu_shares(std::max<int64_t>(2, request * 1024 / 1000));
  out.set_memory_limit_in_bytes(resources.memory_limit_bytes);
}

absl::Status AddMounts(const manifest::Pod& pod, const manifest::Container& container, const PodPlace& place,
                       cri::ContainerConfig& out) {
  const std::vector<SubPath> held = SubPathsOf(pod, container, place.folder);
  auto next_held = held.begin();
  for (const manifest::VolumeMount& mount : container.mounts) {
    auto volume =
        std::find_if(pod.volumes.begin(), pod.volumes.end(), [&](const auto& v) { return v.name == mount.name; });
    cri::Mount& added = *out.add_mounts();
    added.set_container_path(mount.mount_path);
    std::string path = VolumePath(place.folder, *volume);
    if (!mount.sub_path.empty()) {
      if (mount.sub_path.find("..") != std::string::npos || mount.sub_path.front() == '/') {
        return absl::InvalidArgumentError(
            fmt::format("container '{}': subPath '{}' leaves volume '{}'", container.name, mount.sub_path, mount.name));
      }
      path = volume->kind == manifest::Volume::Kind::kConfigMap ? path + "/" + mount.sub_path : (next_held++)->held;
    }
    added.set_host_path(path);
    added.set_readonly(mount.read_only || volume->kind == manifest::Volume::Kind::kConfigMap);
  }
  return absl::OkStatus();
}

void AddPorts(const manifest::Container& container, cri::PodSandboxConfig& config) {
  for (const manifest::ContainerPort& port : container.ports) {
    cri::PortMapping& mapping = *config.add_port_mappings();
    mapping.set_protocol(ToCri(port.protocol));
    mapping.set_container_port(port.container_port);
    mapping.set_host_port(port.host_port);
    mapping.set_host_ip(port.host_ip);
  }
}

// Whether heterocri will keep this container on the host whatever it is called.
bool BoundToHost(const manifest::Pod& pod, const manifest::Container& container) {
  auto binds = [&](const manifest::VolumeMount& mount) {
    auto is_host_path = [&](const manifest::Volume& v) {
      return v.name == mount.name && v.kind == manifest::Volume::Kind::kHostPath;
    };
    return !mount.sub_path.empty() || std::any_of(pod.volumes.begin(), pod.volumes.end(), is_host_path);
  };
  return container.security.privileged || std::any_of(container.mounts.begin(), container.mounts.end(), binds);
}

// The value of heteropod.io/volumes: what CRI cannot say and the manifest does, "cache=a,b;run=c". Without volumes of
// containers that are bound to the host: those stay there, and with them whoever else uses them, and their volumes.
std::string EmptyDirUsers(const manifest::Pod& pod) {
  std::map<std::string, std::vector<std::string>> users;    // by volume
  std::map<std::string, std::vector<std::string>> volumes;  // by container
  std::vector<std::string> bound;                           // containers; grows while it is walked
  for (const auto* containers : {&pod.init_containers, &pod.containers}) {
    for (const manifest::Container& container : *containers) {
      for (const manifest::VolumeMount& mount : container.mounts) {
        users[mount.name].push_back(container.name);
        volumes[container.name].push_back(mount.name);
      }
      if (BoundToHost(pod, container)) bound.push_back(container.name);
    }
  }
  for (size_t i = 0; i < bound.size(); ++i) {
    for (const std::string& volume : volumes[bound[i]]) {
      auto stays = users.extract(volume);
      if (!stays.empty()) bound.insert(bound.end(), stays.mapped().begin(), stays.mapped().end());
    }
  }
  std::vector<std::string> declared;
  for (const manifest::Volume& volume : pod.volumes) {
    if (volume.kind == manifest::Volume::Kind::kEmptyDir && users.contains(volume.name))
      declared.push_back(fmt::format("{}={}", volume.name, fmt::join(users.at(volume.name), ",")));
  }
  return fmt::format("{}", fmt::join(declared, ";"));
}

}  // namespace

cri::PodSandboxConfig SandboxConfig(const manifest::Pod& pod, const PodPlace& place) {
  cri::PodSandboxConfig config;
  config.mutable_metadata()->set_name(pod.name);
  config.mutable_metadata()->set_namespace_(pod.pod_namespace);
  config.mutable_metadata()->set_uid(pod.uid);
  config.set_hostname(pod.host_network ? "" : pod.hostname);
  config.set_log_directory(LogFolder(place.folder));
  for (const auto& [name, value] : pod.labels) (*config.mutable_labels())[name] = value;
  AddPodLabels(pod, config);
  for (const auto& [name, value] : pod.annotations) (*config.mutable_annotations())[name] = value;
  (*config.mutable_annotations())[kAnnotationFolder] = place.folder;
  (*config.mutable_annotations())[kAnnotationGrace] = std::to_string(pod.termination_grace_seconds);
  std::string users = EmptyDirUsers(pod);
  if (pod.annotations.contains(kAnnotationOffload) && !pod.annotations.contains(kAnnotationVolumes) && !users.empty())
    (*config.mutable_annotations())[kAnnotationVolumes] = users;
  // As kubelet: ports of init containers count when they stay, as sidecars.
  for (const manifest::Container& container : pod.init_containers) {
    if (container.is_sidecar) AddPorts(container, config);
  }
  for (const manifest::Container& container : pod.containers) AddPorts(container, config);
  cri::LinuxPodSandboxConfig& linux_config = *config.mutable_linux();
  linux_config.set_cgroup_parent(place.cgroup_parent);
  SetNamespaces(pod, *linux_config.mutable_security_context()->mutable_namespace_options());
  for (const auto* containers : {&pod.init_containers, &pod.containers}) {
    for (const manifest::Container& container : *containers) {
      if (container.security.privileged) linux_config.mutable_security_context()->set_privileged(true);
    }
  }
  return config;
}

absl::StatusOr<cri::ContainerConfig> ContainerConfig(const manifest::Pod& pod, const manifest::Container& container,
                                                     const PodPlace& place, const std::string& pod_ip) {
  cri::ContainerConfig config;
  config.mutable_metadata()->set_name(container.name);
  config.mutable_image()->set_image(container.image);
  for (const std::string& word : container.command) config.add_command(word);
  for (const std::string& word : container.args) config.add_args(word);
  config.set_working_dir(container.working_dir);
  for (const manifest::EnvVar& variable : container.env) {
    cri::KeyValue& pair = *config.add_envs();
    pair.set_key(variable.name);
    pair.set_value(variable.field_path.empty() ? variable.value : FieldValue(pod, variable.field_path, pod_ip));
  }
  HK_RETURN_IF_ERROR(AddMounts(pod, container, place, config));
  AddPodLabels(pod, config);
  (*config.mutable_labels())[kLabelContainerName] = container.name;
  config.set_log_path(container.name + "/0.log");  // kubelet's form: <container>/<attempt>.log
  config.set_stdin(container.stdin);
  config.set_tty(container.tty);
  SetResources(container.resources, *config.mutable_linux()->mutable_resources());
  SetSecurity(pod, container, *config.mutable_linux()->mutable_security_context());
  return config;
}

cri::ImageSpec ImageOf(const manifest::Pod& pod, const manifest::Container& container) {
  cri::ImageSpec image;
  image.set_image(container.image);
  for (const auto& [name, value] : pod.annotations) (*image.mutable_annotations())[name] = value;
  return image;
}

}  // namespace heterok8s::ctl
