// A Pod's volumes as folders on the host, made before its sandbox and removed after it.
//
// Purpose: emptyDir and ConfigMap literals below <root>/<pod uid>/volumes, as a kubelet lays them out; logs beside
// them. Threading: any thread, one Pod at a time. Errors: errno with the path; a path that leaves its volume is
// refused.
//
//   HK_RETURN_IF_ERROR(MakeVolumes(manifest, PodFolder(root, uid)));
#pragma once

#include <string>

#include "common/status/status.h"
#include "heteroctl/manifest/manifest.h"

namespace heterok8s::ctl {

std::string PodFolder(const std::string& root, const std::string& uid);
// Where the runtime writes: <pod folder>/logs/<container>/<attempt>.log
std::string LogFolder(const std::string& pod_folder);
// The host path of a volume; hostPath volumes are their own.
std::string VolumePath(const std::string& pod_folder, const manifest::Volume& volume);

absl::Status MakeVolumes(const manifest::Manifest& manifest, const std::string& pod_folder);
// Removes all that MakeVolumes made. OK when it is gone.
absl::Status RemovePodFolder(const std::string& pod_folder);

}  // namespace heterok8s::ctl
