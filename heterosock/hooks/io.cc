// read, write, recv, send and their kin.
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>

#include "heterosock/hooks/hook.h"
#include "heterosock/hooks/transfer.h"
#include "heterosock/hooks/vector.h"
#include "heterosock/lib/real.h"

using namespace heterok8s::heterosock;  // NOLINT: the wrappers live in C's name space

namespace {

// Out-of-band data has its own place in the stream, which only the kernel keeps.
bool OutOfBand(uint32_t slot, int fd, int flags) {
  if (!(flags & MSG_OOB)) [[likely]]
    return false;
  FenceAndSettle(slot, fd, Reason::kOutOfBand);
  return true;
}

// Of what goes out without a copy the kernel says when it is done with the pages. SO_ZEROCOPY alone means nothing, and
// without it the flag means nothing (socket(7)): gRPC sets the option everywhere and hardly ever gives the flag.
bool WithoutCopy(uint32_t slot, int fd, int flags) {
  if (!(flags & MSG_ZEROCOPY)) [[likely]]
    return false;
  const int saved = errno;
  int on = 0;
  socklen_t length = sizeof on;
  const bool honoured = real.getsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &on, &length) == 0 && on != 0;
  errno = saved;
  if (honoured) FenceAndSettle(slot, fd, Reason::kSocketOption);
  return honoured;
}

// Receive() for recvfrom and recvmsg, which have more to answer than bytes: says whether the kernel did.
template <typename Kernel>
[[gnu::always_inline]] inline ssize_t ReceiveNoting(uint32_t slot, int fd, const iovec* iov, size_t count, int flags,
                                                    bool* by_kernel, Kernel kernel) {
  return Receive(slot, fd, iov, count, flags, [=] {
    *by_kernel = true;
    return kernel();
  });
}

// As put_cmsg() in net/core/scm.c.
void TellLeft(msghdr* message, size_t room, int left) {
  if (NoAddress(message->msg_control) || room < sizeof(cmsghdr)) {
    message->msg_flags |= MSG_CTRUNC;
    return;
  }
  const size_t length = room < CMSG_LEN(sizeof left) ? room : CMSG_LEN(sizeof left);
  if (length < CMSG_LEN(sizeof left)) message->msg_flags |= MSG_CTRUNC;
  cmsghdr header = {};
  header.cmsg_len = static_cast<decltype(header.cmsg_len)>(length);
  header.cmsg_level = IPPROTO_TCP;
  header.cmsg_type = TCP_CM_INQ;
  auto* const bytes = static_cast<char*>(message->msg_control);
  memcpy(bytes, &header, sizeof header);
  memcpy(bytes + sizeof header, &left, length - sizeof header);
  message->msg_controllen =
      static_cast<decltype(message->msg_controllen)>(room < CMSG_SPACE(sizeof left) ? room : CMSG_SPACE(sizeof left));
}

// The kernel has told of what it has, and knows nothing of the ring behind that.
void CorrectLeft(msghdr* message, int left) {
  for (cmsghdr* header = CMSG_FIRSTHDR(message); header != nullptr; header = CMSG_NXTHDR(message, header)) {
    if (header->cmsg_level == IPPROTO_TCP && header->cmsg_type == TCP_CM_INQ &&
        header->cmsg_len >= CMSG_LEN(sizeof left))
      memcpy(CMSG_DATA(header), &left, sizeof left);
  }
}

// Who receives no bytes waits for one nevertheless, unlike who reads none (sock_rcvlowat() in include/net/sock.h,
// sock_read_iter() in net/socket.c). It stays where it is.
int ForNothing(int flags) { return MSG_PEEK | (flags & MSG_DONTWAIT); }

msghdr WithVector(const msghdr& message, const iovec* iov, size_t count) {
  msghdr copy = message;
  copy.msg_iov = const_cast<iovec*>(iov);
  copy.msg_iovlen = static_cast<decltype(copy.msg_iovlen)>(count);
  return copy;
}

