#include "common/sys/mount_root.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "common/sys/unique_fd.h"

namespace heterok8s::sys {
namespace {

// Equal for the same mount, wherever it is seen from.
absl::StatusOr<uint64_t> MountOf(int folder) {
  struct statx st {};
  if (statx(folder, "", AT_EMPTY_PATH, STATX_MNT_ID, &st) != 0) return ErrnoToStatus(errno, "statx of the root folder");
  return st.stx_mnt_id;
}

}  // namespace

absl::Status MakeRootOfMountNamespace() {
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
  HK_ASSIGN_OR_RETURN(uint64_t our_mount, MountOf(ours.get()));
  HK_ASSIGN_OR_RETURN(uint64_t top_mount, MountOf(top.get()));
  if (fchdir(ours.get()) != 0) return ErrnoToStatus(errno, "go back to the root folder");
  if (our_mount == top_mount) {
    struct stat a {
    }, b{};
    if (fstat(ours.get(), &a) != 0 || fstat(top.get(), &b) != 0) return ErrnoToStatus(errno, "stat the root folder");
    if (a.st_ino == b.st_ino) return absl::OkStatus();
    // Not a mount point. Put the process back where it was before saying so.
    if (chroot(".") != 0) return ErrnoToStatus(errno, "go back to the chroot");
    return absl::FailedPreconditionError(
        "the folder of this chroot is not a mount point: bind-mount it on itself first");
  }
  // With one folder for both the old root lies over the new one until it is unmounted; see pivot_root(2).
  if (syscall(SYS_pivot_root, ".", ".") != 0) return ErrnoToStatus(errno, "pivot_root out of the chroot");
  if (umount2(".", MNT_DETACH) != 0) return ErrnoToStatus(errno, "unmount what is above the chroot");
  return chdir("/") == 0 ? absl::OkStatus() : ErrnoToStatus(errno, "go to '/'");
}

}  // namespace heterok8s::sys
