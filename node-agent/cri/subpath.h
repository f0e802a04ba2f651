// Which of a Pod's volumes a subPath is of.
//
// Purpose: kubelet mounts a subPath as <pod>/volume-subpaths/VOLUME/CONTAINER/INDEX, whose name does not say what kind
// of volume it is. The kernel knows: the mount's root is a path in the volume's file system. Threading: pure. Errors:
// none; what cannot be told is nothing, and the container stays on the host.
//
//   HK_ASSIGN_OR_RETURN(std::string mounts, sys::ReadFile("/proc/self/mountinfo"));
//   SubPathKind(mounts, mount.host_path())   // "configmap"
#pragma once

#include <optional>
#include <string>

namespace heterok8s::cri {

// "configmap", "secret", "projected", "empty-dir", …: kubelet's name for the kind. `mountinfo` as proc(5) describes it;
// the last mount on a path counts.
std::optional<std::string> SubPathKind(const std::string& mountinfo, const std::string& host_path);

}  // namespace heterok8s::cri
