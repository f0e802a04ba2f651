// What differs between instruction sets, and the system calls that libc has no old symbol for.
// Threading: any. Nothing here allocates, locks or sets errno unless it says so.
#pragma once

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>

#include "heterosock/lib/own_calls.h"

namespace heterok8s::heterosock {

inline void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

// A counter of constant rate that is cheap to read. Equal on all CPUs of a machine; see CyclesPerMicrosecond().
inline uint64_t Cycles() {
#if defined(__x86_64__)
  return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
  uint64_t value;
  asm volatile("mrs %0, cntvct_el0" : "=r"(value));
  return value;
#endif
}

inline uint64_t Nanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

// A time limit, and when one ends that begins now. One that is too large for the kernel's clock is for ever, as there
// (timespec64_add_safe() in kernel/time/time.c saturates), and fits an int64_t. `limit` is valid and not negative.
inline constexpr uint64_t kLongestNs = 9'000'000'000'000'000'000;
inline uint64_t ToNanoseconds(const timespec& limit) {
  constexpr time_t kMost = kLongestNs / 1'000'000'000 - 1;
  if (limit.tv_sec >= kMost) return kLongestNs;
  return static_cast<uint64_t>(limit.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(limit.tv_nsec);
}
// What is left of one after so many nanoseconds.
inline timespec LeftOf(const timespec& limit, uint64_t gone) {
  const int64_t nanoseconds = limit.tv_nsec - static_cast<int64_t>(gone % 1'000'000'000);
  const int64_t seconds = limit.tv_sec - static_cast<int64_t>(gone / 1'000'000'000) - (nanoseconds < 0 ? 1 : 0);
  if (seconds < 0) return {};
  return {static_cast<time_t>(seconds), static_cast<long>(nanoseconds < 0 ? nanoseconds + 1'000'000'000 : nanoseconds)};
}
inline uint64_t EndOf(uint64_t wait) {
  const uint64_t now = Nanoseconds();
  return wait < kLongestNs - now ? now + wait : kLongestNs;
}

// Where this function's frame ends now.
inline uintptr_t StackPointer() {
  uintptr_t value;
#if defined(__x86_64__)
  asm volatile("movq %%rsp, %0" : "=r"(value));
#elif defined(__aarch64__)
  asm volatile("mov %0, sp" : "=r"(value));
#endif
  return value;
}

// Orders an earlier store before a later load: both sides of an eventcount need it.
// On x86 a locked add is cheaper than mfence and as strong for ordinary memory.
inline void FullFence() {
#if defined(__x86_64__)
  asm volatile("lock addl $0, -8(%%rsp)" ::: "memory", "cc");
#else
  std::atomic_thread_fence(std::memory_order_seq_cst);
#endif
}

// System calls without libc's wrappers: they cannot be hooked (not by us, not by others) and are no cancellation
// points. Result as the kernel gives it: -errno on failure; errno is untouched.
inline long BareSyscall(long number, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
#if defined(__x86_64__)
  long result;
  register long r10 asm("r10") = d;
  register long r8 asm("r8") = e;
  register long r9 asm("r9") = f;
  asm volatile("syscall"
               : "=a"(result)
               : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
               : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 asm("x8") = number;
  register long x0 asm("x0") = a;
  register long x1 asm("x1") = b;
  register long x2 asm("x2") = c;
  register long x3 asm("x3") = d;
  register long x4 asm("x4") = e;
  register long x5 asm("x5") = f;
  asm volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
#endif
}

// What the library makes beside the program is one of a list.
inline long Syscall(OwnCall call, long a = 0, long b = 0, long c = 0, long d = 0, long e = 0, long f = 0) {
  return BareSyscall(call.number(), a, b, c, d, e, f);
}

// For threads of several processes. Returns after a wake, a change, a signal or the timeout.
inline void FutexWait(std::atomic<uint32_t>* word, uint32_t expected, const timespec* timeout) {
  Syscall(SYS_futex, reinterpret_cast<long>(word), FUTEX_WAIT, expected, reinterpret_cast<long>(timeout));
}
inline void FutexWake(std::atomic<uint32_t>* word, int count) {
  Syscall(SYS_futex, reinterpret_cast<long>(word), FUTEX_WAKE, count);
}

}  // namespace heterok8s::heterosock
