// poll, ppoll, select and pselect over any mixture of descriptors.
//
// Connections that are on TCP are the kernel's, but a thread that waits for one there counts as a call inside the
// kernel, so that the connection is not armed under it. For the others readiness is asked for here; before sleeping,
// their bells are polled in their place.
#include <string.h>
#include <sys/mman.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/hooks/hook.h"
#include "heterosock/hooks/transfer.h"
#include "heterosock/lib/real.h"
#include "heterosock/notify/bell.h"
#include "heterosock/notify/spin.h"

using namespace heterok8s::heterosock;  // NOLINT

namespace {

constexpr nfds_t kOnStack = 128;
constexpr uint64_t kKernelEveryUs = 5;

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
    notes_ = reinterpret_cast<uint32_t*>(expanded_ + 2 * count);
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
      notes_[entered++] = index;
      if (slot.phase.load(std::memory_order_seq_cst) == Phase::kArmed) armed = true;
    }
    const int result = armed ? kArmedMeanwhile : native();
    for (nfds_t i = 0; i < entered; ++i) Slots::Get(notes_[i]).rx.calls.Leave(0);
    return result;
  }
  static constexpr int kArmedMeanwhile = -2;

  int Run(const timespec* timeout, const sigset_t* mask) {
    if (expanded_ == nullptr) {
      errno = ENOMEM;
      return -1;
    }
    const bool forever = timeout == nullptr;
    const uint64_t wait =
        forever ? 0 : static_cast<uint64_t>(timeout->tv_sec) * 1000000000u + static_cast<uint64_t>(timeout->tv_nsec);
    const uint64_t end = Nanoseconds() + wait;
    bool last = !forever && wait == 0;
    bool patient = true;  // the first time: a program that waits for long is left alone
    for (;;) {
      int ready = Look();
      if (ready != 0 || last) return ready;
      if (mask == nullptr && Spin(&ready)) return ready;
      if (!Sleep(forever ? 0 : end, mask, patient)) return -1;
      patient = false;
      last = !forever && Nanoseconds() >= end;
    }
  }

 private:
  // Everybody's state now. The kernel is asked once for all that is its own.
  int Look() {
    int ready = LookAtOurs();
    bool others = false;
    for (nfds_t i = 0; i < count_; ++i) {
      const Kind kind = KindOf(fds_[i].fd);
      const bool ours = kind == Kind::kRing || (kind == Kind::kEpoll && fds_[i].revents != 0);
      expanded_[i] = {ours ? -1 : fds_[i].fd, fds_[i].events, 0};
      others = others || (!ours && fds_[i].fd >= 0);
    }
    if (!others) return ready;
    const timespec now = {};
    const long n = Syscall(SYS_ppoll, reinterpret_cast<long>(expanded_), static_cast<long>(count_),
                           reinterpret_cast<long>(&now), 0, 8);
    for (nfds_t i = 0; n > 0 && i < count_; ++i) {
      if (expanded_[i].fd < 0 || expanded_[i].revents == 0) continue;
      fds_[i].revents = Confirmed(expanded_[i]);
      ready += fds_[i].revents != 0;
    }
    return ready;
  }

  // What the kernel said, but for a set that it calls readable because of something of ours.
  static short Confirmed(const pollfd& said) {
    const uint32_t set = FdTable::Get(said.fd).index();
    if (KindOf(said.fd) != Kind::kEpoll || (said.revents & POLLIN) == 0 || !EpollTakeRings(set)) return said.revents;
    return EpollReady(set) ? POLLIN : PollNow(said.fd, said.events);
  }

  int LookAtOurs() {
    int ready = 0;
    for (nfds_t i = 0; i < count_; ++i) {
      fds_[i].revents = 0;
      const Kind kind = KindOf(fds_[i].fd);
      if (kind == Kind::kRing) {
        fds_[i].revents = Readiness(FdTable::Get(fds_[i].fd).index(), fds_[i].fd, fds_[i].events);
      } else if (kind == Kind::kEpoll && (fds_[i].events & POLLIN) != 0 &&
                 EpollReady(FdTable::Get(fds_[i].fd).index())) {
        fds_[i].revents = POLLIN;
      }
      ready += fds_[i].revents != 0;
    }
    return ready;
  }

  bool Spin(int* ready) {
    uint32_t cpu = 0;
    bool any = false;
    for (nfds_t i = 0; i < count_ && !any; ++i) {
      if (KindOf(fds_[i].fd) != Kind::kRing) continue;
      any = true;
      LocalChannel& channel = Slots::Local(FdTable::Get(fds_[i].fd).index());
      cpu = channel.peer().wait.cpu.load(std::memory_order_relaxed);
      NoteCpu(channel.own().wait);
    }
    if (!any) return false;
    Spinner spinner(cpu);
    uint64_t due = Cycles() + kKernelEveryUs * process.cycles_per_us;
    while (spinner.Again()) {
      *ready = LookAtOurs();
      if (*ready == 0 && Cycles() > due) {
        *ready = Look();
        due = Cycles() + kKernelEveryUs * process.cycles_per_us;
      }
      if (*ready == 0) continue;
      *ready = Look();
      spinner.Succeeded();
      return true;
    }
    return false;
  }

  // False with errno set when a signal came or the kernel refused.
  bool Sleep(uint64_t end, const sigset_t* mask, bool patient) {
    bool hurry = false, limited = false;
    nfds_t n = count_;
    for (nfds_t i = 0; i < count_; ++i) {
      const int fd = fds_[i].fd;
      expanded_[i] = {fd, fds_[i].events, 0};
      const Kind kind = KindOf(fd);
      if (kind == Kind::kCounted) {
        const uint32_t index = FdTable::Get(fd).index();
        Slots::Get(index).rx.calls.Enter();
        if (Slots::Get(index).phase.load(std::memory_order_seq_cst) == Phase::kArmed) hurry = true;
        expanded_[n++] = {-1, 0, 0};
        notes_[n - 1 - count_] = index << 1 | 1;
      } else if (kind == Kind::kRing) {
        const uint32_t index = FdTable::Get(fd).index();
        if (EnterBell(index)) EpollPoke(index);
        limited = ArmBell(index, fds_[i].events, patient) || limited;
        ServePeer(index, fd);
        if (Readiness(index, fd, fds_[i].events) != 0) hurry = true;
        // What the kernel says of a direction in shared memory is not news: its ends are, and of TCP what is asked.
        short events = 0;
        LocalChannel& channel = Slots::Local(index);
        const bool sends = Slots::Get(index).tx.mode.load() == Mode::kRing;
        if (fds_[i].events & (POLLIN | POLLRDNORM | POLLRDHUP)) events |= POLLIN | POLLRDHUP;
        if (!sends) events |= fds_[i].events & (POLLOUT | POLLWRNORM | POLLWRBAND);
        // An end that was not announced: whether it is a reset depends on what was left unread.
        if (sends && !(channel.peer().wait.flags.load() & layout::kFlagFin)) events |= POLLRDHUP;
        expanded_[i].events = events;
        expanded_[n++] = {channel.bell_dead ? -1 : channel.own_bell, POLLIN, 0};
        notes_[n - 1 - count_] = index << 1;
      } else if (kind == Kind::kEpoll && EpollReady(FdTable::Get(fd).index())) {
        hurry = true;
      }
    }
    timespec left = {};
    const uint64_t now = (end != 0 || limited) && !hurry ? Nanoseconds() : 0;
    if (limited && (end == 0 || end > now + bell::kPatienceNs)) end = now + bell::kPatienceNs;
    if (end != 0 && !hurry) {
      const uint64_t ns = now < end ? end - now : 0;
      left = {static_cast<time_t>(ns / 1000000000u), static_cast<long>(ns % 1000000000u)};
    }
    const int result = real.ppoll(expanded_, n, end != 0 || hurry ? &left : nullptr, mask);
    const int error = errno;
    for (nfds_t i = count_; i < n; ++i) {
      // Noted before: the descriptor table may have changed while the kernel waited.
      const uint32_t index = notes_[i - count_] >> 1;
      if (notes_[i - count_] & 1) {
        Slots::Get(index).rx.calls.Leave(0);
        continue;
      }
      LeaveBell(index);
      if (result > 0 && (expanded_[i].revents & (POLLIN | POLLHUP)) == POLLHUP) Slots::Local(index).bell_dead = true;
    }
    for (nfds_t i = 0; result > 0 && i < count_; ++i) {
      if (expanded_[i].revents != 0 && KindOf(fds_[i].fd) == Kind::kRing) {
        Slots::Get(FdTable::Get(fds_[i].fd).index()).rx.kernel_event.store(1, std::memory_order_relaxed);
      }
    }
    errno = error;
    return result >= 0;
  }

  size_t Bytes() const { return count_ * (2 * sizeof(pollfd) + sizeof(uint32_t)); }

  pollfd* fds_;
  const nfds_t count_;
  pollfd stack_[2 * kOnStack];
  uint32_t notes_on_stack_[kOnStack];
  pollfd* expanded_ = stack_;
  uint32_t* notes_ = notes_on_stack_;
};

