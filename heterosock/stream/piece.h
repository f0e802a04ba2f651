// Where bytes of a file pass on their way to the ring: not on the stack, of which a thread may have little. There are
// eight; who finds all of them taken has a page on the stack. A signal handler that jumps out of a call, or a thread
// that ends in one, keeps its piece.
//
// Threading: any; lock-free. A forked child has the one that its only thread is using, and gives the others back to
// itself: see PiecesAfterFork(). Ownership: a Piece lends its bytes for as long as it lives. Errors: none.
//
//   Piece piece;
//   const long got = Syscall(SYS_pread64, in, reinterpret_cast<long>(piece.data()), piece.size(), offset);
#pragma once

#include <stddef.h>

#include <atomic>

#include "heterosock/ofd/thread.h"

namespace heterok8s::heterosock {

class Piece {
 public:
  Piece() {
    const ThreadState* nobody = nullptr;
    for (int i = 0; i < kPieces && mine_ < 0; ++i, nobody = nullptr) {
      if (!owners_[i].compare_exchange_strong(nobody, &thread_state, std::memory_order_acquire)) continue;
      at_ = pieces_[i];
      mine_ = i;
    }
  }
  ~Piece() {
    if (mine_ >= 0) owners_[mine_].store(nullptr, std::memory_order_release);
  }
  Piece(const Piece&) = delete;
  Piece& operator=(const Piece&) = delete;

  char* data() { return at_; }
  size_t size() const { return mine_ >= 0 ? kPiece : kSmallPiece; }

 private:
  friend void PiecesAfterFork();

  static constexpr size_t kPiece = 32 << 10, kSmallPiece = 2 << 10;
  static constexpr int kPieces = 8;
  static inline constinit char pieces_[kPieces][kPiece] = {};
  // A thread's state lies at the same address in a forked child.
  static inline constinit std::atomic<const ThreadState*> owners_[kPieces] = {};

  char small_[kSmallPiece];
  char* at_ = small_;
  int mine_ = -1;
};

// In a forked child, before anything else there: the threads that had the other pieces are not in it. This thread may
// have forked in a signal handler, in the middle of a call that goes on with its piece.
inline void PiecesAfterFork() {
  for (std::atomic<const ThreadState*>& owner : Piece::owners_) {
    if (owner.load(std::memory_order_relaxed) != &thread_state) owner.store(nullptr, std::memory_order_relaxed);
  }
}

}  // namespace heterok8s::heterosock