ssize_t ReceiveMessage(uint32_t slot, int fd, msghdr* message, int flags) {
  const auto kernel = [=] { return real.recvmsg(fd, message, flags); };
  const Vector kind =
      NoAddress(message) ? Vector::kOdd : Judge(message->msg_iov, static_cast<size_t>(message->msg_iovlen));
  if (kind != Vector::kUsual) [[unlikely]] {
    if (kind == Vector::kOdd) return kernel();
    const auto with = [=](const iovec* part, size_t parts, int with_flags) {
      msghdr copy = WithVector(*message, part, parts);
      const ssize_t result = ReceiveMessage(slot, fd, &copy, with_flags);
      message->msg_namelen = copy.msg_namelen;
      message->msg_controllen = copy.msg_controllen;
      message->msg_flags = copy.msg_flags;
      return result;
    };
    if (kind == Vector::kLong)
      return Cut(message->msg_iov, static_cast<size_t>(message->msg_iovlen),
                 [=](const iovec* part, size_t parts) { return with(part, parts, flags); });
    if (flags & (MSG_ERRQUEUE | MSG_OOB)) return kernel();
    char byte;
    const iovec one = {&byte, 1};
    const ssize_t result = with(&one, 1, ForNothing(flags));
    return result > 0 ? 0 : result;
  }
  if ((flags & MSG_ERRQUEUE) || OutOfBand(slot, fd, flags)) return kernel();
  bool by_kernel = false;
  const size_t room = message->msg_controllen;
  const ssize_t result = ReceiveNoting(slot, fd, message->msg_iov, message->msg_iovlen, flags, &by_kernel, kernel);
  if (result < 0) return result;
  if (!by_kernel) {
    message->msg_namelen = 0;  // as tcp_recvmsg() leaves it
    message->msg_controllen = 0;
    message->msg_flags = 0;
  }
  const Slot& state = Slots::Get(slot);
  if (state.rx.tells_left.load(std::memory_order_relaxed) != 0) [[unlikely]] {
    if (!by_kernel)
      TellLeft(message, room, LeftToReceive(slot, fd));
    else if (state.phase.load() == Phase::kArmed && state.rx.mode.load() != Mode::kPlain)
      CorrectLeft(message, LeftToReceive(slot, fd));
  }
  return result;
}

ssize_t SendMessage(uint32_t slot, int fd, const msghdr* message, int flags) {
  const auto kernel = [=] { return real.sendmsg(fd, message, flags); };
  const Vector kind =
      NoAddress(message) ? Vector::kOdd : Judge(message->msg_iov, static_cast<size_t>(message->msg_iovlen));
  if (kind != Vector::kUsual) [[unlikely]] {
    if (kind != Vector::kLong) return kernel();
    return Cut(message->msg_iov, static_cast<size_t>(message->msg_iovlen), [=](const iovec* part, size_t parts) {
      const msghdr copy = WithVector(*message, part, parts);
      return SendMessage(slot, fd, &copy, flags);
    });
  }
  if (OutOfBand(slot, fd, flags) || WithoutCopy(slot, fd, flags)) return kernel();
  if (message->msg_controllen != 0) {
    FenceAndSettle(slot, fd, Reason::kSocketOption);  // what control data means to TCP is the kernel's business
    return kernel();
  }
  return Send(slot, fd, message->msg_iov, message->msg_iovlen, flags, kernel);
}

HETEROSOCK_OWN_FRAME ssize_t Recv(int fd, void* buffer, size_t bytes, int flags) {
  uint32_t slot;
  const auto kernel = [=] { return real.recv(fd, buffer, bytes, flags); };
  if (!StreamOf(fd, &slot) || (flags & MSG_ERRQUEUE) || OutOfBand(slot, fd, flags)) return kernel();
  if (bytes == 0) [[unlikely]] {
    char byte;
    const ssize_t result = Recv(fd, &byte, 1, ForNothing(flags));
    return result > 0 ? 0 : result;
  }
  const iovec part = {buffer, Cut(bytes)};
  return Receive(slot, fd, &part, 1, flags, kernel);
}

