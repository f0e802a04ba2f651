// The processes of a lab, found from what the kernel knows (namespaces, cgroups), never from a pid file.
//
// Threading: any. Ownership: a PuInit holds its process by descriptor; numbers may be stale at once. Errors: errno of
// /proc. A process that ends while we look is left out.
//
//   HK_ASSIGN_OR_RETURN(PuInit init, FindInit(layout, Place::kDpu));
//   HK_RETURN_IF_ERROR(EndProcesses(layout, std::chrono::seconds(5)));
#pragma once

#include <sys/types.h>

#include <chrono>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"
#include "heteroctl/lab/layout.h"

namespace heterok8s::lab {

// PID 1 of a PU. The descriptor keeps meaning this process even when its number is used again.
struct PuInit {
  pid_t pid = -1;  // in this machine's PID namespace
  sys::UniqueFd pidfd;
};
// kNotFound when the PU does not run.
absl::StatusOr<PuInit> FindInit(const Layout& layout, Place pu);

// The number by which this machine knows the process that the PU knows as `inner`; -1: none.
pid_t OuterPid(pid_t init, pid_t inner);

// All processes in the lab's namespaces or cgroups.
absl::StatusOr<std::vector<pid_t>> FindProcesses(const Layout& layout);

// Asks both inits to end, which takes everything in their PUs along; what is there after `grace` is killed.
// kDeadlineExceeded names what survived two more seconds.
absl::Status EndProcesses(const Layout& layout, std::chrono::milliseconds grace);

// "pid 123 (containerd)", for messages.
std::string Describe(pid_t pid);

}  // namespace heterok8s::lab
