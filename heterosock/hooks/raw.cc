// syscall(2) with the numbers that matter, and io_uring, which reads and writes sockets where nobody can see it.
#include <fcntl.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "heterosock/hooks/hook.h"
#include "heterosock/hooks/raw_waits.h"
#include "heterosock/lib/real.h"
#include "heterosock/upgrade/upgrade.h"

using namespace heterok8s::heterosock;  // NOLINT

// musl's headers lack them.
extern "C" int close_range(unsigned, unsigned, int);
extern "C" ssize_t preadv2(int, const iovec*, int, off_t, int);
extern "C" ssize_t pwritev2(int, const iovec*, int, off_t, int);

namespace {

// The kernel reads and writes the sockets itself: what the other ends have sent must lie there before it begins.
void LeaveToRing() {
  DisableProcess(Reason::kIoUring);
  SettleAll();
}

// struct clone_args of linux/sched.h: the flags are its first word, the stack its sixth (clone(2)).
bool ForksWithoutStack(const uint64_t* arguments, long bytes) {
  return !NoAddress(arguments) && bytes >= 64 && (arguments[0] & CLONE_VM) == 0 && arguments[5] == 0;
}

// liburing makes its system calls itself; its start is the last moment we see.
template <typename F>
F BeforeRing(const char* name) {
  LeaveToRing();
  return reinterpret_cast<F>(NextFunction(name));
}

// What gives a descriptor to another number, or on to the next program.
bool HandsOn(long number, long b) {
  switch (number) {
    case SYS_dup:
    case SYS_dup3:
#ifdef SYS_dup2
    case SYS_dup2:
#endif
      return true;
    case SYS_fcntl:
      return b == F_DUPFD || b == F_DUPFD_CLOEXEC || b == F_SETFD;
    case SYS_ioctl:
      return static_cast<IoctlRequest>(b) == FIONCLEX;
    default:
      return false;
  }
}

}  // namespace

