// Making sockets, connections and their options.
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/hooks/hook.h"
#include "heterosock/hooks/transfer.h"
#include "heterosock/lib/real.h"
#include "heterosock/lib/trace.h"
#include "heterosock/stream/cork.h"
#include "heterosock/stream/direction.h"
#include "heterosock/stream/keep_alive.h"

using namespace heterok8s::heterosock;  // NOLINT

namespace {

void Track(int fd, bool nonblocking) {
  StartProcess();
  if (!process.enabled.load(std::memory_order_relaxed)) return;  // which the trace has said
  if (static_cast<unsigned>(fd) >= FdTable::kSize) {
    Trace("fd %d: not tracked: its number is too large", fd);
    return;
  }
  NoticeFork();
  Calibrate();
  const int slot = Slots::Allocate();
  if (slot < 0) {
    Trace("fd %d: not tracked: no slot left", fd);
    return;
  }
  Slots::Get(static_cast<uint32_t>(slot)).nonblocking.store(nonblocking);
  FdTable::Set(fd, FdWord(FdWord::kStream, static_cast<uint32_t>(slot)));
  // Another thread that has disabled the process since, and fenced all that it saw, may not have seen this one.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (!process.enabled.load()) ForgetFd(fd);
}

bool IsTcp(int domain, int type, int protocol) {
  return (domain == AF_INET || domain == AF_INET6) && (type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) == SOCK_STREAM &&
         (protocol == 0 || protocol == IPPROTO_TCP);
}

// A listener that we did not see being made (inherited, or passed): the kernel knows what it is. Asked once.
bool ListensForTcp(int fd) {
  const FdWord word = FdTable::Get(fd);
  if (word.kind() == FdWord::kListener) return true;
  if (word.kind() == FdWord::kOther) return false;
  const int saved = errno;
  int domain = 0, type = 0, protocol = 0;
  socklen_t length = sizeof(int);
  const bool tcp = real.getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 &&
                   real.getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 &&
                   real.getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) == 0 &&
                   IsTcp(domain, type, protocol);
  errno = saved;
  if (word.kind() == FdWord::kNone || word.kind() == FdWord::kStream) {
    ForgetFd(fd);
    FdTable::Set(fd, FdWord(tcp ? FdWord::kListener : FdWord::kOther, 0));
  }
  return tcp;
}

int Accepted(int listener, int fd, int flags) {
  if (fd < 0 || thread_state.in_vfork != 0) return fd;
  Fresh(fd);
  StartProcess();
  // Options that rule shared memory out are inherited from the listener; they were seen when they were set on it.
  if (process.enabled.load(std::memory_order_relaxed) && ListensForTcp(listener))
    Track(fd, (flags & SOCK_NONBLOCK) != 0);
  return fd;
}

// Options whose meaning lies in segments, stamps or the kernel's own queues.
bool NeedsKernel(int level, int name, const void* value, socklen_t length) {
  int number = 0;
  if (value != nullptr && length >= sizeof(int)) number = *static_cast<const int*>(value);
  if (level == SOL_SOCKET) {
    switch (name) {
      case SO_OOBINLINE:
      case SO_TIMESTAMP:
      case SO_TIMESTAMPNS:
      case SO_TIMESTAMPING:
#ifdef SO_TIMESTAMP_NEW
#if SO_TIMESTAMP_NEW != SO_TIMESTAMP
      case SO_TIMESTAMP_NEW:
      case SO_TIMESTAMPNS_NEW:
      case SO_TIMESTAMPING_NEW:
#endif
#endif
        return number != 0;
      // Bytes that a filter drops or cuts, and a rate, are segments' (sk_filter_trim_cap(); tcp_update_pacing_rate()).
      case SO_ATTACH_FILTER:
      case SO_ATTACH_BPF:
        return true;
      case SO_MAX_PACING_RATE:  // 32 bits, or 64; all ones: no limit
        return length == sizeof(uint64_t) ? *static_cast<const uint64_t*>(value) != ~uint64_t{0} : number != -1;
      case SO_RCVLOWAT:
        return number > 1;
      case SO_PEEK_OFF:
        return number >= 0;
      default:
        return false;
    }
  }
  if (level == IPPROTO_TCP) {
    switch (name) {
      case TCP_ULP:
      case TCP_REPAIR:
      case TCP_MD5SIG:
        return true;
      case TCP_INQ:  // of a listener: its connections inherit it unseen
        return number != 0;
      default:
        return false;
    }
  }
  return false;
}

