// Numbers that come and go: close, dup, fcntl, and every call that makes a descriptor (so that a reused number is
// noticed).
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdarg.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/hooks/hook.h"
#include "heterosock/hooks/transfer.h"
#include "heterosock/lib/real.h"

using namespace heterok8s::heterosock;  // NOLINT

namespace heterok8s::heterosock {

void ForgetFd(int fd) {
  if (thread_state.in_vfork != 0) return;
  if (FdTable::Get(fd).raw() == 0) return;
  NoticeFork();
  const FdWord word = FdTable::Get(fd);
  if (word.kind() == FdWord::kEpoll) {
    FdTable::Take(fd);
    EpollClosed(word.index(), fd);
    return;
  }
  if (word.kind() != FdWord::kStream) {
    FdTable::Take(fd);
    return;
  }
  const uint32_t slot = word.index();
  LocalChannel& channel = Slots::Local(slot);
  if (channel.fds.load() > 1) {
    FdTable::Take(fd);
    channel.fds.fetch_sub(1);
    if (channel.items.load() != 0) {
      for (int other = 0; other <= FdTable::High(); ++other) {
        const FdWord same = FdTable::Get(other);
        if (same.kind() != FdWord::kStream || same.index() != slot) continue;
        EpollMoveFd(slot, fd, other);
        break;
      }
    }
    return;
  }
  Leave(slot, fd);
  if (FdTable::Take(fd).raw() != word.raw()) return;  // another thread closes the same number
  channel.fds.store(0);
  Slots::Drop(slot);
}

void CopyFd(int from, int to) {
  if (to < 0 || thread_state.in_vfork != 0) return;
  const FdWord word = FdTable::Get(from);
  if (word.kind() == FdWord::kHidden) return;
  if (word.kind() == FdWord::kStream) Slots::Local(word.index()).fds.fetch_add(1);
  if (word.kind() == FdWord::kEpoll) EpollCopied(word.index());
  FdTable::Set(to, word);
}

int Fresh(int fd) {
  if (fd >= 0 && FdTable::Get(fd).raw() != 0 && thread_state.in_vfork == 0) [[unlikely]] {
    // Closed behind our back and given out again: nothing of the old one may be touched through this number.
    NoticeFork();
    const FdWord word = FdTable::Take(fd);
    if (word.kind() == FdWord::kStream) {
      LocalChannel& channel = Slots::Local(word.index());
      if (channel.fds.fetch_sub(1) == 1) {
        EpollForget(word.index(), false);
        LeaveClosed(word.index());
        Slots::Drop(word.index());
      }
    } else if (word.kind() == FdWord::kEpoll) {
      EpollClosed(word.index(), fd);
    }
  }
  return fd;
}

}  // namespace heterok8s::heterosock

namespace {

// Also in a child of vfork, which has copies of them: an exec there may have to ring the bell of a connection that is
// passed on.
bool Hidden(int fd) { return FdTable::Get(fd).kind() == FdWord::kHidden; }

int BadFd() {
  errno = EBADF;
  return -1;
}

int Close(int fd) {
  const FdWord word = FdTable::Get(fd);
  if (word.raw() == 0) [[likely]]
    return real.close(fd);
  if (Hidden(fd)) return BadFd();
  ForgetFd(fd);
  return real.close(fd);
}

// stdin, stdout and stderr are libc's: it reads and writes these numbers itself.
void FenceStandard(int from, int to) {
  const FdWord source = FdTable::Get(from);
  if (to >= 0 && to <= 2 && source.kind() == FdWord::kStream && thread_state.in_vfork == 0)
    FenceAndSettle(source.index(), from, Reason::kStdio);
}

template <typename Call>
int DupOnto(int from, int to, Call&& call) {
  if (Hidden(from) || Hidden(to)) return BadFd();
  FenceHandedOn(from);
  if (from == to || (FdTable::Get(from).raw() == 0 && FdTable::Get(to).raw() == 0) || thread_state.in_vfork != 0)
    return call();
  // Only a call that will succeed may let go of what `to` is.
  if (Syscall(SYS_fcntl, from, F_GETFD) < 0 || to < 0) return call();
  NoticeFork();
  FenceStandard(from, to);
  ForgetFd(to);
  const int result = call();
  if (result >= 0) CopyFd(from, result);
  return result;
}

void ForgetRange(unsigned first, unsigned last) {
  for (unsigned fd = first; fd <= last && fd < FdTable::End(); ++fd) {
    const FdWord word = FdTable::Get(static_cast<int>(fd));
    if (word.raw() != 0 && word.kind() != FdWord::kHidden) ForgetFd(static_cast<int>(fd));
  }
}

// Closes a range around our own descriptors.
int CloseRange(unsigned first, unsigned last, int flags) {
  unsigned from = first;
  int result = 0;
  for (unsigned fd = first; fd <= last && fd < FdTable::End(); ++fd) {
    if (FdTable::Get(static_cast<int>(fd)).kind() != FdWord::kHidden) continue;
    if (fd > from) result = real.close_range(from, fd - 1, flags);
    from = fd + 1;
    if (result != 0) return result;
  }
  return from <= last ? real.close_range(from, last, flags) : result;
}

}  // namespace

