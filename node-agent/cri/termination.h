// The termination message of a container on the DPU, brought to the host's file where kubelet reads it; the end of one
// that is longer than anybody shows.
//
// Threading: blocks for one call. Ownership: borrows the client for the call. Errors: logged.
//
//   if (!BringTerminationLog(runtime, container, pod_uid, In(std::chrono::seconds(2)))) …  // again later
#pragma once

#include <chrono>

#include "node-agent/cri/pod_table.h"
#include "proto/heterok8s/v1/runtime.grpc.pb.h"

namespace heterok8s::cri {

// The path of the host comes back with the container from the DPU, so it counts only inside the folder of this Pod.
// False when the DPU did not answer and it should be tried again.
bool BringTerminationLog(v1::DpuRuntime::StubInterface& runtime, const DpuContainer& container,
                         const std::string& pod_uid, std::chrono::system_clock::time_point deadline);

}  // namespace heterok8s::cri