// Of a connection in shared memory; the kernel refuses what is no number.
bool SetCorkInRing(int fd, int level, int name, const void* value, socklen_t length) {
  uint32_t slot;
  if (level != IPPROTO_TCP || name != TCP_CORK || static_cast<int>(length) < static_cast<int>(sizeof(int)) ||
      NoAddress(value) || !StreamOf(fd, &slot))
    return false;
  const bool on = *static_cast<const int*>(value) != 0;
  if (!CorkInRing(slot, fd, on)) return false;
  if (!on) PushSent(slot);
  return true;
}

// What the kernel keeps because of a cork it sends when that is drawn, and when TCP_NODELAY is set (tcp(7)).
void NotePush(int fd, int name, const void* value) {
  uint32_t slot;
  if ((name != TCP_CORK && name != TCP_NODELAY) || !StreamOf(fd, &slot)) return;
  const bool on = *static_cast<const int*>(value) != 0;
  if (name == TCP_CORK) NoteCork(slot, on);
  if (on == (name == TCP_NODELAY)) PushSent(slot);
}

bool OfKeepAlive(int level, int name) {
  return (level == SOL_SOCKET && name == SO_KEEPALIVE) || (level == IPPROTO_TCP && name == TCP_KEEPIDLE);
}

void WithdrawKeepAlive(uint32_t slot, int fd) {
  if (Slots::Get(slot).program_idle.load(std::memory_order_relaxed) == 0 || !LockSend(slot)) return;
  EndKeepAlive(slot, fd);
  Slots::Get(slot).tx.lock.Release();
}

}  // namespace

HETEROSOCK_EXPORT int socket(int domain, int type, int protocol) {
  const int fd = real.socket(domain, type, protocol);
  if (fd < 0 || thread_state.in_vfork != 0) return fd;
  Fresh(fd);
  if (IsTcp(domain, type, protocol)) Track(fd, (type & SOCK_NONBLOCK) != 0);
  return fd;
}

HETEROSOCK_EXPORT int socketpair(int domain, int type, int protocol, int* pair) {
  const int result = real.socketpair(domain, type, protocol, pair);
  if (result == 0) {
    Fresh(pair[0]);
    Fresh(pair[1]);
  }
  return result;
}

HETEROSOCK_EXPORT int listen(int fd, int backlog) {
  const int result = real.listen(fd, backlog);
  uint32_t slot;
  if (result == 0 && StreamOf(fd, &slot)) {
    const Slot& state = Slots::Get(slot);
    const bool only_kernel = state.phase.load() == Phase::kNever || state.rx.tells_left.load() != 0;
    ForgetFd(fd);
    FdTable::Set(fd, FdWord(only_kernel ? FdWord::kOther : FdWord::kListener, 0));
  }
  return result;
}

HETEROSOCK_EXPORT int accept(int fd, sockaddr* address, socklen_t* length) {
  return Accepted(fd, real.accept(fd, address, length), 0);
}

HETEROSOCK_EXPORT int accept4(int fd, sockaddr* address, socklen_t* length, int flags) {
  return Accepted(fd, real.accept4(fd, address, length, flags), flags);
}

