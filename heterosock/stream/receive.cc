// Receiving: from TCP up to the switch, then from the ring, then perhaps from TCP again; and how to wait for more.
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/lib/process.h"
#include "heterosock/lib/quiet.h"
#include "heterosock/lib/real.h"
#include "heterosock/lib/trace.h"
#include "heterosock/notify/bell.h"
#include "heterosock/notify/spin.h"
#include "heterosock/ring/ring.h"
#include "heterosock/stream/direction.h"
#include "heterosock/stream/iov.h"
#include "heterosock/stream/passage.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {
namespace {

constexpr uint64_t kAskKernelUs = 2;  // how stale "no FIN yet" may be for a program that polls with recv()
constexpr size_t kMostIovecs = 64;

long KernelReceive(int fd, const IovCursor& cursor, size_t most, int flags) {
  iovec part[kMostIovecs];
  msghdr message = {};
  message.msg_iov = part;
  message.msg_iovlen = cursor.Rest(part, kMostIovecs, most);
  return Syscall(SYS_recvmsg, fd, reinterpret_cast<long>(&message), (flags & ~MSG_WAITALL) | MSG_DONTWAIT);
}

class Receiver {
 public:
  Receiver(uint32_t index, int fd, const iovec* iov, size_t count, int flags)
      : slot_(Slots::Get(index)),
        rx_(slot_.rx),
        channel_(Slots::Local(index)),
        index_(index),
        fd_(fd),
        flags_(flags),
        cursor_(iov, count),
        deadline_(fd, SO_RCVTIMEO) {}

  ssize_t Run() {
    if (!LockReceive(index_)) return -EAGAIN;
    generation_ = slot_.generation;
    const ssize_t result = Loop();
    rx_.lock.Release();
    if (convert_) EpollConvert(index_);
    return result;
  }

 private:
  // What one look brought: bytes (perhaps the last ones wanted), nothing yet, or an end.
  enum Look { kMore, kEmpty, kEnd };

  ssize_t Loop() {
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
      if (waited < 0) return done_ > 0 ? done_ : waited;
    }
  }

  // What came before a reset is read before it is told.
  bool NothingQueued(Mode mode) const {
    int queued = 0;
    if (mode == Mode::kTcp) Syscall(SYS_ioctl, fd_, SIOCINQ, reinterpret_cast<long>(&queued));
    return channel_.page == nullptr ||
           (queued == 0 && channel_.peer().sender.tail.load(std::memory_order_acquire) == rx_.head.load());
  }

  // The direction is on TCP. What a call has already taken from the ring is returned; MSG_WAITALL goes on in the
  // kernel.
  ssize_t FromKernel() {
    if (done_ == 0) return kUseKernel;
    if (flags_ & MSG_PEEK) return done_;
    // An error or the end is for the next call: this one has received something.
    int queued = 0;
    Syscall(SYS_ioctl, fd_, SIOCINQ, reinterpret_cast<long>(&queued));
    if (queued == 0 && (!(flags_ & MSG_WAITALL) || (PollNow(fd_, POLLRDHUP) & (POLLRDHUP | POLLERR | POLLHUP)) != 0))
      return done_;
    if (!(flags_ & MSG_WAITALL)) {
      const long more = KernelReceive(fd_, cursor_, cursor_.Total(), flags_);
      return more > 0 ? done_ + more : done_;
    }
    iovec part[kMostIovecs];
    msghdr message = {};
    message.msg_iov = part;
    message.msg_iovlen = cursor_.Rest(part, kMostIovecs, ~size_t{0});
    rx_.lock.Release();
    const long got = Syscall(SYS_recvmsg, fd_, reinterpret_cast<long>(&message), flags_);
    LockReceive(index_);
    return got > 0 ? done_ + got : done_;
  }

  Look End(ssize_t result) {
    result_ = done_ > 0 ? done_ : result;
    return kEnd;
  }

  void Took(size_t n) {
    done_ += static_cast<ssize_t>(n);
    cursor_.Advance(n);
  }

