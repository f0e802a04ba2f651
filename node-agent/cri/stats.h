// Figures of both PUs put together: what kubelet adds up per container and per Pod.
//
// Purpose: the rules, without the calls. A container on the DPU appears as one of its Pod, with the Pod's id on the
// host, and without the file system that its writable layer is on: kubelet would look that up on this machine.
// Threading: pure functions.
//
//   *response.add_stats() = ForHost(std::move(stats));
#pragma once

#include <map>
#include <string>
#include <string_view>

#include "common/status/status.h"
#include "proto/cri/v1/cri.pb.h"
#include "proto/heterok8s/v1/runtime.pb.h"

namespace heterok8s::cri {

runtime::v1::ContainerStats ForHost(runtime::v1::ContainerStats stats);
// Of containers, as List answers and Pods' figures have them.
using ContainerStatsList = google::protobuf::RepeatedPtrField<runtime::v1::ContainerStats>;

bool Matches(const runtime::v1::ContainerStats& stats, const std::string& sandbox_id,
             const runtime::v1::ContainerStatsFilter& filter);

// Adds what emptyDirs on the DPU hold to the writable layers of the containers that mount them, each once, to the one
// with the least id: kubelet measures an emptyDir on the host, where nothing is, but adds the layers up to what the Pod
// writes. So a Pod's and a container's limit of ephemeral storage hold; an emptyDir's own sizeLimit does not, because
// no call of CRI tells it or asks for what one volume holds.
void ChargeVolumes(const v1::UsedByVolumesReply& used, ContainerStatsList* on_dpu);

// Adds the twin's containers to the Pod, and takes the network figures from the twin: the interface by which the Pod
// meets the world is there. Processor and memory stay the host's: the DPU's are not charged to the host.
void AddTwin(const runtime::v1::PodSandboxStats& twin, runtime::v1::PodSandboxStats* pod);

// The containers' metrics of a twin become metrics of the Pod.
void AddTwin(const runtime::v1::PodSandboxMetrics& twin, runtime::v1::PodSandboxMetrics* pod);
// Adds what `host` lacks by name.
void AddDescriptors(const runtime::v1::ListMetricDescriptorsResponse& dpu,
                    runtime::v1::ListMetricDescriptorsResponse* host);

// From the text that containerd 1.6 gives as "config" in a verbose Status: it has no RuntimeConfig.
absl::StatusOr<runtime::v1::CgroupDriver> CgroupDriverOf(const std::string& config_json);

}  // namespace heterok8s::cri