HETEROSOCK_OWN_FRAME ssize_t RecvFrom(int fd, void* buffer, size_t bytes, int flags, sockaddr* from,
                                      socklen_t* from_length) {
  uint32_t slot;
  const auto kernel = [=] { return real.recvfrom(fd, buffer, bytes, flags, from, from_length); };
  if (!StreamOf(fd, &slot) || (flags & MSG_ERRQUEUE) || OutOfBand(slot, fd, flags)) return kernel();
  if (bytes == 0) [[unlikely]] {
    char byte;
    const ssize_t result = RecvFrom(fd, &byte, 1, ForNothing(flags), from, from_length);
    return result > 0 ? 0 : result;
  }
  const iovec part = {buffer, Cut(bytes)};
  bool by_kernel = false;
  const ssize_t result = ReceiveNoting(slot, fd, &part, 1, flags, &by_kernel, kernel);
  if (result >= 0 && !by_kernel && from != nullptr && from_length != nullptr) *from_length = 0;
  return result;
}

HETEROSOCK_OWN_FRAME ssize_t SendTo(int fd, const void* buffer, size_t bytes, int flags, const sockaddr* to,
                                    socklen_t to_length) {
  uint32_t slot;
  const auto kernel = [=] { return real.sendto(fd, buffer, bytes, flags, to, to_length); };
  if (!StreamOf(fd, &slot) || bytes == 0 || (flags & MSG_FASTOPEN) || OutOfBand(slot, fd, flags) ||
      WithoutCopy(slot, fd, flags))
    return kernel();
  const iovec part = {const_cast<void*>(buffer), Cut(bytes)};
  return Send(slot, fd, &part, 1, flags, kernel);
}

HETEROSOCK_OWN_FRAME ssize_t Read(int fd, void* buffer, size_t bytes) {
  uint32_t slot;
  if (!StreamOf(fd, &slot) || static_cast<ssize_t>(bytes) <= 0) return real.read(fd, buffer, bytes);
  const iovec part = {buffer, Cut(bytes)};
  return Receive(slot, fd, &part, 1, 0, [=] { return real.read(fd, buffer, bytes); });
}

HETEROSOCK_OWN_FRAME ssize_t ReadV(int fd, const iovec* iov, int count) {
  uint32_t slot;
  if (!StreamOf(fd, &slot)) return real.readv(fd, iov, count);
  const Vector kind = Judge(iov, static_cast<size_t>(count));
  if (kind == Vector::kLong) [[unlikely]]
    return Cut(iov, static_cast<size_t>(count),
               [=](const iovec* part, size_t parts) { return ReadV(fd, part, static_cast<int>(parts)); });
  if (kind != Vector::kUsual) return real.readv(fd, iov, count);
  return Receive(slot, fd, iov, static_cast<size_t>(count), 0, [=] { return real.readv(fd, iov, count); });
}

HETEROSOCK_OWN_FRAME ssize_t Write(int fd, const void* buffer, size_t bytes) {
  uint32_t slot;
  if (!StreamOf(fd, &slot) || static_cast<ssize_t>(bytes) <= 0) return real.write(fd, buffer, bytes);
  const iovec part = {const_cast<void*>(buffer), Cut(bytes)};
  return Send(slot, fd, &part, 1, 0, [=] { return real.write(fd, buffer, bytes); });
}

