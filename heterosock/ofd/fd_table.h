// What each file descriptor number of this process is to us: one atomic word per number, zero for "not ours".
//
// Threading: any; lock-free. Survives fork by copy. Numbers beyond the table are never ours.
// A word that is wrong would send a program's bytes to another connection, so every wrapper that makes a descriptor
// clears it.
//
//   FdWord word = FdTable::Get(fd);
//   if (word.kind() == FdWord::kStream) Send(word.index(), fd, ...);
#pragma once

#include <stdint.h>

#include <atomic>

namespace heterok8s::heterosock {

class FdWord {
 public:
  enum Kind : uint32_t {
    kNone = 0,
    kStream = 1,    // a TCP socket that is or may become a connection; index() is its slot
    kListener = 2,  // a listening TCP socket
    kEpoll = 3,     // an epoll instance; index() is its number
    kHidden = 4,    // our own: the program must not see it
    kOther = 5,     // looked at and found to be nothing of ours; index() unused
  };

  constexpr FdWord() = default;
  constexpr explicit FdWord(uint32_t raw) : raw_(raw) {}
  constexpr FdWord(Kind kind, uint32_t index) : raw_(kind << 28 | index) {}

  constexpr Kind kind() const { return static_cast<Kind>(raw_ >> 28); }
  constexpr uint32_t index() const { return raw_ & 0x0fffffff; }
  constexpr uint32_t raw() const { return raw_; }

 private:
  uint32_t raw_ = 0;
};

class FdTable {
 public:
  static constexpr unsigned kSize = 1u << 20;  // the usual hard limit of RLIMIT_NOFILE; untouched pages cost nothing

  static FdWord Get(int fd) {
    if (static_cast<unsigned>(fd) >= kSize) [[unlikely]]
      return FdWord();
    return FdWord(words_[fd].load(std::memory_order_relaxed));
  }
  static void Set(int fd, FdWord word) {
    if (static_cast<unsigned>(fd) >= kSize) return;
    words_[fd].store(word.raw(), std::memory_order_release);
    if (word.kind() == FdWord::kStream) Raise(high_, fd);
    if (word.raw() != 0) Raise(top_, fd);
  }
  static FdWord Take(int fd) {
    if (static_cast<unsigned>(fd) >= kSize) return FdWord();
    return FdWord(words_[fd].exchange(0, std::memory_order_acq_rel));
  }
  // Not any more, unless it has become something else meanwhile.
  static void Clear(int fd, FdWord was) {
    uint32_t raw = was.raw();
    words_[fd].compare_exchange_strong(raw, 0, std::memory_order_acq_rel);
  }
  // The lowest number that means this connection, or -1. Looks at all of them.
  static int Find(uint32_t stream) {
    for (int fd = 0; fd <= High(); ++fd) {
      if (Get(fd).raw() == FdWord(FdWord::kStream, stream).raw()) return fd;
    }
    return -1;
  }
  // No number above it was ever a stream.
  static int High() { return high_.load(std::memory_order_relaxed); }
  // No number from it on was ever anything of ours: who walks farther reads, and so maps, pages of zeros.
  static unsigned End() { return static_cast<unsigned>(top_.load(std::memory_order_relaxed) + 1); }

 private:
  static void Raise(std::atomic<int>& mark, int fd) {
    int high = mark.load(std::memory_order_relaxed);
    while (fd > high && !mark.compare_exchange_weak(high, fd)) {
    }
  }

  static inline constinit std::atomic<uint32_t> words_[kSize] = {};
  static inline constinit std::atomic<int> high_{-1};
  static inline constinit std::atomic<int> top_{-1};
};

}  // namespace heterok8s::heterosock
