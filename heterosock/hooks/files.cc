// Bytes that go between a connection and a file or pipe without passing the program: sendfile, splice; and stdio.
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "heterosock/hooks/hook.h"
#include "heterosock/hooks/transfer.h"
#include "heterosock/lib/real.h"
#include "heterosock/stream/piece.h"

using namespace heterok8s::heterosock;  // NOLINT

namespace {

bool InSharedMemory(std::atomic<Mode>& mode, Slot& slot) {
  return slot.phase.load(std::memory_order_relaxed) == Phase::kArmed &&
         mode.load(std::memory_order_relaxed) != Mode::kPlain;
}

// As sendfile(2): the file's own offset moves unless one is given; what was read but could not be sent is not consumed.
ssize_t SendFile(int out, int in, off_t* offset, size_t count) {
  ssize_t done = 0;
  const off_t start = offset != nullptr ? *offset : static_cast<off_t>(Syscall(SYS_lseek, in, 0, SEEK_CUR));
  if (start < 0) return kUseKernel;            // a pipe or a socket as source: the kernel says what it thinks of that
  if (count > 0x7ffff000) count = 0x7ffff000;  // MAX_RW_COUNT
  Piece piece;
  while (static_cast<size_t>(done) < count) {
    const size_t left = count - static_cast<size_t>(done), want = left < piece.size() ? left : piece.size();
    const long got =
        Syscall(SYS_pread64, in, reinterpret_cast<long>(piece.data()), static_cast<long>(want), start + done);
    if (got < 0) {
      if (done == 0) return got;
      break;
    }
    if (got == 0) break;
    const ssize_t sent = send(out, piece.data(), static_cast<size_t>(got), 0);
    if (sent < 0) {
      if (done == 0) return -errno;
      break;
    }
    done += sent;
    if (sent < got) break;
  }
  if (offset != nullptr) {
    *offset = start + done;
  } else if (done > 0) {
    Syscall(SYS_lseek, in, start + done, SEEK_SET);
  }
  return done;
}

ssize_t AnySendFile(int out, int in, off_t* offset, size_t count, ssize_t (*kernel)(int, int, off_t*, size_t)) {
  uint32_t slot;
  if (!StreamOf(out, &slot)) return kernel(out, in, offset, count);
  if (offset != nullptr && (NoAddress(offset) || *offset < 0)) return kernel(out, in, offset, count);  // refused
  Slot& state = Slots::Get(slot);
  for (;;) {
    if (InSharedMemory(state.tx.mode, state)) {
      const int saved = errno;
      const ssize_t result = SendFile(out, in, offset, count);
      if (result != kUseKernel) {
        if (result >= 0) errno = saved;
        return Answer(result);
      }
      FenceAndSettle(slot, out, Reason::kSplice);
    }
    if (state.tx.mode.load(std::memory_order_acquire) == Mode::kPlain) return kernel(out, in, offset, count);
    state.tx.calls.Enter();
    if (InSharedMemory(state.tx.mode, state)) {
      state.tx.calls.Leave(0);
      continue;
    }
    const ssize_t result = kernel(out, in, offset, count);
    state.tx.calls.Leave(result);
    ++state.tx.writes;
    if (result > 0 && WorthAdvancing(state)) Advance(slot, out);
    return result;
  }
}

}  // namespace

HETEROSOCK_EXPORT ssize_t sendfile(int out, int in, off_t* offset, size_t count) {
  return AnySendFile(out, in, offset, count, real.sendfile);
}
HETEROSOCK_EXPORT ssize_t sendfile64(int out, int in, off_t* offset, size_t count) {
  return AnySendFile(out, in, offset, count, real.sendfile64);
}