// Most calls of most programs. Bad addresses are the kernel's too. (Not const: of a const one gcc believes that poll()
// only writes it.)
bool OnlyKernels(pollfd* fds, nfds_t count) {
  if (NoAddress(fds) || count > FdTable::kSize) return true;
  for (nfds_t i = 0; i < count; ++i) {
    const FdWord::Kind kind = FdTable::Get(fds[i].fd).kind();
    if (kind == FdWord::kStream || kind == FdWord::kEpoll) return false;
  }
  return true;
}

template <typename Native>
[[gnu::always_inline]] inline int Poll(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask,
                                       Native native) {
  // What the kernel would refuse goes to it.
  if ((NoAddress(fds) && count != 0) || count > FdTable::kSize) return native();
  if (timeout != nullptr && (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= 1000000000))
    return native();
  bool ring = false, counted = false;
  for (nfds_t i = 0; i < count; ++i) {
    const Kind kind = KindOf(fds[i].fd);
    counted = counted || kind == Kind::kCounted;
    ring = ring || kind == Kind::kRing || kind == Kind::kEpoll;
  }
  if ((!ring && !counted) || thread_state.in_vfork != 0) [[likely]]
    return native();
  NoticeFork();
  if (!ring) {
    const int result = Poller(fds, count).Counted(native);
    if (result != Poller::kArmedMeanwhile) return result;
  }
  return Poller(fds, count).Run(timeout, mask);
}

