// What the library knows about the process it lives in.
// Threading: fields say themselves. After fork the child's copy is put right by AfterForkInChild().
#pragma once

#include <stdint.h>

#include <atomic>

#include "heterosock/lib/machine.h"
#include "heterosock/ofd/lock.h"
#include "heterosock/upgrade/reason.h"

namespace heterok8s::heterosock {

// A set of slot numbers, used by the one thread that forks, or becomes another program.
class SlotSet {
 public:
  void Set(uint32_t index) {
    uint64_t& word = words_[index / 64];
    word |= uint64_t{1} << (index % 64);
    if (index / 64 >= high_) high_ = index / 64 + 1;
  }
  bool Has(uint32_t index) const { return (words_[index / 64] >> (index % 64) & 1) != 0; }
  template <typename F>
  void ForEach(F function) const {
    for (uint32_t i = 0; i < high_; ++i) {
      for (uint64_t word = words_[i]; word != 0; word &= word - 1)
        function(i * 64 + static_cast<uint32_t>(__builtin_ctzll(word)));
    }
  }
  void Clear() {
    for (uint32_t i = 0; i < high_; ++i) words_[i] = 0;
    high_ = 0;
  }

 private:
  uint64_t words_[65536 / 64] = {};
  uint32_t high_ = 0;
};

struct Process {
  uint32_t pid = 0;
  uint32_t parent = 0;               // that we were forked from since the library was loaded; 0: none
  uint32_t cpus = 1;                 // that this process may run on
  std::atomic<bool> enabled{false};  // sockets are tracked
  std::atomic<Reason> disabled_because{Reason::kNone};
  // The program has given up system calls: nothing makes any of its own for a connection that is on TCP.
  std::atomic<bool> restricted{false};
  // When it is time to look whether the agent is there still, for a process that needs nothing of it; due when a thread
  // slept after that.
  std::atomic<uint64_t> tend_at{0};  // Cycles()
  std::atomic<bool> agent_is_due{false};
  uint64_t cycles_per_us = 1000;
  // Evidence of life: so many writes and as many reads, or so many bytes. A one-shot exchange, however large its
  // answer, must not pay for an upgrade that comes when it is nearly over.
  uint64_t offer_bytes = 1 << 20;
  uint32_t offer_writes = 2;
  uint32_t keep_alive_s = 300;  // stream/keep_alive.h; 0: never
  char agent_path[108] = {};    // empty: the default
  // One page that the kernel empties in every child (MADV_WIPEONFORK): it tells of forks that nobody told us of. Null
  // before Linux 4.14, where nothing moves.
  std::atomic<uint32_t>* alive = nullptr;
  // One thread forks at a time; the slots of which the child will be a holder are marked meanwhile.
  SharedLock fork_lock;
  // In a child from the fork until it was noticed, where that lock may not tell: the child has been counted.
  bool counted_child = false;
  SlotSet fork_marks;
};
extern constinit Process process;

// Before a thread sleeps for connections in shared memory.
inline void NoteSleep() {
  if (Cycles() >= process.tend_at.load(std::memory_order_relaxed))
    process.agent_is_due.store(true, std::memory_order_relaxed);
}

// Reads the environment, once, before main or at the first tracked socket.
void StartProcess();
// Learns the rate of Cycles() once the process has lived long enough to tell; cheap afterwards.
void Calibrate();
// Puts the child's copy right: its ids, locks that other threads of the parent held, the parent's agent connection. A
// child that nobody counted (a bare system call made it) counts itself among the holders of its connections.
void AfterForkInChild();
// True in a process that was forked and in which NoticeFork() was not asked since.
inline bool ForkedUnnoticed() {
  return process.alive != nullptr && process.alive->load(std::memory_order_relaxed) == 0;
}
// True in a process that was forked since the last time. Then AfterForkInChild() has run. Asked before anything that
// slots, sets or locks are used for.
inline bool NoticeFork() {
  if (!ForkedUnnoticed()) [[likely]]
    return false;
  AfterForkInChild();
  return true;
}
// From here on no connection of this process moves to shared memory, and those that did come back: all of them have
// when this returns, also when another thread is at it.
void DisableProcess(Reason reason);

}  // namespace heterok8s::heterosock
