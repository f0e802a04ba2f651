// PID 1 of a PU (`heteroctl lab-init SPEC`): mounts, hostname, then the supervisor until the PU ends.
//
// `lab up` runs it in fresh mount, UTS, IPC, PID and cgroup namespaces and the PU's network namespace. Its own words go
// to stderr, which is <logs>/PU-init.log.
#pragma once

#include <string>

#include "common/status/status.h"

namespace heterok8s::lab {

absl::Status RunInit(const std::string& spec_path);

}  // namespace heterok8s::lab
