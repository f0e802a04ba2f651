// A subPath of a volume, held fast while the runtime makes its container.
//
// Purpose: containers of a Pod write to its volumes, and may put a link where a subPath leads, at any moment. The
// runtime follows links, on this machine and as root; so it is never given a path inside such a volume. What the
// subPath leads to is opened beneath the volume and bound to
//   <pod folder>/volume-subpaths/VOLUME/CONTAINER/INDEX
// which no container sees: kubelet's way, and kubelet's names. Links that stay inside the volume are followed; a path
// that leaves it, also by an absolute link, is refused. What is missing becomes a folder with the volume's mode. The
// runtime's mount namespace may be another than ours (a lab's PU): that of whoever listens on its socket is used.
//
// Threading: any thread, one container of a Pod at a time. Ownership: what is held stays until ReleaseSubPaths; a
// container that has been started keeps its own mount. Errors: kInvalidArgument for a path that leaves its volume,
// errno with the path; needs CAP_SYS_ADMIN.
//
//   HK_ASSIGN_OR_RETURN(FileView view, ViewOfListener(endpoints.cri));
//   for (const SubPath& each : SubPathsOf(pod, container, folder)) HK_RETURN_IF_ERROR(HoldSubPath(view, each));
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"
#include "heteroctl/manifest/manifest.h"

namespace heterok8s::ctl {

struct SubPath {
  std::string volume;  // its path on the host
  std::string inside;  // relative to it
  std::string held;    // where the runtime finds it
};

// Of one mount; nothing when it has no subPath, or is of a volume that no container writes to.
std::vector<SubPath> SubPathsOf(const manifest::Pod& pod, const manifest::Container& container,
                                const std::string& pod_folder);

// Where a process finds its files: its mount namespace, and its root there, which a chroot may have moved.
struct FileView {
  sys::UniqueFd ns, root;
};
// Of a process, by its folder in /proc ("/proc/42", "/proc/thread-self").
absl::StatusOr<FileView> ViewOf(const std::string& proc);
// Of the process that listens on this Unix socket.
absl::StatusOr<FileView> ViewOfListener(const std::string& socket);
// On a thread of its own, unless we are there already.
absl::Status InView(const FileView& view, const std::function<absl::Status()>& work);

absl::Status HoldSubPath(const FileView& view, const SubPath& sub_path);
// All of the Pod. Its folder must not be removed while one is held: they lead to what may be the host's.
absl::Status ReleaseSubPaths(const FileView& view, const std::string& pod_folder);
// Whether any was ever held there.
bool HadSubPaths(const std::string& pod_folder);

}  // namespace heterok8s::ctl
