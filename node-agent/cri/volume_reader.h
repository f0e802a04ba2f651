// A small file or folder of the host as the entries of a PutVolume.
//
// What is in memory here (kubelet's Secrets are) is asked to be so there.
// Threading: any; waits while kubelet changes the volume. Errors: kResourceExhausted when it is too large,
// kFailedPrecondition for what cannot be copied (a socket, a device, a link that leads out), errno with the path.
//
//   HK_ASSIGN_OR_RETURN(v1::PutVolumeRequest copy, ReadVolume("/var/lib/kubelet/pods/…/conf"));
#pragma once

#include <string>

#include "common/status/status.h"
#include "proto/heterok8s/v1/runtime.pb.h"

namespace heterok8s::cri {

// A ConfigMap has at most 1 MiB; a projected volume may hold a few.
inline constexpr size_t kMaxVolumeBytes = 4 << 20;
inline constexpr int kMaxVolumeEntries = 1024;

// kAborted when the volume was being changed each time that it was read, some twenty times within half a second.
absl::StatusOr<v1::PutVolumeRequest> ReadVolume(const std::string& path);

}  // namespace heterok8s::cri
