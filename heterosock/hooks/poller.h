// Waiting by poll() for connections of which some lie in shared memory.
//
// Connections that are on TCP are the kernel's, but a thread that waits for one there counts as a call inside the
// kernel, so that the connection is not armed under it. For the others readiness is asked for here; before sleeping,
// their bells are polled in their place.
//
// Threading: lives for one call, on its thread; another thread may close what is polled. Ownership: borrows the
// program's array. Errors: as poll().
//
//   const int result = Poller(fds, count).Run(timeout, mask);
#pragma once

#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/ofd/fd_table.h"
#include "heterosock/ofd/slot.h"

namespace heterok8s::heterosock {

enum class Kind : uint8_t { kKernel, kCounted, kRing, kEpoll };

inline Kind KindOf(int fd) {
  const FdWord word = FdTable::Get(fd);
  if (word.kind() == FdWord::kStream) {
    const Slot& slot = Slots::Get(word.index());
    switch (slot.phase.load(std::memory_order_relaxed)) {
      case Phase::kNever:
        return Kind::kKernel;
      case Phase::kArmed:
        return Slots::Local(word.index()).page != nullptr ? Kind::kRing : Kind::kKernel;
      default:
        return Kind::kCounted;
    }
  }
  return word.kind() == FdWord::kEpoll && EpollAttached(word.index()) ? Kind::kEpoll : Kind::kKernel;
}

class Poller {
 public:
  Poller(pollfd* fds, nfds_t count) : fds_(fds), count_(count) {
    if (count <= kOnStack) return;
    const long at =
        Syscall(SYS_mmap, 0, static_cast<long>(Bytes()), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expanded_ = at < 0 && at > -4096 ? nullptr : reinterpret_cast<pollfd*>(at);
    notes_ = reinterpret_cast<Note*>(expanded_ + 2 * count);
  }
  ~Poller() {
    if (count_ > kOnStack && expanded_ != nullptr)
      Syscall(SYS_munmap, reinterpret_cast<long>(expanded_), static_cast<long>(Bytes()));
  }

  // Connections on TCP only: the program's own call, counted.
  template <typename Native>
  [[gnu::always_inline]] int Counted(Native native) {
    if (expanded_ == nullptr) return native();
    nfds_t entered = 0;
    bool armed = false;
    for (nfds_t i = 0; i < count_; ++i) {
      if (KindOf(fds_[i].fd) != Kind::kCounted) continue;
      const uint32_t index = FdTable::Get(fds_[i].fd).index();
      Slot& slot = Slots::Get(index);
      slot.rx.calls.Enter();
      notes_[entered++] = {index, Note::kOnTcp, false};
      if (slot.phase.load(std::memory_order_seq_cst) == Phase::kArmed) armed = true;
    }
    const int result = armed ? kArmedMeanwhile : native();
    for (nfds_t i = 0; i < entered; ++i) Slots::Get(notes_[i].index).rx.calls.Leave(0);
    return result;
  }
  static constexpr int kArmedMeanwhile = -2;

  // kKernels, and what is left of a timeout in `left`: nothing of them is ours any more, so the program's call is
  // right.
  int Run(const timespec* timeout, const sigset_t* mask, timespec* left);
  static constexpr int kKernels = -3;

 private:
  static constexpr nfds_t kOnStack = 128;

  // Of a connection for which this call sleeps; the descriptor table may change meanwhile.
  struct Note {
    static constexpr uint32_t kOnTcp = ~0u;
    uint32_t index;
    uint32_t at;  // its place in the program's array, or kOnTcp
    bool tells;   // the bell tells of all that is waited for but the other end's death
    bool counted() const { return at == kOnTcp; }
  };

  int Look();
  bool OnlyKernels() const;
  static short Confirmed(const pollfd& said);
  int LookAtOurs();
  bool Spin(int* ready);
  bool Sleep(uint64_t end, const sigset_t* mask, bool patient);
  bool GiveWay();
  void LeaveToBells(nfds_t n);
  int SleepPacked(nfds_t n, const timespec* timeout, const sigset_t* mask);
  size_t Bytes() const { return count_ * (2 * sizeof(pollfd) + sizeof(Note)); }

  pollfd* fds_;
  const nfds_t count_;
  pollfd stack_[2 * kOnStack];
  Note notes_on_stack_[kOnStack];
  pollfd* expanded_ = stack_;
  Note* notes_ = notes_on_stack_;

  // The kernel takes no more entries than RLIMIT_NOFILE (do_sys_poll() in fs/select.c), and a program may have as many.
  enum class Crowd : uint8_t {
    kNone,
    kPacked,  // entries of no descriptor, as of a table by number, are left out
    kBells,   // bells take the places of sockets, which are looked at now and then
  };
  Crowd crowd_ = Crowd::kNone;
};

}  // namespace heterok8s::heterosock
