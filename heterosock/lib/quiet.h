// No signal handler of the program runs on this thread while one of these lives: for changes of which a half would be
// wrong, because a handler may jump out of them. It costs two system calls, so it is for what is rare.
//
// What a fault of this thread raises stays open: blocked, the kernel would kill instead of calling the handler.
//
// Threading: one thread's. Nests. Cancellation and setuid of other threads (signals 32 and 33) wait for the end.
//
//   {
//     SignalsBlocked quiet;
//     ... bytes are read from TCP and counted
//   }
#pragma once

#include <signal.h>
#include <stdint.h>

#include <initializer_list>

#include "heterosock/lib/machine.h"

namespace heterok8s::heterosock {

class SignalsBlocked {
 public:
  SignalsBlocked() {
    Syscall(SYS_rt_sigprocmask, SIG_BLOCK, reinterpret_cast<long>(&kAll), reinterpret_cast<long>(&before_), 8);
  }
  ~SignalsBlocked() { Syscall(SYS_rt_sigprocmask, SIG_SETMASK, reinterpret_cast<long>(&before_), 0, 8); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  static constexpr uint64_t kAll = [] {
    uint64_t mask = ~uint64_t{0};
    for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT}) mask &= ~(uint64_t{1} << (fault - 1));
    return mask;
  }();

  uint64_t before_ = 0;
};

}  // namespace heterok8s::heterosock
