// The kernel's clocks in nanoseconds: CLOCK_MONOTONIC is that of BPF programs and of PortChange::epoch_ns.
//
// Threading: any thread. Ownership, errors: none.
//
//   const uint64_t age_ns = MonotonicNs() - event.time_ns;
#pragma once

#include <time.h>

#include <cstdint>

namespace heterok8s::ports {

inline uint64_t ReadClock(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}
inline uint64_t MonotonicNs() { return ReadClock(CLOCK_MONOTONIC); }
// What this thread has used, so that a CPU it has to wait for does not count as its own.
inline uint64_t CpuNs() { return ReadClock(CLOCK_THREAD_CPUTIME_ID); }
inline uint64_t RealNs() { return ReadClock(CLOCK_REALTIME); }

}  // namespace heterok8s::ports
