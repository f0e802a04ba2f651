// A manifest's Pod in CRI's words, as a kubelet would say them.
//
// Purpose: pure translation, so that what reaches the runtime can be tested without one. The labels are the kubelet's
// (io.kubernetes.pod.name, …): crictl, ctr and heterocri know Pods and containers by them.
// Threading: pure functions. Errors: kInvalidArgument for what a runtime cannot be told.
//
//   runtime::v1::PodSandboxConfig sandbox = SandboxConfig(pod, {.folder = folder, .cgroup_parent = "/heterok8s"});
#pragma once

#include <string>

#include "common/status/status.h"
#include "heteroctl/manifest/manifest.h"
#include "proto/cri/v1/cri.pb.h"

namespace heterok8s::ctl {

inline constexpr const char* kLabelPodName = "io.kubernetes.pod.name";
inline constexpr const char* kLabelPodNamespace = "io.kubernetes.pod.namespace";
inline constexpr const char* kLabelPodUid = "io.kubernetes.pod.uid";
inline constexpr const char* kLabelContainerName = "io.kubernetes.container.name";
// Ours. That heteroctl made the Pod, and its folder: a word to be compared, never a path to be used, since a kubelet's
// Pods bring annotations of their authors.
inline constexpr const char* kAnnotationFolder = "heteroctl.heteropod.io/folder";
inline constexpr const char* kAnnotationGrace = "heteroctl.heteropod.io/grace-seconds";

// heterocri's, see its annotations.h: a Pod that asks for a split is told who uses which emptyDir, unless its author
// did.
inline constexpr const char* kAnnotationOffload = "heteropod.io/offload";
inline constexpr const char* kAnnotationVolumes = "heteropod.io/volumes";

struct PodPlace {
  std::string folder;         // see volumes.h
  std::string cgroup_parent;  // of the Pod's cgroups, e.g. "/heterok8s"; empty: the runtime's default
};

runtime::v1::PodSandboxConfig SandboxConfig(const manifest::Pod& pod, const PodPlace& place);

// `pod_ip` for status.podIP.
absl::StatusOr<runtime::v1::ContainerConfig> ContainerConfig(const manifest::Pod& pod,
                                                             const manifest::Container& container,
                                                             const PodPlace& place, const std::string& pod_ip);

// The image with the Pod's annotations, as kubelet sends it: heterocri chooses the PU by them.
runtime::v1::ImageSpec ImageOf(const manifest::Pod& pod, const manifest::Container& container);

}  // namespace heterok8s::ctl
