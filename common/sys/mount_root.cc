#include "common/sys/mount_root.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "common/sys/unique_fd.h"

namespace heterok8s::sys {
namespace {

struct Mount {
  uint64_t id = 0;       // equal for the same mount, wherever it is seen from
  bool is_root = false;  // the folder is the mount's topmost
};

absl::StatusOr<Mount> MountOf(int folder) {
  struct statx st {};
  if (statx(folder, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) != 0) return ErrnoToStatus(errno, "statx of the root folder");
  return Mount{st.stx_mnt_id, (st.stx_attributes & STATX_ATTR_MOUNT_ROOT) != 0};
}

// The working directory that was, by its path: the descriptor that was open for it may belong to a mount that is gone.
absl::Status GoTo(const std::string& folder) {
  if (!folder.empty() && chdir(folder.c_str()) == 0) return absl::OkStatus();
  return chdir("/") == 0 ? absl::OkStatus() : ErrnoToStatus(errno, "go to '/'");
}

}  // namespace

absl::Status MakeRootOfMountNamespace() {
  std::error_code unknown;
  const std::string folder = std::filesystem::current_path(unknown);
  UniqueFd ours(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  UniqueFd ns(open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC));
  if (!ours.valid() || !ns.valid()) return ErrnoToStatus(errno, "open the root folder and its namespace");
  // Of the namespace we are in already: its effect is that "/" becomes the namespace's own root.
  if (setns(ns.get(), CLONE_NEWNS) != 0) return ErrnoToStatus(errno, "enter the mount namespace anew");
  UniqueFd top(open("/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!top.valid()) return ErrnoToStatus(errno, "open the namespace's root folder");
  // Also what is above the chroot: pivot_root refuses shared parents.
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
    return ErrnoToStatus(errno, "make mounts private");
  HK_ASSIGN_OR_RETURN(Mount our_mount, MountOf(ours.get()));
  HK_ASSIGN_OR_RETURN(Mount top_mount, MountOf(top.get()));
  // Back to where we were: what follows is relative to it.
  if (fchdir(ours.get()) != 0 || chroot(".") != 0) return ErrnoToStatus(errno, "go back to the root folder");
  if (our_mount.id == top_mount.id && our_mount.is_root) return GoTo(folder);
  if (!our_mount.is_root) {
    return absl::FailedPreconditionError(
        "the folder of this chroot is not a mount point: bind-mount it on itself first");
  }
  if (setns(ns.get(), CLONE_NEWNS) != 0 || fchdir(ours.get()) != 0) return ErrnoToStatus(errno, "leave the chroot");
  // With one folder for both the old root lies over the new one until it is unmounted; see pivot_root(2).
  if (syscall(SYS_pivot_root, ".", ".") != 0) return ErrnoToStatus(errno, "pivot_root out of the chroot");
  if (umount2(".", MNT_DETACH) != 0) return ErrnoToStatus(errno, "unmount what is above the chroot");
  return GoTo(folder);
}

}  // namespace heterok8s::sys
