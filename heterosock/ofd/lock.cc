#include "heterosock/ofd/lock.h"

#include <signal.h>

namespace heterok8s::heterosock {

void SharedLock::FreeSlow(uint32_t word) {
  // Not repaired yet, or nobody had anything to repair: the next owner is told again.
  if (word & kLeft) word_.fetch_or(kLeft, std::memory_order_relaxed);
  if (word & kWaiters) FutexWake(&word_, 1);
}

bool SharedLock::AcquireSlow() {
  const uint32_t self = ThreadId();
  for (unsigned round = 0;; ++round) {
    uint32_t seen = word_.load(std::memory_order_relaxed);
    if (Owner(seen) == 0) {
      // Whoever came here may not be the last that waits, so the mark stays on.
      const uint32_t mine = (round < kSpins ? self : self | kWaiters) | seen;
      if (word_.compare_exchange_weak(seen, mine, std::memory_order_acquire, std::memory_order_relaxed)) return true;
      continue;
    }
    const uint32_t owner = Owner(seen);
    if (owner == self) {
      const Held* holder = thread_state.held.Outermost(this);
      if (holder == nullptr || !holder->resting) return false;
      if (Held* mine = thread_state.held.Innermost(this)) mine->nested = true;
      return true;
    }
    if (round < kSpins) {
      Relax();
      continue;
    }
    if (!(seen & kWaiters) && !word_.compare_exchange_weak(seen, seen | kWaiters, std::memory_order_relaxed)) continue;
    const timespec patience = {0, 10 * 1000 * 1000};  // how late the death of an owner may be noticed
    FutexWait(&word_, seen | kWaiters, &patience);
    if (Syscall(SYS_tkill, owner, 0) == -ESRCH) {
      uint32_t dead = word_.load(std::memory_order_relaxed);
      if (Owner(dead) == owner && word_.compare_exchange_strong(dead, self | kWaiters | kLeft,
                                                                std::memory_order_acquire, std::memory_order_relaxed))
        return true;
    }
  }
}

}  // namespace heterok8s::heterosock
