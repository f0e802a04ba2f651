// Every system call that the library makes beside the program's own: what a filter that somebody else sets up for a
// program has to allow (heterosock/README.md has the list for its readers; own_calls_test.cc compares).
//
// Syscall() takes no other number: such a call does not compile. Those that libc makes for the library (sched_yield,
// clock_gettime without a vDSO, ppoll and its kin as cancellation points) are here too; symbols_test.cc knows every
// function of libc that the library names.
//
// Threading: constants.
//
//   Syscall(SYS_close, fd);   // `close` is in the list
#pragma once

#include <sys/syscall.h>

namespace heterok8s::heterosock {

#define HETEROSOCK_OWN_CALLS(X) \
  X(clock_gettime)              \
  X(close)                      \
  X(connect)                    \
  X(dup)                        \
  X(epoll_ctl)                  \
  X(epoll_pwait)                \
  X(epoll_pwait2)               \
  X(eventfd2)                   \
  X(fcntl)                      \
  X(fstat)                      \
  X(futex)                      \
  X(getpid)                     \
  X(getppid)                    \
  X(getrandom)                  \
  X(getsockopt)                 \
  X(gettid)                     \
  X(ioctl)                      \
  X(kill)                       \
  X(lseek)                      \
  X(madvise)                    \
  X(membarrier)                 \
  X(mmap)                       \
  X(munmap)                     \
  X(nanosleep)                  \
  X(openat)                     \
  X(ppoll)                      \
  X(pread64)                    \
  X(prlimit64)                  \
  X(pwritev2)                   \
  X(read)                       \
  X(recvfrom)                   \
  X(recvmsg)                    \
  X(rt_sigaction)               \
  X(rt_sigpending)              \
  X(rt_sigprocmask)             \
  X(rt_sigtimedwait)            \
  X(sched_getaffinity)          \
  X(sched_yield)                \
  X(sendmsg)                    \
  X(sendto)                     \
  X(setsockopt)                 \
  X(shutdown)                   \
  X(sigaltstack)                \
  X(socket)                     \
  X(splice)                     \
  X(tkill)                      \
  X(vmsplice)                   \
  X(waitid)                     \
  X(write)

// The number of one of them, known when it is compiled.
class OwnCall {
 public:
  consteval OwnCall(long number) : number_(number) {  // NOLINT: Syscall(SYS_close, ...)
#define HETEROSOCK_IS(name) number == SYS_##name ||
    if (!(HETEROSOCK_OWN_CALLS(HETEROSOCK_IS) false)) NotInTheList();
#undef HETEROSOCK_IS
  }
  constexpr long number() const { return number_; }

 private:
  static void NotInTheList();  // not a constant: what calls it does not compile

  long number_;
};

}  // namespace heterok8s::heterosock