HETEROSOCK_OWN_FRAME int PollTracked(pollfd* fds, nfds_t count, int timeout_ms) {
  const timespec timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
  return Poll(fds, count, timeout_ms < 0 ? nullptr : &timeout, nullptr,
              [=] { return real.poll(fds, count, timeout_ms); });
}

HETEROSOCK_OWN_FRAME int PollTracked(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
  return Poll(fds, count, timeout, mask, [=] { return real.ppoll(fds, count, timeout, mask); });
}

inline int PollAny(pollfd* fds, nfds_t count, int timeout_ms) {
  return OnlyKernels(fds, count) ? real.poll(fds, count, timeout_ms) : PollTracked(fds, count, timeout_ms);
}
inline int PollAny(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
  return OnlyKernels(fds, count) ? real.ppoll(fds, count, timeout, mask) : PollTracked(fds, count, timeout, mask);
}

bool AnyStream(const fd_set* set, int nfds) {
  if (set == nullptr) return false;
  const unsigned long* words = reinterpret_cast<const unsigned long*>(set);
  constexpr int kBits = 8 * sizeof(unsigned long);
  for (int i = 0; i * kBits < nfds; ++i) {
    for (unsigned long word = words[i]; word != 0; word &= word - 1) {
      const int fd = i * kBits + __builtin_ctzl(word);
      if (fd < nfds && KindOf(fd) != Kind::kKernel) return true;
    }
  }
  return false;
}

