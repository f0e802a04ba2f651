// The epoll family. A set without connections in shared memory is the kernel's alone.
#include "heterosock/epoll/pool.h"
#include "heterosock/epoll/registry.h"
#include "heterosock/hooks/hook.h"
#include "heterosock/lib/real.h"

using namespace heterok8s::heterosock;  // NOLINT

namespace {

int Created(int epfd) {
  if (epfd < 0 || thread_state.in_vfork != 0) return epfd;
  Fresh(epfd);
  StartProcess();
  if (!process.enabled.load(std::memory_order_relaxed)) return epfd;
  EpollCreated(epfd);
  // Another thread that gives up system calls may not have seen it.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!process.enabled.load()) ForgetFd(epfd);
  return epfd;
}

constexpr int64_t kForever = -1;

int64_t FromMilliseconds(int timeout_ms) { return timeout_ms < 0 ? kForever : int64_t{timeout_ms} * 1000000; }
int ToMilliseconds(int64_t ns) { return ns < 0 ? -1 : static_cast<int>((ns + 999999) / 1000000); }

// What is left of a timeout that began at `start` (nanoseconds).
int64_t Left(int64_t timeout_ns, uint64_t start) {
  if (timeout_ns <= 0) return timeout_ns;
  const int64_t gone = static_cast<int64_t>(Nanoseconds() - start);
  return gone < timeout_ns ? timeout_ns - gone : 0;
}

// Or had, and was given back to the kernel.
bool HasRings(uint32_t number) {
  const Instance& instance = Pool::InstanceAt(number);
  return instance.attached.load(std::memory_order_relaxed) != 0 || instance.retired.load(std::memory_order_relaxed) ||
         (instance.nested_count.load(std::memory_order_relaxed) != 0 && EpollAttached(number));
}

// In a set that has rings. `native`: the program's own call, for so long; right once the set is the kernel's again.
template <typename Native>
HETEROSOCK_OWN_FRAME int WaitInRings(uint32_t number, int epfd, epoll_event* events, int max, int64_t timeout_ns,
                                     const sigset_t* mask, Native native) {
  for (;;) {
    if (const int waited = EpollWait(number, epfd, events, max, &timeout_ns, mask); waited != kEpollRetired)
      return waited;
    const uint64_t start = timeout_ns > 0 ? Nanoseconds() : 0;
    const int n = native(timeout_ns);
    const int kept = n > 0 ? EpollWithoutOurs(events, n) : n;
    if (kept != 0 || n == 0 || timeout_ns == 0) return kept;
    timeout_ns = Left(timeout_ns, start);
  }
}

// A plain wait that began at `start` reported n > 0 events, and connections moved meanwhile.
template <typename Native>
HETEROSOCK_OWN_FRAME int WaitOn(uint32_t number, int epfd, epoll_event* events, int n, int max, int64_t timeout_ns,
                                uint64_t start, const sigset_t* mask, Native native) {
  n = EpollRetired(number) ? EpollWithoutOurs(events, n) : EpollAdopt(number, epfd, events, n, max);
  if (n != 0 || timeout_ns == 0) return n;
  return WaitInRings(number, epfd, events, max, Left(timeout_ns, start), mask, native);
}

// A set without connections in shared memory is the kernel's, but one may move while a thread waits: who waits is
// counted, so that it is woken then. `native`: the program's own call, for so long.
template <typename Native>
[[gnu::always_inline]] inline int Wait(int epfd, epoll_event* events, int max, int64_t timeout_ns, const sigset_t* mask,
                                       Native native) {
  const FdWord word = FdTable::Get(epfd);
  if (word.kind() != FdWord::kEpoll || thread_state.in_vfork != 0 || max <= 0 || NoAddress(events)) [[unlikely]]
    return native(timeout_ns);
  NoticeFork();
  const uint32_t number = word.index();
  if (HasRings(number)) return WaitInRings(number, epfd, events, max, timeout_ns, mask, native);
  const uint64_t start = timeout_ns > 0 ? Nanoseconds() : 0;
  Instance& instance = Pool::InstanceAt(number);
  instance.plain.Enter();
  if (HasRings(number)) [[unlikely]] {
    instance.plain.Leave(0);
    return WaitInRings(number, epfd, events, max, timeout_ns, mask, native);
  }
  const int n = native(timeout_ns);
  instance.plain.Leave(0);
  if (n <= 0) return n;
  if (HasRings(number)) [[unlikely]]
    return WaitOn(number, epfd, events, n, max, timeout_ns, start, mask, native);
  if (instance.nested_count.load(std::memory_order_relaxed) != 0) EpollReported(number, events, n);
  return n;
}

bool IsSet(int fd) { return FdTable::Get(fd).kind() == FdWord::kEpoll; }

HETEROSOCK_OWN_FRAME int WaitInSet(int epfd, epoll_event* events, int max, int timeout_ms) {
  return Wait(epfd, events, max, FromMilliseconds(timeout_ms), nullptr,
              [=](int64_t ns) { return real.epoll_wait(epfd, events, max, ToMilliseconds(ns)); });
}

HETEROSOCK_OWN_FRAME int WaitInSet(int epfd, epoll_event* events, int max, int timeout_ms, const sigset_t* mask) {
  return Wait(epfd, events, max, FromMilliseconds(timeout_ms), mask,
              [=](int64_t ns) { return real.epoll_pwait(epfd, events, max, ToMilliseconds(ns), mask); });
}

}  // namespace

HETEROSOCK_EXPORT int epoll_create(int size) { return Created(real.epoll_create(size)); }
HETEROSOCK_EXPORT int epoll_create1(int flags) { return Created(real.epoll_create1(flags)); }

HETEROSOCK_EXPORT int epoll_ctl(int epfd, int operation, int fd, epoll_event* event) {
  const FdWord word = FdTable::Get(epfd);
  if (word.kind() != FdWord::kEpoll || thread_state.in_vfork != 0) return real.epoll_ctl(epfd, operation, fd, event);
  NoticeFork();
  return EpollControl(word.index(), epfd, operation, fd, event);
}

HETEROSOCK_EXPORT int epoll_wait(int epfd, epoll_event* events, int max, int timeout_ms) {
  return IsSet(epfd) ? WaitInSet(epfd, events, max, timeout_ms) : real.epoll_wait(epfd, events, max, timeout_ms);
}

HETEROSOCK_EXPORT int epoll_pwait(int epfd, epoll_event* events, int max, int timeout_ms, const sigset_t* mask) {
  return IsSet(epfd) ? WaitInSet(epfd, events, max, timeout_ms, mask)
                     : real.epoll_pwait(epfd, events, max, timeout_ms, mask);
}

HETEROSOCK_EXPORT int epoll_pwait2(int epfd, epoll_event* events, int max, const timespec* timeout,
                                   const sigset_t* mask) {
  if (timeout != nullptr && (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= 1000000000))
    return real.epoll_pwait2(epfd, events, max, timeout, mask);
  const int64_t given = timeout == nullptr ? kForever : static_cast<int64_t>(ToNanoseconds(*timeout));
  return Wait(epfd, events, max, given, mask, [=](int64_t ns) {
    const timespec left = {static_cast<time_t>(ns / 1000000000), static_cast<long>(ns % 1000000000)};
    return real.epoll_pwait2(epfd, events, max, ns == given ? timeout : &left, mask);
  });
}