HETEROSOCK_EXPORT int connect(int fd, const sockaddr* address, socklen_t length) {
  uint32_t slot;
  if (StreamOf(fd, &slot) && address != nullptr && length >= sizeof(sa_family_t) && address->sa_family == AF_UNSPEC) {
    // Dissolves the association; the socket may be connected anew, with a stream that starts at 0 (connect(2)).
    const bool nonblocking = Slots::Get(slot).nonblocking.load() != 0;
    const uint32_t tells_left = Slots::Get(slot).rx.tells_left.load();
    WithdrawKeepAlive(slot, fd);
    ForgetFd(fd);
    const int result = real.connect(fd, address, length);
    Track(fd, nonblocking);
    if (StreamOf(fd, &slot)) Slots::Get(slot).rx.tells_left.store(tells_left);
    return result;
  }
  return real.connect(fd, address, length);
}
HETEROSOCK_EXPORT int __connect(int fd, const sockaddr* address, socklen_t length) __attribute__((alias("connect")));

HETEROSOCK_EXPORT int shutdown(int fd, int how) {
  uint32_t slot;
  if (!StreamOf(fd, &slot) || how < SHUT_RD || how > SHUT_RDWR) return real.shutdown(fd, how);
  if (Slots::Get(slot).phase.load() == Phase::kArmed) {
    // What is unread in the ring goes to TCP in front of the FIN, so that a program without the library finds it there.
    if (how != SHUT_RD) ReturnSend(slot, fd, Reason::kClosed);
    if (how != SHUT_RD) AnnounceFin(slot);
    // A read that finds nothing after SHUT_RD asks the kernel, and has the end; what comes later is read all the same
    // (tcp_recvmsg_locked() in net/ipv4/tcp.c).
    Slots::Get(slot).rx.kernel_event.store(1);
  } else {
    Fence(slot, fd, Reason::kClosed);  // a direction that has ended does not move any more
  }
  const int result = real.shutdown(fd, how);
  const int error = errno;
  if (result == 0 && how != SHUT_WR) Slots::Get(slot).rx.shut.store(1, std::memory_order_relaxed);
  // A sender that waits for room in the ring hears nothing of this end's FIN.
  if (result == 0 && how != SHUT_RD) WakeOwn(slot);
  // Also of a connection that is over (inet_shutdown() in net/ipv4/af_inet.c).
  if (result == 0 || error == ENOTCONN) EpollShut(slot);
  errno = error;
  return result;
}

HETEROSOCK_EXPORT int setsockopt(int fd, int level, int name, const void* value, socklen_t length) {
  if (SetCorkInRing(fd, level, name, value, length)) return 0;
  uint32_t slot;
  if (OfKeepAlive(level, name) && StreamOf(fd, &slot))
    WithdrawKeepAlive(slot, fd);  // the program sees to it from now on
  const int result = real.setsockopt(fd, level, name, value, length);
  if (result == 0 && level == IPPROTO_TCP) NotePush(fd, name, value);
  if (result == 0 && level == IPPROTO_TCP && name == TCP_INQ && StreamOf(fd, &slot)) {
    Slots::Get(slot).rx.tells_left.store(*static_cast<const int*>(value) != 0, std::memory_order_relaxed);
    return result;
  }
  if (result != 0 || !NeedsKernel(level, name, value, length)) [[likely]]
    return result;
  if (StreamOf(fd, &slot)) FenceAndSettle(slot, fd, Reason::kSocketOption);
  if (FdTable::Get(fd).kind() == FdWord::kListener) FdTable::Set(fd, FdWord(FdWord::kOther, 0));
  return result;
}