HETEROSOCK_OWN_FRAME ssize_t WriteV(int fd, const iovec* iov, int count) {
  uint32_t slot;
  if (!StreamOf(fd, &slot)) return real.writev(fd, iov, count);
  const Vector kind = Judge(iov, static_cast<size_t>(count));
  if (kind == Vector::kLong) [[unlikely]]
    return Cut(iov, static_cast<size_t>(count),
               [=](const iovec* part, size_t parts) { return WriteV(fd, part, static_cast<int>(parts)); });
  if (kind != Vector::kUsual) return real.writev(fd, iov, count);
  return Send(slot, fd, iov, static_cast<size_t>(count), 0, [=] { return real.writev(fd, iov, count); });
}

}  // namespace

HETEROSOCK_EXPORT ssize_t read(int fd, void* buffer, size_t bytes) {
  return LooksTracked(fd) ? Read(fd, buffer, bytes) : real.read(fd, buffer, bytes);
}

HETEROSOCK_EXPORT ssize_t __read_chk(int fd, void* buffer, size_t bytes, size_t room) {
  if (bytes > room || !LooksTracked(fd)) return real.__read_chk(fd, buffer, bytes, room);
  return Read(fd, buffer, bytes);
}

HETEROSOCK_EXPORT ssize_t readv(int fd, const iovec* iov, int count) {
  return LooksTracked(fd) ? ReadV(fd, iov, count) : real.readv(fd, iov, count);
}

// With an offset they fail on sockets; with -1 they are readv and writev. Their flags do not fit ours: RWF_NOWAIT only.
HETEROSOCK_EXPORT ssize_t preadv2(int fd, const iovec* iov, int count, off_t offset, int flags) {
  uint32_t slot;
  if (!StreamOf(fd, &slot) || offset != -1) return real.preadv2(fd, iov, count, offset, flags);
  const Vector kind = Judge(iov, static_cast<size_t>(count));
  if (kind == Vector::kLong) [[unlikely]]
    return Cut(iov, static_cast<size_t>(count), [=](const iovec* part, size_t parts) {
      return preadv2(fd, part, static_cast<int>(parts), offset, flags);
    });
  if (kind != Vector::kUsual) return real.preadv2(fd, iov, count, offset, flags);
  return Receive(slot, fd, iov, static_cast<size_t>(count), (flags & RWF_NOWAIT) != 0 ? MSG_DONTWAIT : 0,
                 [=] { return real.preadv2(fd, iov, count, offset, flags); });
}
HETEROSOCK_EXPORT ssize_t preadv64v2(int fd, const iovec* iov, int count, off_t offset, int flags) {
  return preadv2(fd, iov, count, offset, flags);
}

HETEROSOCK_EXPORT ssize_t write(int fd, const void* buffer, size_t bytes) {
  return LooksTracked(fd) ? Write(fd, buffer, bytes) : real.write(fd, buffer, bytes);
}

HETEROSOCK_EXPORT ssize_t writev(int fd, const iovec* iov, int count) {
  return LooksTracked(fd) ? WriteV(fd, iov, count) : real.writev(fd, iov, count);
}

HETEROSOCK_EXPORT ssize_t pwritev2(int fd, const iovec* iov, int count, off_t offset, int flags) {
  uint32_t slot;
  if (!StreamOf(fd, &slot) || offset != -1) return real.pwritev2(fd, iov, count, offset, flags);
  const Vector kind = Judge(iov, static_cast<size_t>(count));
  if (kind == Vector::kLong) [[unlikely]]
    return Cut(iov, static_cast<size_t>(count), [=](const iovec* part, size_t parts) {
      return pwritev2(fd, part, static_cast<int>(parts), offset, flags);
    });
  if (kind != Vector::kUsual) return real.pwritev2(fd, iov, count, offset, flags);
  return Send(slot, fd, iov, static_cast<size_t>(count), (flags & RWF_NOWAIT) != 0 ? MSG_DONTWAIT : 0,
              [=] { return real.pwritev2(fd, iov, count, offset, flags); });
}
HETEROSOCK_EXPORT ssize_t pwritev64v2(int fd, const iovec* iov, int count, off_t offset, int flags) {
  return pwritev2(fd, iov, count, offset, flags);
}

