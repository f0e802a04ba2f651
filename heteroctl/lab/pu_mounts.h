// Turns a fresh mount namespace into a PU's own file system view. Runs in the PU's PID 1, once, before any daemon.
//
// Afterwards: /proc and /sys belong to this PU's namespaces; the cgroup hierarchies are mounted again, so that their
// roots are the PU's cgroups; /etc is an overlay over the machine's; /run, /var/lib and /var/log are the PU's own.
// Nothing of it is seen outside, and all of it goes with the last process of the PU.
// Threading: a process of one thread. Errors: errno with source and target; the namespace is then half made and its
// process must end.
//
//   HK_RETURN_IF_ERROR(MountPu(spec));
#pragma once

#include "common/status/status.h"
#include "heteroctl/lab/init_spec.h"

namespace heterok8s::lab {

absl::Status MountPu(const InitSpec& spec);

}  // namespace heterok8s::lab