HETEROSOCK_EXPORT int close(int fd) { return Close(fd); }
HETEROSOCK_EXPORT int __close(int fd) __attribute__((alias("close")));
HETEROSOCK_EXPORT int __close_nocancel(int fd) __attribute__((alias("close")));

HETEROSOCK_EXPORT int close_range(unsigned first, unsigned last, int flags) {
  if (first > last) return real.close_range(first, last, flags);
  // Of a number that nobody has: refused before anything is forgotten (flags of a later kernel, or before Linux 5.9).
  if (real.close_range(~0u, ~0u, flags) != 0) return -1;
  if ((flags & CLOSE_RANGE_CLOEXEC) == 0 && thread_state.in_vfork == 0) ForgetRange(first, last);
  return CloseRange(first, last, flags);
}

HETEROSOCK_EXPORT void closefrom(int low) {
  const unsigned first = low < 0 ? 0 : static_cast<unsigned>(low);
  if (thread_state.in_vfork == 0) ForgetRange(first, ~0u);
  if (CloseRange(first, ~0u, 0) == 0) return;
  for (unsigned fd = first; fd < FdTable::kSize; ++fd) {  // before Linux 5.9
    if (FdTable::Get(static_cast<int>(fd)).kind() != FdWord::kHidden) Syscall(SYS_close, fd);
  }
}

HETEROSOCK_EXPORT int dup(int fd) {
  if (Hidden(fd)) return BadFd();
  FenceHandedOn(fd);
  const int result = Fresh(real.dup(fd));
  FenceStandard(fd, result);
  if (result >= 0 && FdTable::Get(fd).raw() != 0) CopyFd(fd, result);
  return result;
}

HETEROSOCK_EXPORT int dup2(int from, int to) {
  return DupOnto(from, to, [&] { return real.dup2(from, to); });
}
HETEROSOCK_EXPORT int __dup2(int from, int to) __attribute__((alias("dup2")));

HETEROSOCK_EXPORT int dup3(int from, int to, int flags) {
  return DupOnto(from, to, [&] { return real.dup3(from, to, flags); });
}

namespace {
template <typename Call>
int Fcntl(int fd, int command, long argument, Call&& call) {
  FdWord word = FdTable::Get(fd);
  if (word.raw() == 0 && command != F_DUPFD && command != F_DUPFD_CLOEXEC) [[likely]]
    return call();
  if (word.raw() != 0 && thread_state.in_vfork == 0 && NoticeFork()) word = FdTable::Get(fd);
  if (Hidden(fd)) return BadFd();
  if (command == F_DUPFD || command == F_DUPFD_CLOEXEC || (command == F_SETFD && (argument & FD_CLOEXEC) == 0))
    FenceHandedOn(fd);
  const int result = call();
  if (result < 0 || thread_state.in_vfork != 0) return result;
  if (command == F_DUPFD || command == F_DUPFD_CLOEXEC) {
    Fresh(result);
    FenceStandard(fd, result);
    if (word.raw() != 0) CopyFd(fd, result);
  } else if (command == F_SETFL && word.kind() == FdWord::kStream) {
    Slots::Get(word.index()).nonblocking.store((argument & O_NONBLOCK) != 0);
    // A signal for every arrival can only come from the kernel.
    if (argument & O_ASYNC) FenceAndSettle(word.index(), fd, Reason::kSocketOption);
  }
  return result;
}
}  // namespace