HETEROSOCK_EXPORT ssize_t recv(int fd, void* buffer, size_t bytes, int flags) {
  return LooksTracked(fd) ? Recv(fd, buffer, bytes, flags) : real.recv(fd, buffer, bytes, flags);
}

HETEROSOCK_EXPORT ssize_t __recv_chk(int fd, void* buffer, size_t bytes, size_t room, int flags) {
  if (bytes > room || !LooksTracked(fd)) return real.__recv_chk(fd, buffer, bytes, room, flags);
  return Recv(fd, buffer, bytes, flags);
}

HETEROSOCK_EXPORT ssize_t recvfrom(int fd, void* buffer, size_t bytes, int flags, sockaddr* from, socklen_t* length) {
  return LooksTracked(fd) ? RecvFrom(fd, buffer, bytes, flags, from, length)
                          : real.recvfrom(fd, buffer, bytes, flags, from, length);
}

HETEROSOCK_EXPORT ssize_t __recvfrom_chk(int fd, void* buffer, size_t bytes, size_t room, int flags, sockaddr* from,
                                         socklen_t* length) {
  if (bytes > room || !LooksTracked(fd)) return real.__recvfrom_chk(fd, buffer, bytes, room, flags, from, length);
  return RecvFrom(fd, buffer, bytes, flags, from, length);
}

HETEROSOCK_EXPORT ssize_t recvmsg(int fd, msghdr* message, int flags) {
  uint32_t slot;
  if (StreamOf(fd, &slot)) return ReceiveMessage(slot, fd, message, flags);
  const ssize_t result = real.recvmsg(fd, message, flags);
  if (result >= 0 && message->msg_controllen != 0) {
    // Descriptors that arrive take numbers; what those meant before is over.
    for (cmsghdr* header = CMSG_FIRSTHDR(message); header != nullptr; header = CMSG_NXTHDR(message, header)) {
      if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
      for (size_t at = 0; at + sizeof(int) <= header->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
        int received;
        memcpy(&received, CMSG_DATA(header) + at, sizeof received);
        Fresh(received);
      }
    }
  }
  return result;
}

namespace {
bool IsLimit(const timespec* limit) {
  return !NoAddress(limit) && limit->tv_sec >= 0 && limit->tv_nsec >= 0 && limit->tv_nsec < 1'000'000'000;
}
}  // namespace

HETEROSOCK_EXPORT int recvmmsg(int fd, mmsghdr* messages, unsigned count, MmsgFlags flags, timespec* timeout) {
  uint32_t slot;
  // What the kernel would refuse goes to it.
  if (!StreamOf(fd, &slot) || count == 0 || (timeout != nullptr && !IsLimit(timeout)))
    return real.recvmmsg(fd, messages, count, flags, timeout);
  // As the kernel: the first waits, MSG_WAITFORONE makes the others not wait, an error after the first is kept for
  // later (here: found again by the next call). The timeout is looked at between messages only, in the kernel too
  // (recvmmsg(2), BUGS), and what is left of it is told when a message came (do_recvmmsg() in net/socket.c).
  const timespec limit = timeout == nullptr ? timespec{} : *timeout;
  const uint64_t start = timeout == nullptr ? 0 : Nanoseconds();
  const int saved = errno;
  int each = flags & ~MSG_WAITFORONE;
  unsigned n = 0;
  for (; n < count; ++n) {
    const ssize_t got = ReceiveMessage(slot, fd, &messages[n].msg_hdr, each);
    if (got < 0) {
      if (n > 0) errno = saved;
      return n > 0 ? static_cast<int>(n) : -1;
    }
    messages[n].msg_len = static_cast<unsigned>(got);
    if (flags & MSG_WAITFORONE) each |= MSG_DONTWAIT;
    if (timeout == nullptr) continue;
    *timeout = LeftOf(limit, Nanoseconds() - start);
    if (timeout->tv_sec == 0 && timeout->tv_nsec == 0) return static_cast<int>(n + 1);
  }
  return static_cast<int>(n);
}

