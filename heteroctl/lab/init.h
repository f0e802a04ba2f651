// PID 1 of a PU (`heteroctl lab-init SPEC`): mounts, hostname, then the supervisor until the PU ends.
//
// `lab up` runs it in fresh mount, UTS, IPC, PID and cgroup namespaces and the PU's network namespace. Its own words go
// to stderr, which is <logs>/PU-init.log.
// Threading: the only thread of its process. Ownership: the process is its own; what it mounts goes with it.
// Errors: kFailedPrecondition when it is not PID 1; else what of the PU could not be made. The PU then ends.
//
//   HK_RETURN_IF_ERROR(RunInit(layout.InitSpec(Place::kHost)));  // returns when the PU ends
#pragma once

#include <string>

#include "common/status/status.h"

namespace heterok8s::lab {

absl::Status RunInit(const std::string& spec_path);

}  // namespace heterok8s::lab
