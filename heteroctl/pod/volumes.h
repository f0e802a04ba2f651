// A Pod's volumes as folders on the host, made before its sandbox and removed after it.
//
// Purpose: emptyDir and ConfigMap literals below <root>/<pod uid>/volumes, as a kubelet lays them out; logs beside
// them. The UID is the only text of a Pod that becomes part of a path that is removed, so every path starts with it
// and it is checked here. Threading: any thread, one Pod at a time. Ownership: the folders belong to whoever made them
// with MakePodFolder, which never takes one that exists. Errors: errno with the path; kInvalidArgument for a UID that
// is none and for a path that leaves its volume.
//
//   HK_ASSIGN_OR_RETURN(std::string folder, MakePodFolder(root, uid));
//   HK_RETURN_IF_ERROR(MakeVolumes(manifest, folder));
#pragma once

#include <string>

#include "common/status/status.h"
#include "heteroctl/manifest/manifest.h"

namespace heterok8s::ctl {

// <root>/<uid>, whether it exists or not.
absl::StatusOr<std::string> PodFolder(const std::string& root, const std::string& uid);
// Where the runtime writes: <pod folder>/logs/<container>/<attempt>.log
std::string LogFolder(const std::string& pod_folder);
// The host path of a volume; hostPath volumes are their own.
std::string VolumePath(const std::string& pod_folder, const manifest::Volume& volume);

// Makes the Pod's folder and returns its path. kAlreadyExists when it is there: it is another Pod's.
absl::StatusOr<std::string> MakePodFolder(const std::string& root, const std::string& uid);
absl::Status MakeVolumes(const manifest::Manifest& manifest, const std::string& pod_folder);
// Removes all that MakePodFolder and MakeVolumes made, without following a link of the Pod's. OK when it is gone.
absl::Status RemovePodFolder(const std::string& root, const std::string& uid);

}  // namespace heterok8s::ctl
