// What both directions need to wait: deadlines, signals, the kernel's view of a descriptor.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/time.h>

#include "heterosock/lib/real.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {

short PollNow(int fd, short events) {
  pollfd entry = {fd, events, 0};
  const timespec now = {};
  const long n = Syscall(SYS_ppoll, reinterpret_cast<long>(&entry), 1, reinterpret_cast<long>(&now), 0, 8);
  return n == 1 ? entry.revents : 0;
}

bool TcpEnded(int fd) {
  // TCP_TIME_WAIT, and those behind it (include/net/tcp_states.h; linux/tcp.h does not have it). Listeners, among them,
  // are not connections.
  constexpr uint8_t kTimeWait = 6;
  uint8_t state = 0;  // the first field of tcp_info
  socklen_t length = sizeof state;
  Syscall(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, reinterpret_cast<long>(&state), reinterpret_cast<long>(&length));
  return state >= kTimeWait;
}

bool ReadingShut(int fd) { return (PollNow(fd, POLLRDHUP) & POLLRDHUP) != 0 && !TcpEnded(fd); }

int PollTwo(pollfd* sources, nfds_t count, const timespec* timeout) {
  const int before = errno;
  const int n = real.ppoll(sources, count, timeout, nullptr);
  if (n >= 0 || errno != EINVAL) [[likely]]
    return n;
  const auto cut = [timeout](const timespec& most) {
    return timeout != nullptr && timeout->tv_sec == 0 && timeout->tv_nsec < most.tv_nsec ? *timeout : most;
  };
  const timespec look = cut({0, 20'000'000}), soon = cut({0, 5'000'000});
  if (count == 1 || real.ppoll(&sources[1], 1, &look, nullptr) < 0) {
    const long slept = errno == EINVAL ? Syscall(SYS_nanosleep, reinterpret_cast<long>(&soon)) : -errno;
    if (slept < 0) {
      errno = static_cast<int>(-slept);
      return -1;
    }
  }
  errno = before;
  sources[0].revents = sources[0].events;
  return 1;
}

bool MayBlock(Slot& slot, int fd) {
  const long flags = Syscall(SYS_fcntl, fd, F_GETFL);
  const bool nonblocking = flags >= 0 && (flags & O_NONBLOCK) != 0;
  slot.nonblocking.store(nonblocking, std::memory_order_relaxed);
  return !nonblocking;
}

bool CallRestarts() {
  // ppoll() is never restarted, recv() and send() are when the handler has SA_RESTART (signal(7)). Which handler ran
  // cannot be told; where a program's handlers disagree it is told of the signal. Handlers of faults do not count.
  bool any = false;
  for (int number = 1; number < SIGRTMAX; ++number) {
    if (number == SIGKILL || number == SIGSTOP || number == SIGSEGV || number == SIGBUS || number == SIGFPE ||
        number == SIGILL || number == SIGABRT || number == SIGTRAP || number == SIGSYS || number == 32 ||
        number == 33) {
      continue;
    }
    struct {  // the kernel's struct sigaction; libc's function may itself be wrapped
      void (*handler)(int);
      unsigned long flags;
      void (*restorer)();
      unsigned long mask;
    } action = {};
    if (Syscall(SYS_rt_sigaction, number, 0, reinterpret_cast<long>(&action), 8) != 0) continue;
    if (action.handler == SIG_DFL || action.handler == SIG_IGN) continue;
    any = true;
    if ((action.flags & SA_RESTART) == 0) return false;
  }
  return any;
}

void Deadline::Ask() {
  if (asked_) return;
  asked_ = true;
  timeval limit = {};
  socklen_t length = sizeof limit;
  if (Syscall(SYS_getsockopt, fd_, SOL_SOCKET, option_, reinterpret_cast<long>(&limit),
              reinterpret_cast<long>(&length)) != 0)
    return;
  if (limit.tv_sec == 0 && limit.tv_usec == 0) return;
  end_ = EndOf(ToNanoseconds({limit.tv_sec, limit.tv_usec * 1000}));
}

bool Deadline::Set() {
  Ask();
  return end_ != 0;
}

bool Deadline::Expired() { return Set() && Nanoseconds() >= end_; }

const timespec* Deadline::Left(timespec* to) {
  if (!Set()) return nullptr;
  const uint64_t now = Nanoseconds();
  const uint64_t left = now < end_ ? end_ - now : 0;
  *to = {static_cast<time_t>(left / 1000000000u), static_cast<long>(left % 1000000000u)};
  return to;
}

}  // namespace heterok8s::heterosock
