// The root folder of a mount namespace.
//
// Purpose: makes this process's root folder the root of its mount namespace. In a chroot the two differ, and whoever
// enters the namespace by setns(2) (runc exec, nsenter) would come out in the root that the chroot had left behind.
// Threading: for a process with one thread, in a mount namespace of its own (setns(2) refuses others).
// Errors: the system call that failed; kFailedPrecondition when the chroot's folder is not a mount point, which
// pivot_root(2) asks for: `mount --bind DIR DIR` before the chroot.
//
//   if (unshare(CLONE_NEWNS) != 0) …
//   HK_RETURN_IF_ERROR(sys::MakeRootOfMountNamespace());
#pragma once

#include "common/status/status.h"

namespace heterok8s::sys {

// Makes every mount of the namespace private, keeps the working directory. Changes nothing else where the process is
// not in a chroot.
absl::Status MakeRootOfMountNamespace();

}  // namespace heterok8s::sys
