// Who runs: thread id, process id, and whether this is a vfork child that must not touch the parent's memory; and what
// the thread is in the middle of, should a signal handler jump out of it.
// Threading: any; each thread sees its own. Thread-local storage is initial-exec: no allocation, no call into ld.so.
//
//   thread_state.held.Push(&lock);      // before it is taken
//   ...
//   thread_state.held.Remove(&lock);    // after it was given back
#pragma once

#include <stdint.h>

#include <atomic>

#include "heterosock/lib/machine.h"

namespace heterok8s::heterosock {

// A lock, or a place among those that spin, that a frame of this thread's stack has or is about to take.
struct Held {
  const void* what = nullptr;  // the lock; null: counted as spinning
  uintptr_t stack = 0;         // the stack pointer then: a jump to a higher one leaves the frame
  bool resting = false;        // nothing is half done: a signal handler may use what the lock guards
  bool nested = false;         // by such a handler: the frame that it interrupted has the lock
};

// What a thread holds, innermost last. A handler that interrupts a change pushes and removes its own on top, so entries
// are written before they count.
class HeldList {
 public:
  static constexpr uint32_t kMost = 16;  // three locks nest, and handlers may interrupt handlers

  void Push(const void* what) {
    if (count_ < kMost) [[likely]]
      entries_[count_] = {what, StackPointer(), false, false};
    std::atomic_signal_fence(std::memory_order_seq_cst);
    ++count_;
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  // The innermost of `what`.
  void Remove(const void* what) {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    if (count_ > kMost) [[unlikely]] {
      --count_;
      return;
    }
    if (count_ > 0 && entries_[count_ - 1].what == what) [[likely]] {
      --count_;
      return;
    }
    for (uint32_t i = count_; i-- > 0;) {
      if (entries_[i].what != what) continue;
      for (uint32_t k = i; k + 1 < count_; ++k) entries_[k] = entries_[k + 1];
      --count_;
      return;
    }
  }
  // The innermost entry of `what`, or null.
  Held* Innermost(const void* what) {
    for (uint32_t i = Count(); i-- > 0;) {
      if (entries_[i].what == what) return &entries_[i];
    }
    return nullptr;
  }
  // The one that has the lock, as others of it are nested.
  Held* Outermost(const void* what) {
    for (uint32_t i = 0; i < Count(); ++i) {
      if (entries_[i].what == what) return &entries_[i];
    }
    return nullptr;
  }
  bool empty() const { return count_ == 0; }
  // Takes off the innermost as long as `left` says so of its stack pointer, and tells `gone` of each.
  template <typename Left, typename Gone>
  void Unwind(Left&& left, Gone&& gone) {
    if (count_ > kMost) count_ = kMost;
    while (count_ > 0 && left(entries_[count_ - 1].stack)) {
      const Held entry = entries_[--count_];
      gone(entry);
    }
  }

 private:
  uint32_t Count() const { return count_ < kMost ? count_ : kMost; }

  Held entries_[kMost];
  uint32_t count_ = 0;
};

struct ThreadState {
  uint32_t id = 0;
  // Set around vfork: the child runs in this very memory, so its wrappers only pass on to the kernel.
  uint32_t in_vfork = 0;
  HeldList held;
  uint32_t asleep = 0;        // places that it has among the sleepers of bells
  uintptr_t asleep_at = 0;    // the stack pointer at the first
  uint32_t unnamed = 0;       // of these without its name
  uint32_t waits_in = 0;      // the epoll instance that it is inside a wait of; 0: none
  uintptr_t waits_at = 0;     // and its stack pointer
  bool waits_asleep = false;  // in the kernel, and counted there
};

extern thread_local constinit ThreadState thread_state __attribute__((tls_model("initial-exec")));

inline uint32_t ThreadId() {
  if (thread_state.id == 0) [[unlikely]]
    thread_state.id = static_cast<uint32_t>(Syscall(SYS_gettid));
  return thread_state.id;
}

}  // namespace heterok8s::heterosock
