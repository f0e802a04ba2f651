// Waiting for another end where TCP would wait for nobody: for bytes that come back from the ring when a socket ends,
// is handed on, or needs the kernel.
//
// Purpose: an end that does not answer has such a wait last as long as it may, with each of its connections. A moment
// of each wait is free. What is longer is taken from what the end's address has left, and from what all together have:
// a second in half a minute, and three. When that is spent the wait is over, and the connection reset where it cannot
// go on; an honest end is done within the free moment, unless it is out of luck just then.
// Threading: any; lock-free. A forked child begins with what its parent had left. Ownership: borrows the descriptor.
// Errors: none. Where the kernel does not tell an address it counts as one more address.
//
//   Patience patience(fd, 200'000'000);
//   while (!There()) {
//     if (!patience.Again()) return Break(index, fd, "it does not come");
//   }
#pragma once

#include <stdint.h>

namespace heterok8s::heterosock {

class Patience {
 public:
  Patience(int fd, uint64_t most_ns) : fd_(fd), most_ns_(most_ns) {}

  // Lets others run and returns true; or false, when it is time to give up.
  bool Again();
  // The same as of this moment on CLOCK_MONOTONIC, and nobody else runs.
  bool LastsAt(uint64_t now_ns);

 private:
  struct Budget;
  static Budget peers_[];
  static Budget all_;

  static Budget* BudgetOf(int fd);

  const int fd_;
  const uint64_t most_ns_;
  uint64_t began_ = 0;  // 0: not yet
  uint64_t paid_ = 0;   // up to when
  Budget* peer_ = nullptr;
};

}  // namespace heterok8s::heterosock
