// Another IPAM plugin, executed as the specification's section 4 says: found in CNI_PATH, same environment, the whole
// configuration on stdin.
//
// Threading: any thread; each call runs one process and waits at most kDelegateDeadline for it. Errors: the plugin's
// own CNI error unchanged; kInvalidConfig when it cannot be found; kInternal when it answers no JSON.
//
//   HK_ASSIGN_OR_RETURN(cni::Result answer, RunIpamPlugin(request, "ADD"));
#pragma once

#include "common/cni/types.h"

namespace heterok8s::ipam {

// The result is empty for every command but ADD.
absl::StatusOr<cni::Result> RunIpamPlugin(const cni::Request& request, const std::string& command);

}  // namespace heterok8s::ipam
