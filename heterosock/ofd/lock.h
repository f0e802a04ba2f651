// A lock in shared memory for the few users of one direction of a connection: threads of one process, or processes that
// share a socket by fork. Uncontended it is one compare-and-swap and one store.
//
// The word holds the owner's thread id. An owner that died is noticed by who waits (the kernel knows no such thread any
// more) and the lock is taken over; what it guards must be consistent after every single store. A thread that already
// holds the lock (a signal handler that interrupted us) is refused, because waiting for itself would never end.
//
//   if (!lock.Acquire()) return EAGAIN;
//   ... lock.Release();
#pragma once

#include "heterosock/lib/machine.h"
#include "heterosock/ofd/thread.h"

namespace heterok8s::heterosock {

class SharedLock {
 public:
  bool TryAcquire() {
    uint32_t free = 0;
    return word_.compare_exchange_strong(free, ThreadId(), std::memory_order_acquire, std::memory_order_relaxed);
  }

  // False only when this thread holds it already.
  bool Acquire() {
    if (TryAcquire()) [[likely]]
      return true;
    return AcquireSlow();
  }

  void Release() {
    if (word_.exchange(0, std::memory_order_release) & kWaiters) [[unlikely]]
      FutexWake(&word_, 1);
  }

  bool HeldByMe() const { return (word_.load(std::memory_order_relaxed) & ~kWaiters) == ThreadId(); }
  void Reset() { word_.store(0, std::memory_order_relaxed); }

 private:
  static constexpr uint32_t kWaiters = 1u << 31;  // thread ids stay far below it (kernel: PID_MAX_LIMIT is 2^22)

  static constexpr unsigned kSpins = 200;

  bool AcquireSlow();

  std::atomic<uint32_t> word_{0};
};

}  // namespace heterok8s::heterosock