// select() in terms of poll(), with the kernel's own table of what counts as readable, writable and exceptional
// (select(2)). `timeout` says what is left in `left`, as Linux's select does.
template <typename Native>
int Select(int nfds, fd_set* in, fd_set* out, fd_set* except, const timespec* timeout, const sigset_t* mask,
           timespec* left, Native&& native) {
  if (nfds < 0 || nfds > FD_SETSIZE || !(AnyStream(in, nfds) || AnyStream(out, nfds) || AnyStream(except, nfds)) ||
      thread_state.in_vfork != 0) [[likely]] {
    return native();
  }
  pollfd fds[FD_SETSIZE];
  nfds_t count = 0;
  for (int fd = 0; fd < nfds; ++fd) {
    short events = 0;
    if (in != nullptr && FD_ISSET(fd, in)) events |= POLLIN | POLLRDNORM | POLLRDBAND;
    if (out != nullptr && FD_ISSET(fd, out)) events |= POLLOUT | POLLWRNORM | POLLWRBAND;
    if (except != nullptr && FD_ISSET(fd, except)) events |= POLLPRI;
    if (events != 0) fds[count++] = {fd, events, 0};
  }
  const uint64_t start = Nanoseconds();
  const int n = PollTracked(fds, count, timeout, mask);
  if (timeout != nullptr) {
    const uint64_t wait =
        static_cast<uint64_t>(timeout->tv_sec) * 1000000000u + static_cast<uint64_t>(timeout->tv_nsec);
    const uint64_t gone = Nanoseconds() - start;
    const uint64_t rest = gone < wait ? wait - gone : 0;
    *left = {static_cast<time_t>(rest / 1000000000u), static_cast<long>(rest % 1000000000u)};
  }
  if (n < 0) return n;
  for (nfds_t i = 0; i < count; ++i) {
    if (!(fds[i].revents & POLLNVAL)) continue;
    errno = EBADF;
    return -1;
  }
  int bits = 0;
  const auto answer = [&](fd_set* set, int fd, bool is) {
    if (set == nullptr || !FD_ISSET(fd, set)) return;
    if (is)
      ++bits;
    else
      FD_CLR(fd, set);
  };
  for (nfds_t i = 0; i < count; ++i) {
    const short revents = fds[i].revents;
    answer(in, fds[i].fd, (revents & (POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR)) != 0);
    answer(out, fds[i].fd, (revents & (POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR)) != 0);
    answer(except, fds[i].fd, (revents & POLLPRI) != 0);
  }
  return bits;
}

}  // namespace

HETEROSOCK_EXPORT int poll(pollfd* fds, nfds_t count, int timeout_ms) { return PollAny(fds, count, timeout_ms); }
HETEROSOCK_EXPORT int __poll(pollfd* fds, nfds_t count, int timeout_ms) __attribute__((alias("poll")));

HETEROSOCK_EXPORT int __poll_chk(pollfd* fds, nfds_t count, int timeout_ms, size_t bytes) {
  if (bytes / sizeof *fds < count) return real.__poll_chk(fds, count, timeout_ms, bytes);
  return PollAny(fds, count, timeout_ms);
}

HETEROSOCK_EXPORT int ppoll(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
  return PollAny(fds, count, timeout, mask);
}

HETEROSOCK_EXPORT int __ppoll_chk(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask,
                                  size_t bytes) {
  if (bytes / sizeof *fds < count) return real.__ppoll_chk(fds, count, timeout, mask, bytes);
  return PollAny(fds, count, timeout, mask);
}

HETEROSOCK_EXPORT int select(int nfds, fd_set* in, fd_set* out, fd_set* except, timeval* timeout) {
  timespec wait = {}, left = {};
  if (timeout != nullptr) wait = {timeout->tv_sec + timeout->tv_usec / 1000000, timeout->tv_usec % 1000000 * 1000};
  if (timeout != nullptr && (timeout->tv_sec < 0 || timeout->tv_usec < 0))
    return real.select(nfds, in, out, except, timeout);
  bool native = false;
  const int result = Select(nfds, in, out, except, timeout == nullptr ? nullptr : &wait, nullptr, &left, [&] {
    native = true;
    return real.select(nfds, in, out, except, timeout);
  });
  if (!native && timeout != nullptr) *timeout = {left.tv_sec, left.tv_nsec / 1000};
  return result;
}
HETEROSOCK_EXPORT int __select(int nfds, fd_set* in, fd_set* out, fd_set* except, timeval* timeout)
    __attribute__((alias("select")));

HETEROSOCK_EXPORT int pselect(int nfds, fd_set* in, fd_set* out, fd_set* except, const timespec* timeout,
                              const sigset_t* mask) {
  timespec left = {};
  return Select(nfds, in, out, except, timeout, mask, &left,
                [&] { return real.pselect(nfds, in, out, except, timeout, mask); });
}
