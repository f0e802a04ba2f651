#include "heterosock/notify/spin.h"

#include "heterosock/lib/process.h"
#include "heterosock/ofd/thread.h"

namespace heterok8s::heterosock {

SpinState spin_state;

namespace {
constexpr uint64_t kFirstGuessUs = 20;  // until a wake-up was measured
constexpr uint64_t kMostUs = 50;        // a wake-up that takes longer is a scheduling delay, not a cost
constexpr uint64_t kRobbedUs = 20;      // between two looks: somebody else had the CPU
constexpr uint64_t kBarUs = 2000;       // no looking for so long after being robbed
constexpr uint64_t kGraceUs = 1;        // who is about to stop spinning takes this long to say so

uint64_t Budget() {
  const uint64_t per_us = process.cycles_per_us;
  uint64_t cost = spin_state.wake_cycles.load(std::memory_order_relaxed);
  if (cost == 0) cost = kFirstGuessUs * per_us;
  if (cost > kMostUs * per_us) cost = kMostUs * per_us;
  return cost * spin_state.trust.load(std::memory_order_relaxed) / 256;
}
}  // namespace

uint32_t CurrentCpu() {
#if defined(__x86_64__)
  // IA32_TSC_AUX holds the CPU in its low 12 bits (Linux: vdso getcpu). rdtscp is on every x86-64 server of this
  // century.
  unsigned aux;
  __builtin_ia32_rdtscp(&aux);
  return (aux & 0xfff) + 1;
#else
  const int cpu = sched_getcpu();
  return cpu < 0 ? 0 : static_cast<uint32_t>(cpu) + 1;
#endif
}

Spinner::Spinner(uint32_t peer_cpu) : start_(Cycles()), last_(start_), end_(start_) {
  if (process.cpus < 2) return;
  if (start_ < spin_state.barred_until.load(std::memory_order_relaxed)) return;
  if (peer_cpu != 0 && peer_cpu == CurrentCpu()) return;
  thread_state.held.Push(nullptr);
  // Two that hand over to each other overlap for a moment: the limit is looked at again for a microsecond.
  const uint64_t grace = start_ + kGraceUs * process.cycles_per_us;
  for (;;) {
    const uint32_t others = spin_state.spinners.fetch_add(1, std::memory_order_relaxed);
    if (others + 1 < process.cpus) break;
    spin_state.spinners.fetch_sub(1, std::memory_order_relaxed);
    if (Cycles() > grace) {
      thread_state.held.Remove(nullptr);
      return;
    }
    Relax();
  }
  counted_ = true;
  if (Held* held = thread_state.held.Innermost(nullptr)) held->resting = true;
  end_ = start_ + Budget();
}

Spinner::~Spinner() {
  if (!counted_) return;
  thread_state.held.Remove(nullptr);
  spin_state.spinners.fetch_sub(1, std::memory_order_relaxed);
  uint32_t trust = spin_state.trust.load(std::memory_order_relaxed);
  if (robbed_) {
    spin_state.barred_until.store(last_ + kBarUs * process.cycles_per_us, std::memory_order_relaxed);
    trust /= 2;
  } else if (succeeded_) {
    trust += (256 - trust) / 4 + 1;
    if (trust > 256) trust = 256;
  } else {
    trust -= trust / 8;
  }
  // A little stays, or it would never be tried again.
  spin_state.trust.store(trust < 16 ? 16 : trust, std::memory_order_relaxed);
}

void Spinner::Abandon() { spin_state.spinners.fetch_sub(1, std::memory_order_relaxed); }

bool Spinner::Again() {
  if (!counted_) return false;
  Relax();
  const uint64_t now = Cycles();
  if (now - last_ > kRobbedUs * process.cycles_per_us) {
    robbed_ = true;
    last_ = now;
    return false;
  }
  last_ = now;
  return now < end_;
}

void LearnWakeCost(uint64_t rang_at) {
  const uint64_t now = Cycles();
  if (rang_at == 0 || now <= rang_at) return;
  const uint64_t cost = now - rang_at;
  if (cost > 1000 * process.cycles_per_us) return;  // the stamp of an earlier ring
  const uint64_t before = spin_state.wake_cycles.load(std::memory_order_relaxed);
  spin_state.wake_cycles.store(before == 0 ? cost : before - before / 8 + cost / 8, std::memory_order_relaxed);
}

}  // namespace heterok8s::heterosock
