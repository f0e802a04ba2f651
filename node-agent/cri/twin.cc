#include "node-agent/cri/twin.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "node-agent/cri/annotations.h"
#include "node-agent/cri/pod_limits.h"

namespace heterok8s::cri {

namespace rt = runtime::v1;

std::string LogFolderName(const rt::PodSandboxMetadata& metadata) {
  std::string name = fmt::format("{}_{}_{}", metadata.namespace_(), metadata.name(), metadata.uid());
  std::erase_if(name, [](char c) { return c == '/' || c == '\0'; });
  return name.substr(0, 255);
}

std::string PodCgroupOf(const rt::PodSandboxConfig& config) {
  const std::string& parent = config.linux().cgroup_parent();
  const std::string& uid = config.metadata().uid();
  return NamesPod(parent, uid) ? parent : "";
}

std::string PodCgroupBelow(const std::string& parent, std::string uid) {
  constexpr std::string_view kSlice = ".slice";
  if (!parent.ends_with(kSlice)) return fmt::format("{}/pod{}", parent, uid);
  std::replace(uid.begin(), uid.end(), '-', '_');  // a dash makes a slice below another
  return fmt::format("{}-pod{}{}", parent.substr(0, parent.size() - kSlice.size()), uid, kSlice);
}

rt::PodSandboxConfig TwinConfig(const rt::PodSandboxConfig& config, const DpuPaths& paths) {
  rt::PodSandboxConfig twin = config;
  twin.set_log_directory(paths.pod_log_root + "/" + LogFolderName(config.metadata()));
  twin.clear_port_mappings();  // the host's CNI call makes the Pod's host ports
  // The file is of the host. In a twin's sandbox runs nobody's program but the runtime's own.
  if (twin.linux().security_context().seccomp().profile_type() == rt::SecurityProfile::Localhost) {
    rt::SecurityProfile& seccomp = *twin.mutable_linux()->mutable_security_context()->mutable_seccomp();
    seccomp.set_profile_type(rt::SecurityProfile::RuntimeDefault);
    seccomp.clear_localhost_ref();
  }
  (*twin.mutable_annotations())[kPlacement] = "split";
  (*twin.mutable_annotations())[kTwin] = "true";
  if (!paths.cgroup_parent.empty()) {
    twin.mutable_linux()->set_cgroup_parent(PodCgroupBelow(paths.cgroup_parent, config.metadata().uid()));
  }
  (*twin.mutable_annotations())[kCgroup] = PodCgroupOf(twin);  // also when it is none: an author's would be a claim
  (*twin.mutable_annotations())[kResources] = ResourcesText(config.linux().resources());
  return twin;
}

rt::LinuxContainerResources ResourcesOnDpu(rt::LinuxContainerResources resources, bool unified) {
  resources.clear_cpuset_cpus();
  resources.clear_cpuset_mems();
  resources.clear_hugepage_limits();
  if (!unified) resources.clear_unified();
  return resources;
}

rt::CreateContainerRequest ContainerOnDpu(const rt::CreateContainerRequest& request, const DpuPaths& paths,
                                          const DpuContainerOptions& options) {
  rt::CreateContainerRequest dpu = request;
  dpu.set_pod_sandbox_id(options.twin_id);
  *dpu.mutable_sandbox_config() = TwinConfig(request.sandbox_config(), paths);
  rt::ContainerConfig& config = *dpu.mutable_config();
  config.mutable_image()->set_image(options.image);
  config.mutable_image()->clear_runtime_handler();
  for (int i = 0; i < config.mounts_size(); ++i) config.mutable_mounts(i)->set_host_path(options.mount_paths[i]);
  if (config.linux().has_resources())
    *config.mutable_linux()->mutable_resources() = ResourcesOnDpu(config.linux().resources(), options.unified);
  if (!options.seccomp_profile.empty()) {
    config.mutable_linux()->mutable_security_context()->mutable_seccomp()->set_localhost_ref(options.seccomp_profile);
  }
  auto& annotations = *config.mutable_annotations();
  annotations[kPu] = "dpu";
  annotations[kPlacementReason] = options.reason;
  annotations[kEpoch] = std::to_string(options.epoch);
  annotations[kResources] = ResourcesText(config.linux().resources());
  if (!options.dpu_volumes.empty()) annotations[kDpuVolumes] = fmt::format("{}", fmt::join(options.dpu_volumes, ","));
  if (!options.termination_log.empty()) annotations[kTerminationLog] = options.termination_log;
  return dpu;
}

std::string HostLogPath(const std::string& log_directory, const std::string& dpu_log) {
  size_t slash = dpu_log.find('/');
  if (log_directory.empty() || slash == std::string::npos) return "";
  return log_directory + dpu_log.substr(slash);
}

std::string DpuLogPath(const rt::CreateContainerRequest& request) {
  if (request.config().log_path().empty()) return "";
  return LogFolderName(request.sandbox_config().metadata()) + "/" + request.config().log_path();
}

}  // namespace heterok8s::cri