namespace {

// From a ring to a pipe. As do_splice() (fs/splice.c) waits for room in the pipe first, or does not
// (SPLICE_F_NONBLOCK, O_NONBLOCK of the pipe), and moves no more than fits: whoever fills a pipe is often the one who
// empties it.
ssize_t SpliceToPipe(uint32_t slot, int in, int pipe, size_t count, unsigned flags) {
  const long mode = Syscall(SYS_fcntl, pipe, F_GETFL), pipe_bytes = Syscall(SYS_fcntl, pipe, F_GETPIPE_SZ);
  const bool valid = (flags & ~unsigned{SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT}) == 0;
  if (!valid || mode < 0 || pipe_bytes <= 0 || (mode & O_ACCMODE) == O_RDONLY)
    return kUseKernel;  // it is refused there
  const bool waits = (flags & SPLICE_F_NONBLOCK) == 0 && (mode & O_NONBLOCK) == 0;
  for (;;) {
    pollfd room = {pipe, POLLOUT, 0};
    const timespec none = {};
    const int n = PollTwo(&room, 1, waits ? nullptr : &none);
    if (n < 0 && errno == EINTR && CallRestarts()) continue;
    if (n <= 0) return n == 0 ? -EAGAIN : -errno;
    // Nobody reads it: EPIPE, and the signal. Or its number was closed meanwhile.
    if ((room.revents & (POLLERR | POLLNVAL)) != 0) return kUseKernel;
    const ssize_t result = RingSplice(slot, in, pipe, static_cast<size_t>(pipe_bytes), count);
    if (result != kPipeFull) return result;
    if (!waits) return -EAGAIN;
  }
}

// What the kernel moves is counted, as bytes of the receive family are: else the connection would move at a wrong byte.
ssize_t SpliceFrom(uint32_t slot, int in, int pipe, size_t count, unsigned flags) {
  Slot& state = Slots::Get(slot);
  for (;;) {
    if (state.rx.mode.load(std::memory_order_acquire) == Mode::kPlain)
      return real.splice(in, nullptr, pipe, nullptr, count, flags);
    if (InSharedMemory(state.rx.mode, state)) {
      const ssize_t result = SpliceToPipe(slot, in, pipe, count, flags);
      return result != kUseKernel ? Answer(result) : real.splice(in, nullptr, pipe, nullptr, count, flags);
    }
    state.rx.calls.Enter();
    if (state.phase.load(std::memory_order_seq_cst) == Phase::kArmed) {
      state.rx.calls.Leave(0);
      continue;
    }
    const ssize_t result = real.splice(in, nullptr, pipe, nullptr, count, flags);
    state.rx.calls.Leave(result);
    return result;
  }
}

// A FILE over a connection that has moved: stdio calls us. It knows its descriptor, so fileno() works.
int CookieFd(void* cookie) { return static_cast<int>(reinterpret_cast<intptr_t>(cookie)); }
ssize_t CookieRead(void* cookie, char* buffer, size_t bytes) { return read(CookieFd(cookie), buffer, bytes); }
ssize_t CookieWrite(void* cookie, const char* buffer, size_t bytes) {
  const ssize_t n = write(CookieFd(cookie), buffer, bytes);
  return n < 0 ? 0 : n;  // fopencookie(3): a write function says 0 for an error
}
int CookieSeek(void* cookie, off64_t* offset, int whence) {
  const long at = Syscall(SYS_lseek, CookieFd(cookie), static_cast<long>(*offset), whence);
  if (at < 0) {
    errno = static_cast<int>(-at);
    return -1;
  }
  *offset = at;
  return 0;
}

// The streams made this way, for freopen().
std::atomic<FILE*> cookies[64];

bool NoteCookie(FILE* file) {
  for (auto& cookie : cookies) {
    FILE* none = nullptr;
    if (cookie.compare_exchange_strong(none, file)) return true;
  }
  return false;
}
bool IsCookie(FILE* file) {
  for (auto& cookie : cookies) {
    if (file != nullptr && cookie.load() == file) return true;
  }
  return false;
}

int CookieClose(void* cookie) {
  const int fd = CookieFd(cookie);
  for (auto& entry : cookies) {
    FILE* file = entry.load();
    if (file != nullptr && DescriptorOf(file) == fd) entry.compare_exchange_strong(file, nullptr);
  }
  return close(fd);
}

}  // namespace

