// A socket that holds a port of the other PU, so that bind() fails here as it would on one kernel.
//
// Purpose: TCP: bound, not listening, so a call that comes to it is refused. UDP: bound, and to the device lo, so that
// packets from the network and their steering never find it. Neither sets SO_REUSEADDR or SO_REUSEPORT, so no binder
// gets past it.
// Threading: any thread. Ownership: closing the descriptor frees the port; so does the end of this process.
// Errors: kAlreadyExists when a socket of this namespace has the port (a bound one, or a listener).
//
//   HK_ASSIGN_OR_RETURN(Placeholder held, HoldPort(key));  // in the Pod's namespace
#pragma once

#include <cstdint>

#include "common/sys/unique_fd.h"
#include "node-agent/ports/ports.h"

namespace heterok8s::ports {

struct Placeholder {
  sys::UniqueFd fd;
  uint64_t cookie = 0;  // by which a socket dump tells it from the Pod's own
};

// In the network namespace of the calling thread.
absl::StatusOr<Placeholder> HoldPort(const PortKey& key);

}  // namespace heterok8s::ports
