#include "node-agent/cri/methods.h"

#include <algorithm>
#include <iterator>

namespace heterok8s::cri {
namespace {

using enum Handling;

constexpr Method kMethods[] = {
    {"/runtime.v1.RuntimeService/Version", kHost},
    {"/runtime.v1.RuntimeService/RunPodSandbox", kSpecial},
    {"/runtime.v1.RuntimeService/StopPodSandbox", kSpecial},
    {"/runtime.v1.RuntimeService/RemovePodSandbox", kSpecial},
    // The host's sandbox speaks for the Pod; twins exist in the DPU's runtime only, so the host's list has none.
    {"/runtime.v1.RuntimeService/ListPodSandbox", kHost},
    {"/runtime.v1.RuntimeService/StreamPodSandboxes", kHostStream},
    // A runtime that tells of events adds the containers to it.
    {"/runtime.v1.RuntimeService/PodSandboxStatus", kSpecial},
    {"/runtime.v1.RuntimeService/CreateContainer", kSpecial},
    {"/runtime.v1.RuntimeService/StartContainer", kSpecial},
    {"/runtime.v1.RuntimeService/StopContainer", kSpecial},
    {"/runtime.v1.RuntimeService/RemoveContainer", kSpecial},
    {"/runtime.v1.RuntimeService/ListContainers", kSpecial},
    {"/runtime.v1.RuntimeService/StreamContainers", kSpecial},
    {"/runtime.v1.RuntimeService/ContainerStatus", kSpecial},
    {"/runtime.v1.RuntimeService/UpdateContainerResources", kSpecial},
    {"/runtime.v1.RuntimeService/ReopenContainerLog", kSpecial},
    {"/runtime.v1.RuntimeService/ExecSync", kByContainer},
    {"/runtime.v1.RuntimeService/Exec", kSpecial},
    {"/runtime.v1.RuntimeService/Attach", kSpecial},
    // From the host half of the Pod every port is reached by localhost, those of the DPU too.
    {"/runtime.v1.RuntimeService/PortForward", kHost},
    {"/runtime.v1.RuntimeService/ContainerStats", kByContainer},
    {"/runtime.v1.RuntimeService/ListContainerStats", kSpecial},
    {"/runtime.v1.RuntimeService/StreamContainerStats", kSpecial},
    {"/runtime.v1.RuntimeService/PodSandboxStats", kSpecial},
    {"/runtime.v1.RuntimeService/ListPodSandboxStats", kSpecial},
    {"/runtime.v1.RuntimeService/StreamPodSandboxStats", kSpecial},
    {"/runtime.v1.RuntimeService/UpdateRuntimeConfig", kHost},
    {"/runtime.v1.RuntimeService/Status", kSpecial},
    {"/runtime.v1.RuntimeService/CheckpointContainer", kHostOnly,
     "CheckpointContainer for containers on the DPU is not supported yet"},
    // Of a Pod with all its containers in one runtime's own format: half of it would be on either PU.
    {"/runtime.v1.RuntimeService/CheckpointPod", kRefused, "CheckpointPod is not supported"},
    {"/runtime.v1.RuntimeService/RestorePod", kRefused, "RestorePod is not supported"},
    {"/runtime.v1.RuntimeService/GetContainerEvents", kSpecial},
    {"/runtime.v1.RuntimeService/ListMetricDescriptors", kSpecial},
    {"/runtime.v1.RuntimeService/ListPodSandboxMetrics", kSpecial},
    {"/runtime.v1.RuntimeService/StreamPodSandboxMetrics", kSpecial},
    {"/runtime.v1.RuntimeService/RuntimeConfig", kSpecial},
    {"/runtime.v1.RuntimeService/UpdatePodSandboxResources", kSpecial},
    {"/runtime.v1.ImageService/ListImages", kHost},
    {"/runtime.v1.ImageService/StreamImages", kHostStream},
    {"/runtime.v1.ImageService/ImageStatus", kSpecial},
    {"/runtime.v1.ImageService/PullImage", kSpecial},
    {"/runtime.v1.ImageService/RemoveImage", kHost},
    // kubelet looks the file systems up on this machine, so the DPU's must not appear.
    {"/runtime.v1.ImageService/ImageFsInfo", kHost},
};

}  // namespace

const Method* FindMethod(const std::string& path) {
  const Method* found =
      std::find_if(std::begin(kMethods), std::end(kMethods), [&](const Method& m) { return m.path == path; });
  return found == std::end(kMethods) ? nullptr : found;
}

MethodRange AllMethods() { return {std::begin(kMethods), std::end(kMethods)}; }

}  // namespace heterok8s::cri