HETEROSOCK_EXPORT long syscall(long number, ...) {
  va_list arguments;
  va_start(arguments, number);
  const long a = va_arg(arguments, long);
  const long b = va_arg(arguments, long);
  const long c = va_arg(arguments, long);
  const long d = va_arg(arguments, long);
  const long e = va_arg(arguments, long);
  const long f = va_arg(arguments, long);
  va_end(arguments);
  // The new image reads what it inherits as it likes, also when a vfork child starts it.
  if (number == SYS_execve || number == SYS_execveat) return ExecBySystemCall(number, a, b, c, d, e, f);
  // A child of vfork has the kernel's answers; but a connection that it hands on goes to TCP first.
  if (thread_state.in_vfork != 0 && !HandsOn(number, b)) return real.syscall(number, a, b, c, d, e, f);
  const int fd = static_cast<int>(a);
  const bool ours = FdTable::Get(fd).raw() != 0;
  switch (number) {
    case SYS_read:
      return ours ? read(fd, reinterpret_cast<void*>(b), static_cast<size_t>(c))
                  : real.syscall(number, a, b, c, d, e, f);
    case SYS_write:
      return ours ? write(fd, reinterpret_cast<void*>(b), static_cast<size_t>(c))
                  : real.syscall(number, a, b, c, d, e, f);
    case SYS_readv:
      return readv(fd, reinterpret_cast<iovec*>(b), static_cast<int>(c));
    case SYS_writev:
      return writev(fd, reinterpret_cast<iovec*>(b), static_cast<int>(c));
    case SYS_recvfrom:
      return recvfrom(fd, reinterpret_cast<void*>(b), static_cast<size_t>(c), static_cast<int>(d),
                      reinterpret_cast<sockaddr*>(e), reinterpret_cast<socklen_t*>(f));
    case SYS_sendto:
      return sendto(fd, reinterpret_cast<void*>(b), static_cast<size_t>(c), static_cast<int>(d),
                    reinterpret_cast<sockaddr*>(e), static_cast<socklen_t>(f));
    case SYS_recvmsg:
      return recvmsg(fd, reinterpret_cast<msghdr*>(b), static_cast<int>(c));
    case SYS_sendmsg:
      return sendmsg(fd, reinterpret_cast<msghdr*>(b), static_cast<int>(c));
    case SYS_preadv2:
      return preadv2(fd, reinterpret_cast<iovec*>(b), static_cast<int>(c), d, static_cast<int>(f));
    case SYS_pwritev2:
      return pwritev2(fd, reinterpret_cast<iovec*>(b), static_cast<int>(c), d, static_cast<int>(f));
    case SYS_recvmmsg:
      return recvmmsg(fd, reinterpret_cast<mmsghdr*>(b), static_cast<unsigned>(c), static_cast<MmsgFlags>(d),
                      reinterpret_cast<timespec*>(e));
    case SYS_sendmmsg:
      return sendmmsg(fd, reinterpret_cast<mmsghdr*>(b), static_cast<unsigned>(c), static_cast<MmsgFlags>(d));
    case SYS_sendfile:
      return sendfile(fd, static_cast<int>(b), reinterpret_cast<off_t*>(c), static_cast<size_t>(d));
    case SYS_splice:
      return splice(fd, reinterpret_cast<off_t*>(b), static_cast<int>(c), reinterpret_cast<off_t*>(d),
                    static_cast<size_t>(e), static_cast<unsigned>(f));
    case SYS_shutdown:
      return shutdown(fd, static_cast<int>(b));
    case SYS_listen:
      return listen(fd, static_cast<int>(b));
    case SYS_connect:
      return connect(fd, reinterpret_cast<sockaddr*>(b), static_cast<socklen_t>(c));
    case SYS_setsockopt:
      return setsockopt(fd, static_cast<int>(b), static_cast<int>(c), reinterpret_cast<void*>(d),
                        static_cast<socklen_t>(e));
    case SYS_getsockopt:
      return getsockopt(fd, static_cast<int>(b), static_cast<int>(c), reinterpret_cast<void*>(d),
                        reinterpret_cast<socklen_t*>(e));
    case SYS_ioctl:
      return ioctl(fd, static_cast<IoctlRequest>(b), c);
    case SYS_ppoll:
      return PpollByNumber(reinterpret_cast<pollfd*>(a), static_cast<nfds_t>(b), reinterpret_cast<timespec*>(c),
                           reinterpret_cast<sigset_t*>(d), static_cast<size_t>(e));
    case SYS_pselect6:
      return Pselect6ByNumber(fd, reinterpret_cast<fd_set*>(b), reinterpret_cast<fd_set*>(c),
                              reinterpret_cast<fd_set*>(d), reinterpret_cast<timespec*>(e),
                              reinterpret_cast<MaskAndSize*>(f));
    case SYS_epoll_pwait2:
      return EpollPwait2ByNumber(fd, reinterpret_cast<epoll_event*>(b), static_cast<int>(c),
                                 reinterpret_cast<timespec*>(d), reinterpret_cast<sigset_t*>(e),
                                 static_cast<size_t>(f));
    case SYS_openat:
    case SYS_eventfd2:
    case SYS_timerfd_create:
    case SYS_memfd_create:
      return Fresh(static_cast<int>(real.syscall(number, a, b, c, d, e, f)));
    case SYS_pipe2:
      return pipe2(reinterpret_cast<int*>(a), static_cast<int>(b));
    case SYS_socketpair:
      return socketpair(fd, static_cast<int>(b), static_cast<int>(c), reinterpret_cast<int*>(d));
    case SYS_close:
      return close(fd);
    case SYS_close_range:
      return close_range(static_cast<unsigned>(a), static_cast<unsigned>(b), static_cast<int>(c));
    case SYS_socket:
      return socket(fd, static_cast<int>(b), static_cast<int>(c));
    case SYS_accept4:
      return accept4(fd, reinterpret_cast<sockaddr*>(b), reinterpret_cast<socklen_t*>(c), static_cast<int>(d));
    case SYS_dup:
      return dup(fd);
    case SYS_dup3:
      return dup3(fd, static_cast<int>(b), static_cast<int>(c));
    case SYS_fcntl:
      return fcntl(fd, static_cast<int>(b), c);
    case SYS_epoll_create1:
      return epoll_create1(fd);
    case SYS_epoll_ctl:
      return epoll_ctl(fd, static_cast<int>(b), static_cast<int>(c), reinterpret_cast<epoll_event*>(d));
    case SYS_epoll_pwait:
      return epoll_pwait(fd, reinterpret_cast<epoll_event*>(b), static_cast<int>(c), static_cast<int>(d),
                         reinterpret_cast<sigset_t*>(e));
#ifdef SYS_epoll_wait
    case SYS_accept:
      return accept(fd, reinterpret_cast<sockaddr*>(b), reinterpret_cast<socklen_t*>(c));
    case SYS_dup2:
      return dup2(fd, static_cast<int>(b));
    case SYS_poll:
      return poll(reinterpret_cast<pollfd*>(a), static_cast<nfds_t>(b), static_cast<int>(c));
    case SYS_select:
      if (SelectIsKernels(fd, reinterpret_cast<fd_set*>(b), reinterpret_cast<fd_set*>(c), reinterpret_cast<fd_set*>(d)))
        break;
      return select(fd, reinterpret_cast<fd_set*>(b), reinterpret_cast<fd_set*>(c), reinterpret_cast<fd_set*>(d),
                    reinterpret_cast<timeval*>(e));
    case SYS_epoll_create:
      return epoll_create(fd);
    case SYS_open:
      return Fresh(static_cast<int>(real.syscall(number, a, b, c, d, e, f)));
    case SYS_epoll_wait:
      if (!ours) break;
      return epoll_wait(fd, reinterpret_cast<epoll_event*>(b), static_cast<int>(c), static_cast<int>(d));
#endif
#ifdef SYS_fork
    case SYS_fork:
      return ForkBySystemCall(number, a, b, c, d, e, f);
#endif
    case SYS_clone:
      if ((a & CLONE_VM) == 0 && b == 0) return ForkBySystemCall(number, a, b, c, d, e, f);
      break;
    case SYS_clone3:
      if (ForksWithoutStack(reinterpret_cast<const uint64_t*>(a), b)) return ForkBySystemCall(number, a, b, c, d, e, f);
      break;
    case SYS_io_uring_setup:
      LeaveToRing();
      break;
    case SYS_io_submit:
      BeforeSubmit(b, reinterpret_cast<iocb**>(c));
      break;
    case SYS_prctl:
      return prctl(fd, b, c, d, e);
    case SYS_seccomp:
      // Its other operations are questions, and so is a filter that is none.
      if (a == SECCOMP_SET_MODE_STRICT || (a == SECCOMP_SET_MODE_FILTER && c != 0)) BeforeRestriction();
      break;
    default:
      break;
  }
  return real.syscall(number, a, b, c, d, e, f);
}

HETEROSOCK_EXPORT int io_uring_queue_init(unsigned entries, void* ring, unsigned flags) {
  const auto next = BeforeRing<int (*)(unsigned, void*, unsigned)>("io_uring_queue_init");
  return next != nullptr ? next(entries, ring, flags) : -ENOSYS;
}
HETEROSOCK_EXPORT int io_uring_queue_init_params(unsigned entries, void* ring, void* parameters) {
  const auto next = BeforeRing<int (*)(unsigned, void*, void*)>("io_uring_queue_init_params");
  return next != nullptr ? next(entries, ring, parameters) : -ENOSYS;
}
