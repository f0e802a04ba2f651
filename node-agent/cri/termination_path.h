// Where the termination message of a container on the DPU is: the file in the container, and kubelet's file on the
// host.
//
// Threading: pure. What comes back with the container comes from the DPU, so a path of the host counts only in the
// folder of its own Pod's containers.
//
//   if (auto log = TerminationPathOf(container.listed, pod_uid)) ShowOnHost(*log, &status);
#pragma once

#include <optional>
#include <string>

#include "proto/cri/v1/cri.pb.h"

namespace heterok8s::cri {

struct TerminationPath {
  std::string inside;   // of the container
  std::string on_host;  // of kubelet
};

// Nothing: the container has none, or it is no file of this Pod.
std::optional<TerminationPath> TerminationPathOf(const runtime::v1::Container& listed, const std::string& pod_uid);

// kubelet reads the message where the status has the mount from, when the container has ended.
void ShowOnHost(const TerminationPath& path, runtime::v1::ContainerStatus* status);

}  // namespace heterok8s::cri
