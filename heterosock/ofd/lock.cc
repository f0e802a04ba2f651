#include "heterosock/ofd/lock.h"

#include <signal.h>

namespace heterok8s::heterosock {

bool SharedLock::AcquireSlow() {
  const uint32_t self = ThreadId();
  for (unsigned round = 0;; ++round) {
    uint32_t seen = word_.load(std::memory_order_relaxed);
    if (seen == 0) {
      // Whoever came here may not be the last that waits, so the mark stays on.
      const uint32_t mine = round < kSpins ? self : self | kWaiters;
      if (word_.compare_exchange_weak(seen, mine, std::memory_order_acquire, std::memory_order_relaxed)) return true;
      continue;
    }
    const uint32_t owner = seen & ~kWaiters;
    if (owner == self) return false;
    if (round < kSpins) {
      Relax();
      continue;
    }
    if (!(seen & kWaiters) && !word_.compare_exchange_weak(seen, seen | kWaiters, std::memory_order_relaxed)) continue;
    const timespec patience = {0, 10 * 1000 * 1000};  // how late the death of an owner may be noticed
    FutexWait(&word_, owner | kWaiters, &patience);
    if (Syscall(SYS_tkill, owner, 0) == -ESRCH) {
      uint32_t dead = owner | kWaiters;
      if (word_.compare_exchange_strong(dead, self | kWaiters, std::memory_order_acquire, std::memory_order_relaxed))
        return true;
    }
  }
}

}  // namespace heterok8s::heterosock
