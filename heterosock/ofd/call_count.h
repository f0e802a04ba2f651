// Bytes moved through the kernel in one direction of a socket, and calls that are inside it, so that a connection moves
// only when nobody is.
//
// Nearly every connection is used by one thread, so the first one that calls owns a word that it alone writes, without
// a locked instruction. All others share a second word. The owner's Enter() is not ordered before what it reads next;
// who wants to know that nobody is inside has that order made for it, by membarrier(2), in Settle().
//
//   user of the socket                      who wants to move it
//     calls.Enter();                          phase = kArmed;
//     if (phase == kArmed) Leave(0), other    if (!calls.Settle() || calls.inside() != 0) phase = kPaired, later
//     ... the kernel ...                      ... nobody is inside, and nobody will be
//     calls.Leave(bytes);
//
// Threading: any, of every process that shares the slot; two processes never look at once (Slots::Alone()). Signal
// handlers may call what they interrupted.
#pragma once

#include <linux/membarrier.h>
#include <stdint.h>

#include <atomic>

#include "heterosock/lib/machine.h"
#include "heterosock/ofd/thread.h"

namespace heterok8s::heterosock {

class CallCount {
 public:
  // Asks the kernel for what Settle() needs; without it (before Linux 4.14, or refused) no word has an owner. While the
  // process has one thread this costs nothing, later it waits for milliseconds. Children have it by fork.
  static void Start() {
    has_owners_.store(Syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0,
                      std::memory_order_relaxed);
  }

  void Enter() {
    if (Mine() || Own()) [[likely]]
      return ChangeOwned(1);
    shared_.fetch_add(1, std::memory_order_seq_cst);
  }
  void Leave(long bytes) {
    const uint64_t by = (bytes > 0 ? static_cast<uint64_t>(bytes) << kShift : 0) - 1;
    if (Mine()) [[likely]]
      return ChangeOwned(by);
    shared_.fetch_add(by, std::memory_order_seq_cst);
  }
  // In a forked child, which has no call of its parent's.
  void Reset() {
    owned_.store(0, std::memory_order_relaxed);
    shared_.store(0, std::memory_order_relaxed);
    owner_.store(0, std::memory_order_relaxed);
  }
  void Add(uint64_t bytes) { shared_.fetch_add(bytes << kShift, std::memory_order_relaxed); }

  // After this, what inside() says holds for all calls that do not see what this thread stored before. False: the
  // kernel refuses, and only the owner can know.
  bool Settle() const {
    const uint32_t owner = owner_.load(std::memory_order_seq_cst);
    return owner == 0 || owner == ThreadId() || Syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0;
  }
  uint64_t bytes() const {
    return (owned_.load(std::memory_order_seq_cst) >> kShift) + (shared_.load(std::memory_order_seq_cst) >> kShift);
  }
  uint32_t inside() const {
    constexpr uint32_t kInside = (1u << kShift) - 1;
    return (owned_.load(std::memory_order_seq_cst) & kInside) + (shared_.load(std::memory_order_seq_cst) & kInside);
  }

 private:
  static constexpr int kShift = 16;

  bool Mine() const { return owner_.load(std::memory_order_relaxed) == ThreadId(); }

  // Never in Leave(): a call leaves the word that it entered.
  bool Own() {
    uint32_t nobody = 0;
    return owner_.load(std::memory_order_relaxed) == 0 && has_owners_.load(std::memory_order_relaxed) &&
           owner_.compare_exchange_strong(nobody, ThreadId(), std::memory_order_seq_cst);
  }

  void ChangeOwned(uint64_t by) {
#if defined(__x86_64__)
    // One instruction, so a signal comes before or after it; no other thread writes the word.
    asm volatile("addq %1, %0" : "+m"(reinterpret_cast<uint64_t&>(owned_)) : "er"(by) : "memory", "cc");
#else
    owned_.fetch_add(by, std::memory_order_release);
#endif
  }

  static inline constinit std::atomic<bool> has_owners_{false};

  std::atomic<uint64_t> owned_{0};
  std::atomic<uint64_t> shared_{0};
  std::atomic<uint32_t> owner_{0};  // thread id; 0: none yet, or never
};

}  // namespace heterok8s::heterosock
