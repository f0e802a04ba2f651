// Starts the init of a PU in namespaces of its own, and runs commands in a place that exists.
//
// Threading: StartInit and Enter fork; between fork and exec only system calls are made, so other threads may run.
// Errors: the system call that failed, from inside the child as well.
//
//   HK_ASSIGN_OR_RETURN(int exit_code, Enter(layout, Place::kDpu, {"ip", "route"}));
#pragma once

#include <string>
#include <vector>

#include "common/status/status.h"
#include "heteroctl/lab/layout.h"

namespace heterok8s::lab {

// Runs `argv` (argv[0] a path) as PID 1 of `pu`, detached, output appended to its init log. Returns when it has been
// exec'ed: its mounts are made later.
absl::Status StartInit(const Layout& layout, Place pu, const std::vector<std::string>& argv);

// Runs a command in a place with this process's stdin, stdout and stderr, and waits for it without a deadline: it is
// the user's. argv[0] is looked up in the PATH there. Returns its exit code; 128 + N when signal N ended it. SIGTERM
// and SIGHUP are passed on; when this process dies, the command does.
absl::StatusOr<int> Enter(const Layout& layout, Place place, const std::vector<std::string>& argv);

}  // namespace heterok8s::lab
