// poll, ppoll, select and pselect over any mixture of descriptors.
#include "heterosock/hooks/hook.h"
#include "heterosock/hooks/poller.h"
#include "heterosock/lib/real.h"
#include "heterosock/upgrade/upgrade.h"

#include <initializer_list>
#include <limits>

using namespace heterok8s::heterosock;  // NOLINT

namespace {

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

// `native`: the program's own call, for so long.
template <typename Native>
[[gnu::always_inline]] inline int Poll(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask,
                                       Native native) {
  // What the kernel would refuse goes to it.
  if ((NoAddress(fds) && count != 0) || count > FdTable::kSize) return native(timeout);
  if (timeout != nullptr && (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= 1000000000))
    return native(timeout);
  bool ring = false, counted = false;
  for (nfds_t i = 0; i < count; ++i) {
    const Kind kind = KindOf(fds[i].fd);
    counted = counted || kind == Kind::kCounted;
    ring = ring || kind == Kind::kRing || kind == Kind::kEpoll;
  }
  if ((!ring && !counted) || thread_state.in_vfork != 0) [[likely]]
    return native(timeout);
  NoticeFork();
  if (!ring) {
    const int result = Poller(fds, count).Counted([=] { return native(timeout); });
    if (result != Poller::kArmedMeanwhile) return result;
  }
  timespec left = {};
  const int result = Poller(fds, count).Run(timeout, mask, &left);
  return result == Poller::kKernels ? native(timeout != nullptr ? &left : nullptr) : result;
}

HETEROSOCK_OWN_FRAME int PollMany(pollfd* fds, nfds_t count, int timeout_ms) {
  const timespec timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000000L};
  return Poll(fds, count, timeout_ms < 0 ? nullptr : &timeout, nullptr, [=](const timespec* wait) {
    const int ms =
        wait == nullptr ? timeout_ms : static_cast<int>(wait->tv_sec * 1000 + (wait->tv_nsec + 999999) / 1000000);
    return real.poll(fds, count, ms);
  });
}

HETEROSOCK_OWN_FRAME int PollMany(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
  return Poll(fds, count, timeout, mask, [=](const timespec* wait) { return real.ppoll(fds, count, wait, mask); });
}

// Most sets have one connection, and it is on TCP: counted without the Poller and its arrays. Whatever is different
// goes to PollMany(). The set is an array (OnlyKernels() is false). `sleeps`: it may.
template <typename... Rest>
[[gnu::always_inline]] inline int PollOne(bool sleeps, int (*native)(pollfd*, nfds_t, Rest...), pollfd* fds,
                                          nfds_t count, Rest... rest) {
  Slot* only = nullptr;
  for (nfds_t i = 0; i < count; ++i) {
    const FdWord word = FdTable::Get(fds[i].fd);
    if (word.kind() == FdWord::kEpoll) return PollMany(fds, count, rest...);
    if (word.kind() != FdWord::kStream) continue;
    Slot& slot = Slots::Get(word.index());
    const Phase phase = slot.phase.load(std::memory_order_relaxed);
    if (phase == Phase::kNever) continue;
    if (phase == Phase::kArmed || only != nullptr) return PollMany(fds, count, rest...);
    only = &slot;
  }
  // Who only looks holds up no move: what the kernel says was so when this began.
  if (only == nullptr || !sleeps || thread_state.in_vfork != 0) return native(fds, count, rest...);
  if (ForkedUnnoticed()) return PollMany(fds, count, rest...);
  only->rx.calls.Enter();
  if (only->phase.load(std::memory_order_seq_cst) == Phase::kArmed) [[unlikely]] {
    only->rx.calls.Leave(0);
    return PollMany(fds, count, rest...);
  }
  const int result = native(fds, count, rest...);
  only->rx.calls.Leave(0);
  return result;
}

HETEROSOCK_OWN_FRAME int PollTracked(pollfd* fds, nfds_t count, int timeout_ms) {
  return PollOne(timeout_ms != 0, real.poll, fds, count, timeout_ms);
}

HETEROSOCK_OWN_FRAME int PollTracked(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
  return PollOne(true, real.ppoll, fds, count, timeout, mask);
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

// Programs that make larger sets than an fd_set wait by the kernel alone, for what is on TCP.
void FenceSet(const fd_set* set, int nfds) {
  for (int fd = 0; set != nullptr && fd < nfds && fd <= FdTable::High(); ++fd) {
    constexpr int kBits = 8 * sizeof(unsigned long);
    const unsigned long word = reinterpret_cast<const unsigned long*>(set)[fd / kBits];
    uint32_t slot;
    if ((word >> (fd % kBits) & 1) != 0 && StreamOf(fd, &slot)) FenceAndSettle(slot, fd, Reason::kLargeSet);
  }
}

// select() in terms of poll(), with the kernel's own table of what counts as readable, writable and exceptional
// (select(2)). `timeout` says what is left in `left`, as Linux's select does.
template <typename Native>
int Select(int nfds, fd_set* in, fd_set* out, fd_set* except, const timespec* timeout, const sigset_t* mask,
           timespec* left, Native&& native) {
  if (nfds > FD_SETSIZE) [[unlikely]] {
    for (const fd_set* set : {in, out, except}) FenceSet(NoAddress(set) ? nullptr : set, nfds);
  }
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
  const int n = PollMany(fds, count, timeout, mask);
  if (timeout != nullptr) {
    const uint64_t wait = ToNanoseconds(*timeout);
    const uint64_t gone = Nanoseconds() - start;
    const uint64_t rest = gone < wait ? wait - gone : 0;
    *left = {static_cast<time_t>(rest / 1000000000u), static_cast<long>(rest % 1000000000u)};
    if (wait == kLongestNs) *left = *timeout;  // for ever stays so
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

namespace heterok8s::heterosock {
bool PollIsKernels(pollfd* fds, nfds_t count) { return OnlyKernels(fds, count); }
bool SelectIsKernels(int nfds, const fd_set* in, const fd_set* out, const fd_set* except) {
  for (const fd_set* set : {in, out, except}) {
    if (!NoAddress(set) && AnyStream(set, nfds)) return false;
  }
  return nfds <= FD_SETSIZE;
}
}  // namespace heterok8s::heterosock

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
  if (timeout != nullptr) {
    wait.tv_nsec = timeout->tv_usec % 1000000 * 1000;
    if (__builtin_add_overflow(timeout->tv_sec, timeout->tv_usec / 1000000, &wait.tv_sec))
      wait.tv_sec = std::numeric_limits<time_t>::max();
  }
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