HETEROSOCK_EXPORT int fcntl(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  const long argument = va_arg(arguments, long);
  va_end(arguments);
  return Fcntl(fd, command, argument, [&] { return real.fcntl(fd, command, argument); });
}
HETEROSOCK_EXPORT int __fcntl(int fd, int command, ...) __attribute__((alias("fcntl")));

HETEROSOCK_EXPORT int fcntl64(int fd, int command, ...) {
  va_list arguments;
  va_start(arguments, command);
  const long argument = va_arg(arguments, long);
  va_end(arguments);
  return Fcntl(fd, command, argument, [&] { return real.fcntl64(fd, command, argument); });
}

#define HETEROSOCK_OPEN(name, ...)           \
  va_list arguments;                         \
  va_start(arguments, flags);                \
  const long mode = va_arg(arguments, long); \
  va_end(arguments);                         \
  return Fresh(real.name(__VA_ARGS__, flags, mode));

HETEROSOCK_EXPORT int open(const char* path, int flags, ...){HETEROSOCK_OPEN(open, path)} HETEROSOCK_EXPORT
    int open64(const char* path, int flags, ...){HETEROSOCK_OPEN(open64, path)} HETEROSOCK_EXPORT
    int openat(int at, const char* path, int flags, ...){HETEROSOCK_OPEN(openat, at, path)} HETEROSOCK_EXPORT
    int openat64(int at, const char* path, int flags, ...){HETEROSOCK_OPEN(openat64, at, path)} HETEROSOCK_EXPORT
    int creat(const char* path, mode_t mode) {
  return Fresh(real.creat(path, mode));
}
HETEROSOCK_EXPORT int creat64(const char* path, mode_t mode) { return Fresh(real.creat64(path, mode)); }

HETEROSOCK_EXPORT int __open(const char* path, int flags, ...) __attribute__((alias("open")));
HETEROSOCK_EXPORT int __open64(const char* path, int flags, ...) __attribute__((alias("open64")));
// What open() is in programs built with _FORTIFY_SOURCE, where its flags are no constant.
HETEROSOCK_EXPORT int __open_2(const char* path, int flags) { return Fresh(real.__open_2(path, flags)); }
HETEROSOCK_EXPORT int __open64_2(const char* path, int flags) { return Fresh(real.__open64_2(path, flags)); }
HETEROSOCK_EXPORT int __openat_2(int at, const char* path, int flags) {
  return Fresh(real.__openat_2(at, path, flags));
}
HETEROSOCK_EXPORT int __openat64_2(int at, const char* path, int flags) {
  return Fresh(real.__openat64_2(at, path, flags));
}

HETEROSOCK_EXPORT int pipe(int* ends) {
  const int result = real.pipe(ends);
  if (result == 0) Fresh(ends[0]), Fresh(ends[1]);
  return result;
}
HETEROSOCK_EXPORT int __pipe(int* ends) __attribute__((alias("pipe")));
HETEROSOCK_EXPORT int pipe2(int* ends, int flags) {
  const int result = real.pipe2(ends, flags);
  if (result == 0) Fresh(ends[0]), Fresh(ends[1]);
  return result;
}
HETEROSOCK_EXPORT int eventfd(unsigned value, int flags) { return Fresh(real.eventfd(value, flags)); }
HETEROSOCK_EXPORT int timerfd_create(int clock, int flags) { return Fresh(real.timerfd_create(clock, flags)); }
HETEROSOCK_EXPORT int signalfd(int fd, const sigset_t* mask, int flags) {
  return fd >= 0 ? real.signalfd(fd, mask, flags) : Fresh(real.signalfd(fd, mask, flags));
}
HETEROSOCK_EXPORT int inotify_init() { return Fresh(real.inotify_init()); }
HETEROSOCK_EXPORT int inotify_init1(int flags) { return Fresh(real.inotify_init1(flags)); }
HETEROSOCK_EXPORT int memfd_create(const char* name, unsigned flags) { return Fresh(real.memfd_create(name, flags)); }
