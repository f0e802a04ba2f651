// How long to look before sleeping. Looking is only worth what a wake-up costs, and never when it takes the CPU away
// from who we wait for.
//
// What a wake-up costs is measured: who rings stamps the time, who wakes compares. Until a process has seen its first,
// 20 us stand in for it: measuring one at the start would cost every program that is preloaded a thread and a sleep,
// and most have no connection. The budget of a wait is that cost while recent waits ended within it; a wait that did
// not takes an eighth of the willingness, and one during which this thread lost its CPU (throttled by its cgroup, or
// more runnable threads than CPUs) half of it. It is zero on one CPU, when the peer last ran on our CPU, and when as
// many threads of this process spin as it has CPUs but one. (Other processes' spinners show as a lost CPU.)
//
// Threading: Spinner is one thread's and lives for one wait; the learned values are shared and only ever advisory.
#pragma once

#include <stdint.h>

#include <atomic>

#include "heterosock/layout/channel.h"
#include "heterosock/lib/machine.h"

namespace heterok8s::heterosock {

struct SpinState {
  std::atomic<uint32_t> spinners{0};
  std::atomic<uint64_t> wake_cycles{0};  // EWMA of the cost of a wake-up; 0: nothing measured yet
  std::atomic<uint32_t> trust{256};      // 0..256: how often looking was worth it lately
  std::atomic<uint64_t> barred_until{0};
};
extern SpinState spin_state;

class Spinner {
 public:
  // peer_cpu: 1 + the CPU the peer last ran on, 0 when unknown.
  explicit Spinner(uint32_t peer_cpu);
  ~Spinner();
  Spinner(const Spinner&) = delete;
  Spinner& operator=(const Spinner&) = delete;

  // One pause. False when it is time to sleep.
  bool Again();
  // A signal handler jumped out of a wait of this thread that was counted.
  static void Abandon();
  // The wait is over because of what we looked for.
  void Succeeded() { succeeded_ = true; }

 private:
  uint64_t start_;
  uint64_t last_;
  uint64_t end_;
  bool counted_ = false;
  bool succeeded_ = false;
  bool robbed_ = false;
};

// This thread's CPU + 1, 0 when unknown.
uint32_t CurrentCpu();
// Tells the peer where this thread runs. Stored only when it changes: the peer reads the line each time it publishes.
inline void NoteCpu(layout::WaitLine& own) {
  const uint32_t cpu = CurrentCpu();
  if (own.cpu.load(std::memory_order_relaxed) != cpu) own.cpu.store(cpu, std::memory_order_relaxed);
}
// A sleeper woke that was rung for at `rang_at` (Cycles()).
void LearnWakeCost(uint64_t rang_at);

}  // namespace heterok8s::heterosock