// The counts of bytes go on where TCP's stopped. An error that the kernel told us is still the program's to hear.
HETEROSOCK_EXPORT int getsockopt(int fd, int level, int name, void* value, socklen_t* length) {
  uint32_t slot;
#ifdef TCP_ZEROCOPY_RECEIVE
  // Maps the bytes of segments into the program (tcp_zerocopy_receive()).
  if (level == IPPROTO_TCP && name == TCP_ZEROCOPY_RECEIVE && StreamOf(fd, &slot))
    FenceAndSettle(slot, fd, Reason::kSocketOption);
#endif
  const int result = real.getsockopt(fd, level, name, value, length);
  if (result == 0 && level == SOL_SOCKET && name == SO_ERROR && StreamOf(fd, &slot)) {
    const uint32_t error = Slots::Get(slot).rx.reset.exchange(0);
    if (error != 0 && *length >= sizeof(int)) *static_cast<int*>(value) = static_cast<int>(error);
    return result;
  }
  if (result == 0 && level == IPPROTO_TCP && name == TCP_CORK && StreamOf(fd, &slot)) {
    bool on = false;
    if (CorkIsOurs(slot, &on) && *length <= sizeof(int)) {
      const int corked = on;
      memcpy(value, &corked, *length);
    }
    return result;
  }
  if (result == 0 && OfKeepAlive(level, name) && StreamOf(fd, &slot)) {
    const uint32_t idle = Slots::Get(slot).program_idle.load(std::memory_order_relaxed);
    const uint32_t own = level == SOL_SOCKET ? 0 : idle;
    if (idle != 0) memcpy(value, &own, *length < sizeof own ? *length : sizeof own);
    return result;
  }
  if (result != 0 || level != IPPROTO_TCP || name != TCP_INFO || !StreamOf(fd, &slot)) [[likely]]
    return result;
  const Slot& state = Slots::Get(slot);
  const uint64_t sent = state.tx.tail;
  const uint64_t received = state.rx.head.load(std::memory_order_relaxed) + UnreadBytes(slot);
  auto* info = static_cast<tcp_info*>(value);
  if (*length >= offsetof(tcp_info, tcpi_bytes_received) + sizeof(uint64_t)) {
    info->tcpi_bytes_acked += sent;
    info->tcpi_bytes_received += received;
  }
  if (*length >= offsetof(tcp_info, tcpi_bytes_sent) + sizeof(uint64_t)) info->tcpi_bytes_sent += sent;
  return result;
}

HETEROSOCK_EXPORT int ioctl(int fd, IoctlRequest request, ...) {
  va_list arguments;
  va_start(arguments, request);
  const long argument = va_arg(arguments, long);
  va_end(arguments);
  if (request == FIONCLEX) FenceHandedOn(fd);
  const int result = real.ioctl(fd, request, argument);
  uint32_t slot;
  if (result != 0 || !StreamOf(fd, &slot)) [[likely]]
    return result;
  int* value = reinterpret_cast<int*>(argument);
  switch (request) {
    case FIONBIO:
      Slots::Get(slot).nonblocking.store(*value != 0);
      break;
    case SIOCINQ:
      *value = static_cast<int>(ReadableBytes(slot, static_cast<uint64_t>(*value)));
      break;
    case FIOASYNC:  // as F_SETFL with O_ASYNC
      if (*value != 0) FenceAndSettle(slot, fd, Reason::kSocketOption);
      break;
    case SIOCOUTQ:
    case SIOCOUTQNSD:
      // What lies in the ring has reached the other end; so has all of TCP once that reads the ring.
      if (RingWasRead(slot)) *value = 0;
      break;
    default:
      break;
  }
  return result;
}

HETEROSOCK_EXPORT int sockatmark(int fd) { return real.sockatmark(fd); }

// For tests and tools in the process itself, found by dlsym: bit 0 when the descriptor sends to shared memory, bit 1
// when it receives from it; 0 for everything else.
HETEROSOCK_EXPORT int heterosock_moved(int fd) {
  uint32_t slot;
  if (!StreamOf(fd, &slot)) return 0;
  const Slot& state = Slots::Get(slot);
  return (state.tx.mode.load() == Mode::kRing ? 1 : 0) | (state.rx.mode.load() == Mode::kRing ? 2 : 0);
}