  // Armed, and the peer may or may not have switched. The order of the looks matters: bytes that the kernel holds now
  // were written before a switch that we do not see afterwards. Reading more could take bytes that come after the
  // ring's.
  Look LookAtTcp() {
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
        convert_ = true;
        boundary_ = true;
        Trace("fd %d: receives from shared memory after %llu bytes of TCP", fd_,
              static_cast<unsigned long long>(received));
        return kMore;
      }
    }
    if (most == 0) {
      // Nothing queued: the end of the stream, an error, or bytes that came just now.
      char byte;
      const long peeked = Syscall(SYS_recvfrom, fd_, reinterpret_cast<long>(&byte), 1, MSG_PEEK | MSG_DONTWAIT, 0, 0);
      if (peeked > 0) return kMore;
      if (peeked == -EAGAIN || peeked == -EINTR) return kEmpty;
      if (channel_.peer().control.switch_at.load(std::memory_order_acquire) != 0) return kMore;
      if (peeked == 0 && PeerEnded(index_, fd_)) return kMore;  // it left bytes unread: the kernel has an error now
      return End(peeked);
    }
    const bool peek = (flags_ & MSG_PEEK) != 0;
    const long got = peek ? KernelReceive(fd_, cursor_, most, flags_) : ReceiveCounted(most);
    if (got == -EAGAIN || got == -EINTR) return kEmpty;
    if (got <= 0) return End(got);
    Took(static_cast<size_t>(got));
    if (peek) {
      // The last of TCP, and room for more: the ring's first bytes are next.
      if (switch_at != 0 && static_cast<uint64_t>(got) == most && !cursor_.done()) return LookAtRing();
      return kMore;
    }
    boundary_ = switch_at != 0;
    return kMore;
  }

  // A signal comes when the call has ended: a handler that jumps away then must not take bytes along uncounted.
  long ReceiveCounted(size_t most) {
    const SignalsBlocked quiet;
    const long got = KernelReceive(fd_, cursor_, most, flags_);
    if (got > 0) rx_.calls.Add(static_cast<uint64_t>(got));
    return got;
  }

  Look LookAtRing() {
    layout::SideLines& peer = channel_.peer();
    uint64_t head = rx_.head.load(std::memory_order_relaxed);
    uint64_t tail = peer.sender.tail.load(std::memory_order_acquire);
    if (rx_.shut_at != 0 && tail > rx_.shut_at - 1) tail = rx_.shut_at - 1;
    if (tail != head && peer.control.continue_at.load(std::memory_order_relaxed) != 0) {
      const Passage passage = PassToTcp(index_, fd_);
      if (passage == Passage::kImpossible) return Corrupt("continues elsewhere");
      if (passage == Passage::kTcp) {
        convert_ = true;
        boundary_ = true;
        return kMore;
      }
    }
    if (tail == head && done_ > 0 && !(flags_ & MSG_WAITALL) &&
        peer.control.continue_at.load(std::memory_order_relaxed) == 0)
      return kEmpty;
    if (tail == head) return rx_.shut_at != 0 ? End(0) : LookBehindRing(head);
    const uint64_t size = peer.sender.ring_size.load(std::memory_order_relaxed);
    const uint64_t base = peer.sender.ring_base.load(std::memory_order_relaxed);
    if (!ring::ValidSize(size, channel_.ring_bytes, layout::kMinRingBytes)) return Corrupt("ring size");
    const uint64_t used = ring::Used(tail, head, size);
    if (used == ring::kImpossible) return Corrupt("tail");
    const bool discard = (flags_ & MSG_TRUNC) != 0;  // tcp(7): bytes are dropped, not copied
    const uint64_t taken_from = head;
    size_t wanted = static_cast<size_t>(used);
    IovCursor place = cursor_;
    size_t copied = 0;
    while (wanted > 0 && !place.done()) {
      const size_t n = wanted < place.size() ? wanted : place.size();
      if (!discard) ring::CopyOut(channel_.in, size, (head - base) & (size - 1), place.data(), n);
      place.Advance(n);
      head += n;
      copied += n;
      wanted -= n;
    }
    if (flags_ & MSG_PEEK) {
      // Peeking for all of it: all must be there, or as much as a ring can hold.
      const bool last = peer.control.continue_at.load(std::memory_order_acquire) != 0;
      if ((flags_ & MSG_WAITALL) && copied < cursor_.Total() && used < size && !at_end_ && !last &&
          !slot_.nonblocking.load(std::memory_order_relaxed) && !(flags_ & MSG_DONTWAIT)) {
        peek_from_ = tail;
        return LookBehindRing(taken_from) == kEnd ? (result_ = static_cast<ssize_t>(copied), kEnd) : kEmpty;
      }
      done_ += static_cast<ssize_t>(copied);
      // Behind the last of the ring TCP goes on, unless it begins with copies.
      if (last && !place.done() && peer.control.returned_to.load() == peer.control.continue_at.load()) {
        const long more = KernelReceive(fd_, place, place.Total(), flags_);
        if (more > 0) done_ += more;
      }
      return kMore;
    }
    rx_.head.store(head, std::memory_order_relaxed);
    layout::SideLines& own = channel_.own();
    own.receiver.head.store(head, std::memory_order_release);
    Count(own.counters.receives);
    FullFence();
    const uint32_t asleep = peer.wait.tx_sleep.load(std::memory_order_relaxed);
    if ((asleep & 1) != 0 && asleep != rx_.rang && ring::Roomy(tail - head, size)) {
      rx_.rang = asleep;
      own.wait.rang_at.store(Cycles(), std::memory_order_relaxed);
      bell::Ring(channel_.peer_bell);
      Count(own.counters.rings);
    }
    done_ += static_cast<ssize_t>(copied);
    cursor_ = place;
    boundary_ = tail == head && peer.control.continue_at.load(std::memory_order_relaxed) != 0;
    return kMore;
  }

  // The ring is empty: has the peer gone back to TCP, has the kernel seen its end?
  Look LookBehindRing(uint64_t head) {
    layout::SideLines& peer = channel_.peer();
    switch (PassToTcp(index_, fd_)) {
      case Passage::kRing:
        if (peer.control.continue_at.load(std::memory_order_relaxed) != 0) return kMore;  // there came more meanwhile
        break;
      case Passage::kDropping:
        dropping_ = true;
        return kEmpty;
      case Passage::kTcp:
        convert_ = true;
        boundary_ = true;
        return kMore;
      case Passage::kImpossible:
        return Corrupt("continues elsewhere");
    }
    const uint64_t now = Cycles();
    const bool fin = (peer.wait.flags.load(std::memory_order_relaxed) & layout::kFlagFin) != 0;
    if (!fin && !rx_.kernel_event.load(std::memory_order_relaxed) &&
        now - rx_.checked < kAskKernelUs * process.cycles_per_us) {
      return kEmpty;
    }
    rx_.checked = now;
    char byte;
    const long peeked = Syscall(SYS_recvfrom, fd_, reinterpret_cast<long>(&byte), 1, MSG_PEEK | MSG_DONTWAIT, 0, 0);
    if (peeked == -EAGAIN || peeked == -EINTR) {
      rx_.kernel_event.store(0, std::memory_order_relaxed);
      return kEmpty;
    }
    if (peeked < 0) return Reset(peeked);
    // What the peer put into the ring before its end became visible to the kernel is visible to us now.
    if (peer.sender.tail.load(std::memory_order_acquire) != head ||
        peer.control.continue_at.load(std::memory_order_acquire) != 0) {
      rx_.kernel_event.store(1, std::memory_order_relaxed);
      return kMore;
    }
    if (peeked == 0) {
      rx_.kernel_event.store(1, std::memory_order_relaxed);  // the end stays
      at_end_ = true;
      if (PeerEnded(index_, fd_)) return kMore;
      return End(0);
    }
    if (peer.control.returning.load(std::memory_order_acquire) != 0)
      return kMore;  // it is about to say that it came back
    // Bytes on TCP without a way back announced: a process that shares the peer's socket wrote behind its library's
    // back.
    const long got = KernelReceive(fd_, cursor_, cursor_.Total(), flags_);
    if (got <= 0) return got == -EAGAIN ? kEmpty : End(got);
    Took(static_cast<size_t>(got));
    return kMore;
  }

  // Told once, and by a call that received nothing.
  Look Reset(long error) {
    if (done_ > 0) {
      rx_.reset.store(static_cast<uint32_t>(-error));
      return End(0);
    }
    rx_.mode.store(Mode::kPlain, std::memory_order_release);
    convert_ = true;
    return End(error);
  }

  Look Corrupt(const char* what) {
    Break(index_, fd_, what);
    return End(-ECONNRESET);
  }

  bool Changed() const {
    layout::SideLines& peer = channel_.peer();
    if (rx_.mode.load(std::memory_order_relaxed) != Mode::kRing)
      return peer.control.switch_at.load(std::memory_order_acquire) != seen_switch_;
    const uint64_t from = peek_from_ != 0 ? peek_from_ : rx_.head.load(std::memory_order_relaxed);
    return peer.sender.tail.load(std::memory_order_acquire) != from ||
           (peer.control.continue_at.load(std::memory_order_relaxed) != 0 && !dropping_);
  }

  // Returns 0 to look again, or -errno. Enters and leaves with the lock held.
  ssize_t Wait() {
    layout::SideLines& own = channel_.own();
    if (rx_.mode.load(std::memory_order_relaxed) == Mode::kRing) {
      own.wait.cpu.store(CurrentCpu(), std::memory_order_relaxed);
      // Looking goes on under the lock, so that nobody unmaps what we look at; it lasts tens of microseconds at most.
      // Nothing is under way: a handler of this thread may receive, or close.
      Spinner spinner(channel_.peer().wait.cpu.load(std::memory_order_relaxed));
      rx_.lock.Rests(true);
      bool changed = false;
      while (!changed && spinner.Again()) changed = channel_.page == nullptr || Changed();
      rx_.lock.Rests(false);
      if (slot_.generation != generation_ || channel_.page == nullptr) return -EBADF;
      if (changed) {
        spinner.Succeeded();
        Count(own.counters.spins);
        return 0;
      }
    }
    if (!MayBlock(slot_, fd_)) return -EAGAIN;
    if (deadline_.Expired()) return -EAGAIN;
    const bool poke = EnterBell(index_);
    bell::Arm(own.wait.rx_sleep, rx_.sleep);
    const bool changed = Changed();
    Count(own.counters.sleeps);
    pollfd sources[2] = {{fd_, POLLIN | POLLRDHUP, 0}, {channel_.bell_dead ? -1 : channel_.own_bell, POLLIN, 0}};
    timespec left = {};
    const timespec* timeout = changed ? &left : deadline_.Left(&left);
    rx_.lock.Release();
    if (poke) EpollPoke(index_);
    ServePeer(index_, fd_);
    errno = 0;
    const int n = real.ppoll(sources, 2, timeout, nullptr);  // libc's: a cancellation point, as recv() is one
    const int error = errno;
    LockReceive(index_);
    LeaveBell(index_);
    if (slot_.generation != generation_ || channel_.page == nullptr) return -EBADF;  // closed while we slept
    if (n > 0 && (sources[1].revents & POLLIN) != 0)
      LearnWakeCost(channel_.peer().wait.rang_at.load(std::memory_order_relaxed));
    if (n > 0 && (sources[1].revents & (POLLIN | POLLHUP)) == POLLHUP) channel_.bell_dead = true;
    if (n > 0 && sources[0].revents != 0) rx_.kernel_event.store(1, std::memory_order_relaxed);
    if (n < 0 && error == EINTR && (done_ > 0 || deadline_.Set() || !CallRestarts())) return -EINTR;
    return 0;
  }

  static void Count(layout::Shared<uint64_t>& counter) {
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }

  Slot& slot_;
  ReceiveState& rx_;
  LocalChannel& channel_;
  const uint32_t index_;
  const int fd_;
  const int flags_;
  IovCursor cursor_;
  Deadline deadline_;
  ssize_t done_ = 0;
  ssize_t result_ = 0;
  uint64_t seen_switch_ = 0;
  uint64_t peek_from_ = 0;
  uint32_t generation_ = 0;
  bool boundary_ = false;  // what was taken ended where another queue begins
  bool convert_ = false;
  bool at_end_ = false;
  bool dropping_ = false;  // what TCP has is in part what the ring had
};

}  // namespace

ssize_t RingReceive(uint32_t index, int fd, const iovec* iov, size_t count, int flags) {
  return Receiver(index, fd, iov, count, flags).Run();
}

}  // namespace heterok8s::heterosock
