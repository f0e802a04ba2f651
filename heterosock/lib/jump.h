// Where a jump out of a signal handler leads, and what it leaves behind.
//
// A program may leave recv() by siglongjmp() from a handler (POSIX allows it for functions that are safe in handlers,
// and recv() and send() are). To Linux that is nothing special; here a lock may be held, or a place among the sleepers.
// The hooks of the longjmp family (hooks/jumps.cc) tell us of every such jump before it is done.
//
// Threading: the calling thread's own state. Errors: a stack that cannot be told apart is taken for one that stays, so
// a lock is rather stuck than held twice. Left unnoticed: exceptions thrown by a handler, setcontext().
//
//   LeaveFrames(JumpTarget::Of(env));
#pragma once

#include <stdint.h>

namespace heterok8s::heterosock {

// What a jump unwinds.
class JumpTarget {
 public:
  static JumpTarget Of(const void* jmp_buf);
  // The thread ends: nothing stays.
  static JumpTarget End() { return JumpTarget(~uintptr_t{0}, 0, 0); }

  // Whether a frame with this stack pointer is gone after the jump.
  bool Leaves(uintptr_t stack) const {
    const bool from_alternate = stack - low_ < bytes_, to_alternate = to_ - low_ < bytes_;
    return from_alternate == to_alternate ? stack < to_ : from_alternate;
  }

 private:
  JumpTarget(uintptr_t to, uintptr_t low, uintptr_t bytes) : to_(to), low_(low), bytes_(bytes) {}

  uintptr_t to_;
  uintptr_t low_;    // the alternate stack of handlers (sigaltstack)
  uintptr_t bytes_;  // 0: none
};

// Lets go of everything that the frames which the jump leaves hold.
void LeaveFrames(const JumpTarget& target);

}  // namespace heterok8s::heterosock
