// Who runs: thread id, process id, and whether this is a vfork child that must not touch the parent's memory.
// Threading: any; each thread sees its own. Thread-local storage is initial-exec: no allocation, no call into ld.so.
#pragma once

#include <stdint.h>

#include "heterosock/lib/machine.h"

namespace heterok8s::heterosock {

struct ThreadState {
  uint32_t id = 0;
  // Set around vfork: the child runs in this very memory, so its wrappers only pass on to the kernel.
  uint32_t in_vfork = 0;
  uint32_t crowded = 0;  // times that it counts in a slot's bell_crowd
};

extern thread_local constinit ThreadState thread_state __attribute__((tls_model("initial-exec")));

inline uint32_t ThreadId() {
  if (thread_state.id == 0) [[unlikely]]
    thread_state.id = static_cast<uint32_t>(Syscall(SYS_gettid));
  return thread_state.id;
}

}  // namespace heterok8s::heterosock
