// A lock in shared memory for the few users of one direction of a connection: threads of one process, or processes that
// share a socket by fork. Uncontended it is one compare-and-swap and one store.
//
// The word holds the owner's thread id. An owner may go without a word: it died (the kernel knows no such thread any
// more), or a signal handler jumped out of it (lib/jump.h tells us). The lock is then free again and Left(): whoever
// has it next puts right what the owner may have left half done, and says Repaired(). Where halves cannot be put right,
// signals are blocked meanwhile (lib/quiet.h).
//
// A thread that already holds the lock (a signal handler that interrupted us) is refused, because waiting for itself
// would never end; unless the frame that holds it says that it Rests(), and only waits for news.
//
//   if (!lock.Acquire()) return EAGAIN;
//   ... lock.Release();
//
// Threading: any, of every process that maps it.
#pragma once

#include "heterosock/lib/machine.h"
#include "heterosock/ofd/thread.h"

namespace heterok8s::heterosock {

class SharedLock {
 public:
  bool TryAcquire() {
    thread_state.held.Push(this);
    if (Take()) [[likely]]
      return true;
    thread_state.held.Remove(this);
    return false;
  }

  // False only when this thread holds it already.
  bool Acquire() {
    thread_state.held.Push(this);
    if (Take() || AcquireSlow()) [[likely]]
      return true;
    thread_state.held.Remove(this);
    return false;
  }

  void Release() {
    const Held* held = thread_state.held.Innermost(this);
    if (held == nullptr || !held->nested) [[likely]]
      Free();
    thread_state.held.Remove(this);
  }

  // The owner went in the middle. With the lock held.
  bool Left() const { return (word_.load(std::memory_order_relaxed) & kLeft) != 0; }
  void Repaired() { word_.fetch_and(~kLeft, std::memory_order_relaxed); }

  // With the lock held: until Rests(false), a signal handler of this thread may have it as well.
  void Rests(bool resting) {
    if (Held* held = thread_state.held.Innermost(this)) held->resting = resting;
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }

  // The frame that held it, or was about to, is left without returning.
  void Abandon() {
    if (HeldByMe() && thread_state.held.Innermost(this) == nullptr) Free(kLeft);
  }

  bool Taken() const { return Owner(word_.load(std::memory_order_seq_cst)) != 0; }
  bool HeldByMe() const { return Owner(word_.load(std::memory_order_relaxed)) == ThreadId(); }
  void Reset() { word_.store(0, std::memory_order_relaxed); }

 private:
  // Thread ids stay far below these (kernel: PID_MAX_LIMIT is 2^22).
  static constexpr uint32_t kWaiters = 1u << 31;
  static constexpr uint32_t kLeft = 1u << 30;

  static constexpr unsigned kSpins = 200;

  static constexpr uint32_t Owner(uint32_t word) { return word & ~(kWaiters | kLeft); }

  bool Take() {
    uint32_t free = 0;
    return word_.compare_exchange_strong(free, ThreadId(), std::memory_order_acquire, std::memory_order_relaxed);
  }
  void Free(uint32_t mark = 0) {
    const uint32_t word = word_.exchange(mark, std::memory_order_release);
    if ((word & (kWaiters | kLeft)) != 0) [[unlikely]]
      FreeSlow(word);
  }
  void FreeSlow(uint32_t word);
  bool AcquireSlow();

  std::atomic<uint32_t> word_{0};
};

}  // namespace heterok8s::heterosock