HETEROSOCK_EXPORT ssize_t send(int fd, const void* buffer, size_t bytes, int flags) {
  return LooksTracked(fd) ? SendTo(fd, buffer, bytes, flags, nullptr, 0) : real.send(fd, buffer, bytes, flags);
}

HETEROSOCK_EXPORT ssize_t sendto(int fd, const void* buffer, size_t bytes, int flags, const sockaddr* to,
                                 socklen_t length) {
  return LooksTracked(fd) ? SendTo(fd, buffer, bytes, flags, to, length)
                          : real.sendto(fd, buffer, bytes, flags, to, length);
}

namespace {
// Descriptors sent to another process (SCM_RIGHTS): it may not have the library, so the connections go back to TCP
// first.
void FencePassed(const msghdr* message) {
  if (NoAddress(message) || message->msg_controllen == 0) return;
  for (cmsghdr* header = CMSG_FIRSTHDR(message); header != nullptr;
       header = CMSG_NXTHDR(const_cast<msghdr*>(message), header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS || header->cmsg_len < CMSG_LEN(0)) continue;
    for (size_t at = 0; at + sizeof(int) <= header->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
      int passed;
      memcpy(&passed, CMSG_DATA(header) + at, sizeof passed);
      uint32_t slot;
      if (StreamOf(passed, &slot)) FenceAndSettle(slot, passed, Reason::kPassed);
    }
  }
}
}  // namespace

HETEROSOCK_EXPORT ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  uint32_t slot;
  if (StreamOf(fd, &slot)) return SendMessage(slot, fd, message, flags);
  FencePassed(message);
  return real.sendmsg(fd, message, flags);
}

namespace {
size_t BytesOf(const msghdr& message) {
  size_t total = 0;
  for (size_t i = 0; i < static_cast<size_t>(message.msg_iovlen); ++i) total += message.msg_iov[i].iov_len;
  return Cut(total);
}
}  // namespace

HETEROSOCK_EXPORT int sendmmsg(int fd, mmsghdr* messages, unsigned count, MmsgFlags flags) {
  uint32_t slot;
  if (!StreamOf(fd, &slot)) {
    for (unsigned i = 0; messages != nullptr && i < count; ++i) FencePassed(&messages[i].msg_hdr);
    return real.sendmmsg(fd, messages, count, flags);
  }
  // As __sys_sendmmsg() in net/socket.c: so many at most, and none behind one of which a part went.
  if (count > IOV_MAX) count = IOV_MAX;
  const int saved = errno;
  unsigned n = 0;
  for (bool whole = true; whole && n < count; ++n) {
    const ssize_t sent = SendMessage(slot, fd, &messages[n].msg_hdr, flags);
    if (sent < 0) {
      if (n > 0) errno = saved;
      return n > 0 ? static_cast<int>(n) : -1;
    }
    messages[n].msg_len = static_cast<unsigned>(sent);
    whole = static_cast<size_t>(sent) >= BytesOf(messages[n].msg_hdr);
  }
  return static_cast<int>(n);
}

// libc's other names for the same functions, which some programs import.
HETEROSOCK_EXPORT ssize_t __read(int fd, void* buffer, size_t bytes) __attribute__((alias("read")));
HETEROSOCK_EXPORT ssize_t __write(int fd, const void* buffer, size_t bytes) __attribute__((alias("write")));
HETEROSOCK_EXPORT ssize_t __send(int fd, const void* buffer, size_t bytes, int flags) __attribute__((alias("send")));
HETEROSOCK_EXPORT int __sendmmsg(int fd, mmsghdr* messages, unsigned count, MmsgFlags flags)
    __attribute__((alias("sendmmsg")));
HETEROSOCK_EXPORT ssize_t __read_nocancel(int fd, void* buffer, size_t bytes) __attribute__((alias("read")));