HETEROSOCK_EXPORT ssize_t splice(int in, off_t* in_offset, int out, off_t* out_offset, size_t count, unsigned flags) {
  uint32_t slot;
  if (StreamOf(out, &slot)) ReturnSend(slot, out, Reason::kSplice);
  if (StreamOf(in, &slot) && in_offset == nullptr && out_offset == nullptr && count > 0 &&
      FdTable::Get(out).raw() == 0) {
    return SpliceFrom(slot, in, out, count, flags);
  }
  return real.splice(in, in_offset, out, out_offset, count, flags);
}

HETEROSOCK_EXPORT FILE* fdopen(int fd, const char* mode) {
  uint32_t slot;
  if (!StreamOf(fd, &slot)) return real.fdopen(fd, mode);
  if (CanNameDescriptor() && Slots::Get(slot).phase.load() == Phase::kArmed && mode != nullptr &&
      (mode[0] == 'r' || mode[0] == 'w' || mode[0] == 'a')) {
    FILE* file = fopencookie(reinterpret_cast<void*>(static_cast<intptr_t>(fd)), mode,
                             {CookieRead, CookieWrite, CookieSeek, CookieClose});
    if (file == nullptr) return nullptr;
    NameDescriptor(file, fd);
    if (NoteCookie(file)) return file;
    errno = EMFILE;  // more of them than there is room for
    return nullptr;
  }
  // Otherwise stdio reads, writes and closes the descriptor inside libc, where we see nothing of it: it stays on TCP.
  FenceAndSettle(slot, fd, Reason::kStdio);
  ForgetFd(fd);
  return real.fdopen(fd, mode);
}

// One of our streams goes on as such: the file takes the descriptor's place beneath it.
HETEROSOCK_EXPORT FILE* freopen(const char* path, const char* mode, FILE* stream) {
  using Freopen = FILE* (*)(const char*, const char*, FILE*);
  if (!IsCookie(stream)) {
    static Freopen next = nullptr;
    if (next == nullptr) next = reinterpret_cast<Freopen>(NextFunction("freopen"));
    return next(path, mode, stream);
  }
  if (path == nullptr || mode == nullptr) {
    errno = EBADF;
    return nullptr;
  }
  fflush(stream);
  const bool plus = strchr(mode, '+') != nullptr;
  int flags = plus ? O_RDWR : mode[0] == 'r' ? O_RDONLY : O_WRONLY;
  if (mode[0] == 'w') flags |= O_CREAT | O_TRUNC;
  if (mode[0] == 'a') flags |= O_CREAT | O_APPEND;
  const int fd = open(path, flags, 0666);
  if (fd < 0) return nullptr;
  dup2(fd, DescriptorOf(stream));
  close(fd);
  clearerr(stream);
  return stream;
}

// What freopen() is with _FILE_OFFSET_BITS=64.
HETEROSOCK_EXPORT FILE* freopen64(const char* path, const char* mode, FILE* stream) __attribute__((alias("freopen")));

HETEROSOCK_EXPORT int vdprintf(int fd, const char* format, va_list arguments) {
  uint32_t slot;
  if (!StreamOf(fd, &slot)) return real.vdprintf(fd, format, arguments);
  char* text = nullptr;
  const int length = vasprintf(&text, format, arguments);
  if (length < 0) return -1;
  int done = 0;
  while (done < length) {
    const ssize_t n = write(fd, text + done, static_cast<size_t>(length - done));
    if (n < 0) break;
    done += static_cast<int>(n);
  }
  free(text);
  return done == length ? length : -1;
}

HETEROSOCK_EXPORT int dprintf(int fd, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int result = vdprintf(fd, format, arguments);
  va_end(arguments);
  return result;
}

HETEROSOCK_EXPORT int __dprintf_chk(int fd, int, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int result = vdprintf(fd, format, arguments);
  va_end(arguments);
  return result;
}

HETEROSOCK_EXPORT int __vdprintf_chk(int fd, int, const char* format, va_list arguments) {
  return vdprintf(fd, format, arguments);
}
