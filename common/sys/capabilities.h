// Giving up privileges for good.
//
// Threading: of the calling thread, and of those that it starts afterwards: call it before any other thread exists.
// Ownership: of the thread, for good. Errors: errno with the capability. What this process does not have in the first
// place is not missed, CAP_SETPCAP included: without it the bounding set stays.
//
//   HK_RETURN_IF_ERROR(KeepCapabilities({CAP_NET_ADMIN, CAP_BPF}));
#pragma once

#include <initializer_list>

#include "common/status/status.h"

namespace heterok8s::sys {

// All others leave the effective, permitted and inheritable sets, and the bounding set: an executed program of root
// would get everything back from that.
absl::Status KeepCapabilities(std::initializer_list<int> kept);

}  // namespace heterok8s::sys
