// What the containers of a Pod on the DPU may use together: the limits of the cgroup that they have in common.
//
// Purpose: on the host kubelet gives the Pod's cgroup the sum of its containers, or the Pod's own limits
// (`spec.resources`). The DPU's carries the containers that are there, and never more than the Pod. CRI tells a Pod's
// sum, but not whether it is a limit: kubelet adds up those containers that have one. Each container tells: under a
// limit of the Pod's, kubelet (1.32 and later) gives it to every container without one of its own (getMemoryLimit,
// getCPULimit in kuberuntime_container_linux.go), so where one has none, the Pod has none either.
// Threading: pure functions. Errors: none.
//
//   PodLimits limits = LimitsOf(containers, pod);
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/cri/v1/cri.pb.h"

namespace heterok8s::cri {

// 0: no limit, and the kernel's default for the shares.
struct PodLimits {
  int64_t cpu_quota = 0;  // microseconds of each 100 ms
  int64_t cpu_shares = 0;
  int64_t memory_bytes = 0;

  bool operator==(const PodLimits&) const = default;
};

inline constexpr int64_t kQuotaPeriod = 100000;  // microseconds; kubelet's and the kernel's default

PodLimits LimitsOf(const std::vector<runtime::v1::LinuxContainerResources>& containers,
                   const runtime::v1::LinuxContainerResources& pod);
// What both allow: while containers go from one to the other.
PodLimits Wider(const PodLimits& one, const PodLimits& other);

// Of all that resources are, what counts here.
runtime::v1::LinuxContainerResources LimitsAlone(const runtime::v1::LinuxContainerResources& resources);
// What an update leaves: its zeros change nothing.
runtime::v1::LinuxContainerResources Updated(const runtime::v1::LinuxContainerResources& now,
                                             const runtime::v1::LinuxContainerResources& update);

// For an annotation; text of somebody else's is no resources.
std::string ResourcesText(const runtime::v1::LinuxContainerResources& resources);
runtime::v1::LinuxContainerResources ResourcesOf(const std::string& text);

// Whether the last part of a cgroup's path has the Pod's UID, as kubelet names them: with dashes, or with underscores
// where it is a slice of systemd's.
bool NamesPod(const std::string& cgroup, std::string uid);

}  // namespace heterok8s::cri
