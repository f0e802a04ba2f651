// The epoll family. A set without connections in shared memory is the kernel's alone.
#include "heterosock/epoll/registry.h"
#include "heterosock/hooks/hook.h"
#include "heterosock/lib/real.h"

using namespace heterok8s::heterosock;  // NOLINT

namespace {

int Created(int epfd) {
  if (epfd < 0 || thread_state.in_vfork != 0) return epfd;
  Fresh(epfd);
  StartProcess();
  if (process.enabled.load(std::memory_order_relaxed)) EpollCreated(epfd);
  return epfd;
}

constexpr int64_t kForever = -1;

// A set without connections in shared memory is the kernel's, but one may move while a thread waits.
template <typename Native>
int Wait(int epfd, epoll_event* events, int max, int64_t timeout_ns, const sigset_t* mask, Native&& native) {
  const FdWord word = FdTable::Get(epfd);
  if (word.kind() != FdWord::kEpoll || thread_state.in_vfork != 0 || max <= 0 || NoAddress(events)) [[likely]]
    return native();
  NoticeFork();
  if (!EpollAttached(word.index())) {
    const uint64_t start = timeout_ns > 0 ? Nanoseconds() : 0;
    EpollPlainWait(word.index(), 1);
    int n = native();
    EpollPlainWait(word.index(), -1);
    if (n <= 0) return n;
    if (!EpollAttached(word.index())) [[likely]] {
      EpollReported(word.index(), events, n);
      return n;
    }
    n = EpollAdopt(word.index(), epfd, events, n, max);
    if (n != 0 || timeout_ns == 0) return n;
    if (timeout_ns > 0) {
      const int64_t gone = static_cast<int64_t>(Nanoseconds() - start);
      timeout_ns = gone < timeout_ns ? timeout_ns - gone : 0;
    }
  }
  return EpollWait(word.index(), epfd, events, max, timeout_ns, mask);
}

int64_t FromMilliseconds(int timeout_ms) { return timeout_ms < 0 ? kForever : int64_t{timeout_ms} * 1000000; }

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
  return Wait(epfd, events, max, FromMilliseconds(timeout_ms), nullptr,
              [&] { return real.epoll_wait(epfd, events, max, timeout_ms); });
}

HETEROSOCK_EXPORT int epoll_pwait(int epfd, epoll_event* events, int max, int timeout_ms, const sigset_t* mask) {
  return Wait(epfd, events, max, FromMilliseconds(timeout_ms), mask,
              [&] { return real.epoll_pwait(epfd, events, max, timeout_ms, mask); });
}

HETEROSOCK_EXPORT int epoll_pwait2(int epfd, epoll_event* events, int max, const timespec* timeout,
                                   const sigset_t* mask) {
  const auto native = [&] { return real.epoll_pwait2(epfd, events, max, timeout, mask); };
  if (timeout != nullptr && (timeout->tv_sec < 0 || timeout->tv_nsec < 0 || timeout->tv_nsec >= 1000000000))
    return native();
  return Wait(epfd, events, max,
              timeout == nullptr ? kForever : int64_t{timeout->tv_sec} * 1000000000 + timeout->tv_nsec, mask, native);
}
