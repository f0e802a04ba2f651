#include "heterosock/hooks/raw_waits.h"

#include "heterosock/hooks/hook.h"
#include "heterosock/lib/real.h"

extern "C" int epoll_pwait2(int, epoll_event*, int, const timespec*, const sigset_t*);

namespace heterok8s::heterosock {
namespace {

// The kernel reads so many bytes of a mask, and refuses every other size.
constexpr size_t kMaskBytes = 8;

bool GoodMask(const sigset_t* mask, size_t bytes) { return mask == nullptr || bytes == kMaskBytes; }

long Argument(const volatile void* pointer) { return reinterpret_cast<long>(pointer); }

// Waits by `call` and leaves in `timeout` what is left of it, as poll_select_finish() does (fs/select.c). That forgives
// a timeout in memory that cannot be written, so it is written to by the kernel first.
template <typename Call>
long Waiting(timespec* timeout, Call&& call) {
  if (timeout == nullptr || (timeout->tv_sec == 0 && timeout->tv_nsec == 0)) return call();
  const uint64_t start = Nanoseconds();
  const long result = call();
  if (result < 0 && errno == EINVAL) return result;
  const int error = errno;
  const timespec given = *timeout;
  const uint64_t gone = Nanoseconds() - start;
  if (Syscall(SYS_clock_gettime, CLOCK_MONOTONIC, Argument(timeout)) != 0) return result;
  *timeout = LeftOf(given, gone);
  errno = error;
  return result;
}

}  // namespace

long PpollByNumber(pollfd* fds, nfds_t count, timespec* timeout, const sigset_t* mask, size_t mask_bytes) {
  if (!GoodMask(mask, mask_bytes) || (timeout != nullptr && NoAddress(timeout)) || PollIsKernels(fds, count))
    return real.syscall(SYS_ppoll, Argument(fds), static_cast<long>(count), Argument(timeout), Argument(mask),
                        static_cast<long>(mask_bytes), 0);
  const timespec given = timeout != nullptr ? *timeout : timespec{};
  return Waiting(timeout, [&] { return ppoll(fds, count, timeout != nullptr ? &given : nullptr, mask); });
}

long Pselect6ByNumber(int nfds, fd_set* in, fd_set* out, fd_set* except, timespec* timeout, const MaskAndSize* mask) {
  const bool readable = mask == nullptr || !NoAddress(mask);
  const MaskAndSize which = mask != nullptr && readable ? *mask : MaskAndSize{};
  if (!readable || !GoodMask(which.mask, which.bytes) || (timeout != nullptr && NoAddress(timeout)) ||
      SelectIsKernels(nfds, in, out, except))
    return real.syscall(SYS_pselect6, nfds, Argument(in), Argument(out), Argument(except), Argument(timeout),
                        Argument(mask));
  const timespec given = timeout != nullptr ? *timeout : timespec{};
  return Waiting(timeout,
                 [&] { return pselect(nfds, in, out, except, timeout != nullptr ? &given : nullptr, which.mask); });
}

long EpollPwait2ByNumber(int epfd, epoll_event* events, int max, const timespec* timeout, const sigset_t* mask,
                         size_t mask_bytes) {
  if (!GoodMask(mask, mask_bytes) || (timeout != nullptr && NoAddress(timeout)))
    return real.syscall(SYS_epoll_pwait2, epfd, Argument(events), max, Argument(timeout), Argument(mask),
                        static_cast<long>(mask_bytes));
  return epoll_pwait2(epfd, events, max, timeout, mask);
}

}  // namespace heterok8s::heterosock
