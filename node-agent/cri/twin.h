// The DPU's version of what kubelet asks for: the same Pod and container, with the host's paths replaced.
//
// Threading: pure. Unknown fields of CRI stay as they came.
//
//   rt::RunPodSandboxRequest twin = TwinSandbox(request, {.pod_log_root = "/var/log/heterok8s/pods"});
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "node-agent/cri/placement.h"
#include "proto/cri/v1/cri.pb.h"

namespace heterok8s::cri {

struct DpuPaths {
  std::string pod_log_root;
  std::string cgroup_parent;  // empty: the same as on the host
};

// "NAMESPACE_NAME_UID", the name of the Pod's log folder on the DPU; characters of no file name are left out.
std::string LogFolderName(const runtime::v1::PodSandboxMetadata& metadata);

// The cgroup that the Pod's containers have in common: `cgroup_parent` when it is the Pod's own, named by its UID as
// kubelet does; else empty.
std::string PodCgroupOf(const runtime::v1::PodSandboxConfig& config);

// A Pod's own below the one of `dpu.cgroup_parent`, which is a folder or, for a runtime with the driver systemd, a
// slice.
std::string PodCgroupBelow(const std::string& parent, std::string uid);

// For RunPodSandbox, and for CreateContainer, which repeats it.
runtime::v1::PodSandboxConfig TwinConfig(const runtime::v1::PodSandboxConfig& config, const DpuPaths& paths);

// Without what is true of the host alone: the processors and memory nodes that kubelet's CPU and memory managers chose,
// and a zero for each size of huge page that the host's kernel has (one with huge pages is not for the DPU). Files of
// cgroup v2, which kubelet names when the host has it, only with `unified`.
runtime::v1::LinuxContainerResources ResourcesOnDpu(runtime::v1::LinuxContainerResources resources, bool unified);

struct DpuContainerOptions {
  std::string twin_id;
  std::string reason;
  std::string image;  // as the DPU's runtime knows it
  uint64_t epoch = 0;
  std::vector<std::string> mount_paths;  // on the DPU, one per mount
  std::vector<std::string> dpu_volumes;
  std::string termination_log;  // see kTerminationLog; empty: none
  bool unified = true;          // the DPU's runtime takes files of cgroup v2
  std::string seccomp_profile;  // a file on the DPU; empty: what kubelet says is no file
};
runtime::v1::CreateContainerRequest ContainerOnDpu(const runtime::v1::CreateContainerRequest& request,
                                                   const DpuPaths& paths, const DpuContainerOptions& options);

// Where the bytes of the DPU's log go: the same name below the Pod's log folder on the host; empty when there is none.
std::string HostLogPath(const std::string& log_directory, const std::string& dpu_log);
// Below the DPU's Pod log root: "NAMESPACE_NAME_UID/CONTAINER/0.log".
std::string DpuLogPath(const runtime::v1::CreateContainerRequest& request);

}  // namespace heterok8s::cri
