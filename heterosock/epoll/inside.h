// A thread that is in a wait of a set by calls of ours, for as long as this lives. Private to epoll/.
//
// Of waits in each other (a signal handler's) the outermost is known to jumps (lib/jump.h), which then call
// EpollLeaveWait().
//
// Threading: one thread's. Errors: none.
#pragma once

#include <stdint.h>

#include "heterosock/epoll/pool.h"
#include "heterosock/lib/process.h"
#include "heterosock/ofd/thread.h"

namespace heterok8s::heterosock {

class Inside {
 public:
  explicit Inside(uint32_t number) : number_(number), outermost_(thread_state.waits_in == 0) {
    Pool::InstanceAt(number).inside.Enter();
    if (!outermost_) return;
    thread_state.waits_at = StackPointer();
    thread_state.waits_in = number;
  }
  ~Inside() {
    if (outermost_) thread_state.waits_in = 0;
    Pool::InstanceAt(number_).inside.Leave(0);
  }
  // In the kernel, or back from it.
  void Sleeps(bool asleep) const {
    if (outermost_) thread_state.waits_asleep = asleep;
    if (asleep) NoteSleep();
  }

 private:
  const uint32_t number_;
  const bool outermost_;
};

}  // namespace heterok8s::heterosock
