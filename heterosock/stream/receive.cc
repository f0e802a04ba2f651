// Receiving: from TCP up to the switch, then from the ring, then perhaps from TCP again.
#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/lib/quiet.h"
#include "heterosock/lib/real.h"
#include "heterosock/lib/trace.h"
#include "heterosock/stream/direction.h"
#include "heterosock/stream/passage.h"
#include "heterosock/stream/receiver.h"
#include "heterosock/stream/sleepers.h"

namespace heterok8s::heterosock {

long Receiver::KernelReceive(const IovCursor& cursor, size_t most) const {
  if (pipe_ >= 0) {
    const size_t bytes = cursor.Total() < most ? cursor.Total() : most;
    const long got = Syscall(SYS_splice, fd_, 0, pipe_, 0, static_cast<long>(bytes), SPLICE_F_NONBLOCK);
    return got == -EAGAIN && (PollNow(pipe_, POLLOUT) & POLLOUT) == 0 ? kPipeFull : got;
  }
  iovec part[kMostIovecs];
  msghdr message = {};
  message.msg_iov = part;
  message.msg_iovlen = cursor.Rest(part, kMostIovecs, most);
  return Syscall(SYS_recvmsg, fd_, reinterpret_cast<long>(&message), (flags_ & ~MSG_WAITALL) | MSG_DONTWAIT);
}

ssize_t Receiver::Run() {
  if (!LockReceive(index_)) return -EAGAIN;
  generation_ = slot_.generation;
  const ssize_t result = Loop();
  rx_.lock.Release();
  if (convert_) EpollConvert(index_);
  return result;
}

ssize_t Receiver::Loop() {
  for (;;) {
    if (slot_.broken.load(std::memory_order_relaxed)) return done_ > 0 ? done_ : -ECONNRESET;
    const Mode mode = rx_.mode.load(std::memory_order_relaxed);
    if (rx_.reset.load(std::memory_order_relaxed) != 0 && mode != Mode::kPlain && NothingQueued(mode)) {
      if (done_ > 0) return done_;
      Reset(-static_cast<long>(rx_.reset.exchange(0)));
      return result_;
    }
    if (slot_.phase.load(std::memory_order_relaxed) < Phase::kArmed || mode == Mode::kPlain ||
        channel_.page == nullptr) {
      return FromKernel();
    }
    const Look look = mode == Mode::kRing ? LookAtRing() : LookAtTcp();
    if (look == kEnd) return result_;
    if (look == kMore && pipe_ >= 0 && done_ > 0) return done_;
    if (look == kMore && mode == Mode::kTcp && PeeksOn()) {
      if (!at_end_ && Wait() < 0) return done_;
      done_ = 0;
      cursor_ = start_;
      continue;
    }
    if (look == kMore) {
      // A call that came to a boundary takes what lies behind it too, as it would from one queue.
      if (cursor_.done() || (done_ > 0 && !boundary_ && ((flags_ & MSG_PEEK) != 0 || !(flags_ & MSG_WAITALL))))
        return done_;
      boundary_ = false;
      continue;
    }
    if (done_ > 0 && !(flags_ & MSG_WAITALL)) return done_;
    if ((flags_ & MSG_DONTWAIT) != 0 || slot_.nonblocking.load(std::memory_order_relaxed))
      return done_ > 0 ? done_ : -EAGAIN;
    const ssize_t waited = Wait();
    if (waited < 0) return done_ > 0 ? done_ : peeked_ > 0 ? peeked_ : waited;
  }
}

// A peek on TCP that wants all of it, and saw a part. A sender that is about to come back is not waited for: copies of
// the ring's bytes may hide what it sends (PeekBehindSwitch()). At the end of the stream it looks once more.
bool Receiver::PeeksOn() {
  constexpr int kAll = MSG_PEEK | MSG_WAITALL;
  peeks_on_ = (flags_ & (kAll | MSG_DONTWAIT)) == kAll && done_ > 0 && static_cast<size_t>(done_) < start_.Total() &&
              !at_end_ && slot_.nonblocking.load(std::memory_order_relaxed) == 0 && channel_.page != nullptr &&
              channel_.peer().control.returning.load(std::memory_order_acquire) == 0;
  if (peeks_on_) at_end_ = (PollNow(fd_, POLLRDHUP) & (POLLRDHUP | POLLERR | POLLHUP)) != 0;
  return peeks_on_;
}

// What came before a reset is read before it is told.
bool Receiver::NothingQueued(Mode mode) const {
  int queued = 0;
  if (mode == Mode::kTcp) Syscall(SYS_ioctl, fd_, SIOCINQ, reinterpret_cast<long>(&queued));
  return channel_.page == nullptr ||
         (queued == 0 && channel_.peer().sender.tail.load(std::memory_order_acquire) == rx_.head.load());
}

// The direction is on TCP. What a call has already taken from the ring is returned, with what the kernel has;
// MSG_WAITALL goes on there. An error or the end is for the next call, as this one has received something: who asks for
// bytes where there are none is told of it.
ssize_t Receiver::FromKernel() {
  if (done_ == 0) return kUseKernel;
  if (flags_ & MSG_PEEK) return done_;
  short news = 0;
  while (!cursor_.done()) {
    int queued = 0;
    Syscall(SYS_ioctl, fd_, SIOCINQ, reinterpret_cast<long>(&queued));
    if (queued > 0 || news == POLLIN) {  // before a byte that is urgent the count may say 0 (tcp_inq())
      news = 0;
      const long got = KernelReceive(cursor_, cursor_.Total());
      if (got == -EAGAIN) continue;  // another reader was first
      if (got <= 0) break;
      Took(static_cast<size_t>(got));
    } else if (news != 0 || !(flags_ & MSG_WAITALL) || (news = AwaitKernel()) == 0) {
      break;
    }
  }
  return done_;
}

// POLLIN, an end, or both; 0 when this call waits no longer. Enters and leaves with the lock held.
short Receiver::AwaitKernel() {
  if ((flags_ & MSG_DONTWAIT) != 0 || !MayBlock(slot_, fd_) || deadline_.Expired()) return 0;
  pollfd source = {fd_, POLLIN | POLLRDHUP, 0};
  timespec left = {};
  const timespec* timeout = deadline_.Left(&left);
  rx_.lock.Release();
  const int n = real.ppoll(&source, 1, timeout, nullptr);
  LockReceive(index_);
  return n > 0 && slot_.generation == generation_ ? source.revents : static_cast<short>(0);
}

Receiver::Look Receiver::End(ssize_t result) {
  result_ = done_ > 0 ? done_ : result;
  return kEnd;
}

void Receiver::Took(size_t n) {
  done_ += static_cast<ssize_t>(n);
  cursor_.Advance(n);
}

// Armed, and the peer may or may not have switched. The order of the looks matters: bytes that the kernel holds now
// were written before a switch that we do not see afterwards. Reading more could take bytes that come after the
// ring's.
Receiver::Look Receiver::LookAtTcp() {
  int queued = 0;
  Syscall(SYS_ioctl, fd_, SIOCINQ, reinterpret_cast<long>(&queued));
  const uint64_t switch_at = channel_.peer().control.switch_at.load(std::memory_order_acquire);
  seen_switch_ = switch_at;  // what Wait() compares with: a switch after this look must not be slept through
  uint64_t most = static_cast<uint64_t>(queued);
  if (switch_at != 0) {
    const uint64_t received = rx_.calls.bytes();
    if (switch_at - 1 < received) return Corrupt("switched before what it had sent");
    most = switch_at - 1 - received;
    if (most == 0) {
      rx_.mode.store(Mode::kRing, std::memory_order_release);
      TellOtherProcesses(index_);
      convert_ = true;
      boundary_ = true;
      Trace("fd %d: receives from shared memory after %llu bytes of TCP", fd_,
            static_cast<unsigned long long>(received));
      return kMore;
    }
  }
  if (most == 0) {
    // Nothing queued: the end of the stream, an error, or bytes that came just now. An error is told once, and to a
    // call that received nothing: the kernel keeps it.
    const short over = POLLERR | POLLHUP;
    if (done_ > 0 && (PollNow(fd_, 0) & over) == over &&
        channel_.peer().control.switch_at.load(std::memory_order_acquire) == 0)
      return End(0);
    char byte;
    const long peeked = Syscall(SYS_recvfrom, fd_, reinterpret_cast<long>(&byte), 1, MSG_PEEK | MSG_DONTWAIT, 0, 0);
    if (peeked > 0) return TakeAtMark();
    if (peeked == -EAGAIN || peeked == -EINTR) return kEmpty;
    if (peeked < 0) return Keep(peeked);  // the peer may have switched before
    if (channel_.peer().control.switch_at.load(std::memory_order_acquire) != 0) return kMore;
    return PeerEnded(index_, fd_) ? kMore : End(0);  // it left bytes unread: the kernel has an error now
  }
  const bool peek = (flags_ & MSG_PEEK) != 0;
  const long got = peek ? KernelReceive(cursor_, most) : ReceiveCounted(most);
  if (got == -EAGAIN || got == -EINTR) return kEmpty;
  if (got <= 0) return Nothing(got);
  if (peek && switch_at != 0 && static_cast<uint64_t>(got) == most && cursor_.Total() > most)
    return PeekBehindSwitch(most);
  Took(static_cast<size_t>(got));
  if (peek) return kMore;
  boundary_ = switch_at != 0;
  return kMore;
}

// The kernel has bytes, and counted none: they came just now, or the first of them is urgent, up to which alone it
// counts (tcp_inq() in include/net/tcp.h). The next receive steps over that one, and may take all that lies behind it:
// who sends out of band has left shared memory for good, so no switch is among it. splice() does not step over it
// (tcp_read_sock() in net/ipv4/tcp.c), and is told so.
Receiver::Look Receiver::TakeAtMark() {
  int at_mark = 0;
  Syscall(SYS_ioctl, fd_, SIOCATMARK, reinterpret_cast<long>(&at_mark));
  if (at_mark == 0) return kMore;
  const bool peek = (flags_ & MSG_PEEK) != 0;
  const long got = peek ? KernelReceive(cursor_, cursor_.Total()) : ReceiveCounted(cursor_.Total());
  if (pipe_ < 0 && (got == -EAGAIN || got == -EINTR)) return kEmpty;
  if (got <= 0) return Nothing(got);
  Took(static_cast<size_t>(got));
  return kMore;
}

// A peek has seen the `before` bytes of TCP that come before the switch, and has room: the ring's bytes are next. When
// the sender has come back and all of them are on TCP too, everything is there in order. Nothing moves here: the bytes
// before the switch are unread, and who passes to TCP would take them for what the ring had.
Receiver::Look Receiver::PeekBehindSwitch(uint64_t before) {
  const layout::ControlLine& control = channel_.peer().control;
  const uint64_t from = control.continue_at.load(std::memory_order_acquire);
  const uint64_t head = rx_.head.load(std::memory_order_relaxed);
  const uint64_t tail = channel_.peer().sender.tail.load(std::memory_order_acquire);
  const bool all_on_tcp = from == head + 1 && control.returned_to.load(std::memory_order_relaxed) == tail + 1;
  int queued = 0;
  if (all_on_tcp) Syscall(SYS_ioctl, fd_, SIOCINQ, reinterpret_cast<long>(&queued));
  // Copies that have not arrived yet are read from the ring; then nothing is behind them. Nor is looked behind those of
  // which TCP took only a part: they lie before what is new.
  if (static_cast<uint64_t>(queued) >= before + (tail - head)) {
    const long got = KernelReceive(cursor_, cursor_.Total());
    Took(got > 0 ? static_cast<size_t>(got) : before);
    return kMore;
  }
  Took(before);
  return tail != head ? TakeFromRing(head, tail) : kMore;
}

// A signal comes when the call has ended: a handler that jumps away then must not take bytes along uncounted.
long Receiver::ReceiveCounted(size_t most) {
  const SignalsBlocked quiet;
  const long got = KernelReceive(cursor_, most);
  if (got > 0) rx_.calls.Add(static_cast<uint64_t>(got));
  return got;
}

// The kernel has told of an error, which it does once. What came before it is looked at again, and read first: Loop()
// tells of it then.
Receiver::Look Receiver::Keep(long error) {
  // Not the socket's: its number was closed meanwhile, or a filter is in front of it. It is told again and again.
  if (error == -EBADF || error == -ENOTSOCK || error == -EACCES || error == -EPERM || error == -ENOSYS)
    return End(error);
  rx_.reset.store(static_cast<uint32_t>(-error));
  rx_.kernel_event.store(1, std::memory_order_relaxed);
  at_end_ = true;
  return kMore;
}

// A receive of the kernel's brought none of the bytes that are due.
Receiver::Look Receiver::Nothing(long got) {
  switch (got) {
    case 0: {
      // Before what lies in the ring a part of the stream was lost: with the reset that was told.
      const uint32_t kept = rx_.reset.exchange(0);
      return kept != 0 ? Reset(-static_cast<long>(kept)) : End(0);
    }
    case -EAGAIN:
    case -EINTR:
    case -EFAULT:
    case -EINVAL:
    case -ENOMEM:
    case -EPIPE:
    case kPipeFull:
      return End(got);  // of this call, or of its pipe
    default: {
      // The socket's own is told where nothing is queued (tcp_recvmsg_locked() in net/ipv4/tcp.c).
      int queued = 0;
      Syscall(SYS_ioctl, fd_, SIOCINQ, reinterpret_cast<long>(&queued));
      return queued > 0 ? End(got) : Keep(got);
    }
  }
}

// Told once, and by a call that received nothing.
Receiver::Look Receiver::Reset(long error) {
  if (done_ > 0) {
    rx_.reset.store(static_cast<uint32_t>(-error));
    return End(0);
  }
  if (TcpEnded(fd_)) {  // an error of which the connection does not die may be told too (IP_RECVERR)
    LeaveToKernel(index_, fd_);
    convert_ = true;
  }
  return End(error);
}

Receiver::Look Receiver::Corrupt(const char* what) {
  Break(index_, fd_, what);
  return End(-ECONNRESET);
}

ssize_t RingReceive(uint32_t index, int fd, const iovec* iov, size_t count, int flags) {
  return Receiver(index, fd, iov, count, flags).Run();
}

ssize_t RingSplice(uint32_t index, int fd, int pipe, size_t pipe_bytes, size_t count) {
  const iovec room = {nullptr, count};
  return Receiver(index, fd, room, pipe, pipe_bytes).Run();
}

}  // namespace heterok8s::heterosock
