// Receiving from the ring: what lies there, what to think of an empty one, and how to wait for more.
#include <sys/ioctl.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/lib/process.h"
#include "heterosock/lib/quiet.h"
#include "heterosock/lib/real.h"
#include "heterosock/notify/bell.h"
#include "heterosock/notify/spin.h"
#include "heterosock/ring/ring.h"
#include "heterosock/stream/direction.h"
#include "heterosock/stream/into_pipe.h"
#include "heterosock/stream/passage.h"
#include "heterosock/stream/receiver.h"

namespace heterok8s::heterosock {
namespace {

// Of bytes behind those that lie there the kernel tells nobody who waits for bytes, unless by SO_RCVLOWAT, which is the
// program's. Both ends are about to leave TCP, so this rarely happens twice.
constexpr timespec kPeekAgain = {0, 1'000'000};
constexpr uint64_t kAskKernelUs = 2;  // how stale "no FIN yet" may be for a program that polls with recv()

}  // namespace

Receiver::Look Receiver::LookAtRing() {
  layout::SideLines& peer = channel_.peer();
  const uint64_t head = rx_.head.load(std::memory_order_relaxed);
  const uint64_t tail = peer.sender.tail.load(std::memory_order_acquire);
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
  if (tail == head) return LookBehindRing(head);
  return TakeFromRing(head, tail);
}

// The bytes [head, tail), or as many as there is room for. On TCP still, a peek has seen what comes before them.
Receiver::Look Receiver::TakeFromRing(uint64_t head, uint64_t tail) {
  layout::SideLines& peer = channel_.peer();
  if (pipe_ >= 0) return TakeIntoPipe(head, tail);
  const uint64_t size = peer.sender.ring_size.load(std::memory_order_relaxed);
  const uint64_t base = peer.sender.ring_base.load(std::memory_order_relaxed);
  if (!ring::ValidSize(size, channel_.ring_bytes, layout::kMinRingBytes)) return Corrupt("ring size");
  const uint64_t used = ring::Used(tail, head, size);
  if (used == ring::kImpossible) return Corrupt("tail");
  const bool discard = (flags_ & MSG_TRUNC) != 0;  // tcp(7): bytes are dropped, not copied
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
    if (rx_.mode.load(std::memory_order_relaxed) == Mode::kTcp) {
      done_ += static_cast<ssize_t>(copied);
      return kMore;
    }
    // Peeking for all of it: all must be there, or as much as a ring can hold.
    const bool last = peer.control.continue_at.load(std::memory_order_acquire) != 0;
    if ((flags_ & MSG_WAITALL) && copied < cursor_.Total() && used < size && !at_end_ && !last &&
        !slot_.nonblocking.load(std::memory_order_relaxed) && !(flags_ & MSG_DONTWAIT)) {
      peek_from_ = tail;
      peeked_ = static_cast<ssize_t>(copied);
      if (LookBehindRing(tail) == kEnd) return result_ = static_cast<ssize_t>(copied), kEnd;
      return at_end_ ? kMore : kEmpty;
    }
    done_ += static_cast<ssize_t>(copied);
    // Behind the last of the ring TCP goes on, unless it begins with copies.
    if (last && !place.done() && peer.control.returned_to.load() == peer.control.continue_at.load()) {
      const long more = KernelReceive(place, place.Total());
      if (more > 0) done_ += more;
    }
    return kMore;
  }
  Publish(head, tail, size);
  done_ += static_cast<ssize_t>(copied);
  cursor_ = place;
  boundary_ = tail == head && peer.control.continue_at.load(std::memory_order_relaxed) != 0;
  return kMore;
}

// Everything before `head` was taken.
void Receiver::Publish(uint64_t head, uint64_t tail, uint64_t size) {
  rx_.head.store(head, std::memory_order_relaxed);
  layout::SideLines& own = channel_.own();
  own.receiver.head.store(head, std::memory_order_release);
  Count(own.counters.receives);
  FullFence();
  const uint32_t asleep = channel_.peer().wait.tx_sleep.load(std::memory_order_relaxed);
  if ((asleep & 1) != 0 && asleep != rx_.rang && ring::Roomy(tail - head, size)) {
    rx_.rang = asleep;
    own.wait.rang_at.store(Cycles(), std::memory_order_relaxed);
    bell::Ring(channel_.peer_bell);
    Count(own.counters.rings);
  }
}

// Copied: pages of a pipe cannot come from shared memory. What the pipe has is taken, whatever becomes of the
// connection meanwhile, and a signal handler that jumps away comes afterwards: else the next reader would find it
// again.
Receiver::Look Receiver::TakeIntoPipe(uint64_t head, uint64_t tail) {
  layout::SideLines& peer = channel_.peer();
  const uint64_t size = peer.sender.ring_size.load(std::memory_order_relaxed);
  const uint64_t base = peer.sender.ring_base.load(std::memory_order_relaxed);
  if (!ring::ValidSize(size, channel_.ring_bytes, layout::kMinRingBytes)) return Corrupt("ring size");
  const uint64_t used = ring::Used(tail, head, size);
  if (used == ring::kImpossible) return Corrupt("tail");
  const size_t wanted = used < cursor_.Total() ? static_cast<size_t>(used) : cursor_.Total();
  const SignalsBlocked quiet;
  const long written = WriteToPipe((head - base) & (size - 1), wanted, size);
  if (written <= 0) return End(written);
  Publish(head + static_cast<uint64_t>(written), tail, size);
  done_ += written;
  return kMore;
}

// Of a ring of `size`, what lies behind `at`. A pipe is a number of pages: into an empty one all of them fit, and where
// there is room at all one does (pipe_write() and pipe_poll() in fs/pipe.c; ours may be smaller than the kernel's).
// Another writer may take that room first: nothing waits for it here, under the receive lock and with signals blocked.
long Receiver::WriteToPipe(uint64_t at, size_t bytes, size_t size) const {
  constexpr size_t kPage = 4096;
  long done = 0;
  while (bytes > 0) {
    int held = 0;
    size_t room = kPage;
    if (Syscall(SYS_ioctl, pipe_, FIONREAD, reinterpret_cast<long>(&held)) == 0 && held == 0)
      room = pipe_bytes_;
    else if ((PollNow(pipe_, POLLOUT) & (POLLOUT | POLLERR)) == 0)
      return done > 0 ? done : kPipeFull;
    size_t n = bytes < room ? bytes : room;
    if (n > size - at) n = size - at;
    const long written = WriteNow(pipe_, channel_.in + at, n);
    if (written <= 0) return done > 0 ? done : written == -EAGAIN ? kPipeFull : written;
    done += written;
    bytes -= static_cast<size_t>(written);
    at = (at + static_cast<size_t>(written)) & (size - 1);
  }
  return done;
}

// The ring has nothing behind `end`: has the peer gone back to TCP, has the kernel seen its end?
Receiver::Look Receiver::LookBehindRing(uint64_t end) {
  layout::SideLines& peer = channel_.peer();
  switch (PassToTcp(index_, fd_)) {
    case Passage::kRing:
      if (peer.control.continue_at.load(std::memory_order_relaxed) != 0) return kMore;  // there came more meanwhile
      if (rx_.reset.load(std::memory_order_relaxed) == 0) break;
      at_end_ = true;
      return kMore;
    case Passage::kDropping:
      if (ReadingShut(fd_)) return End(0);
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
  // Who is about to sleep watches the socket meanwhile.
  const bool waits = (flags_ & MSG_DONTWAIT) == 0 && slot_.nonblocking.load(std::memory_order_relaxed) == 0;
  if (!fin && !rx_.kernel_event.load(std::memory_order_relaxed) &&
      (waits || now - rx_.checked < kAskKernelUs * process.cycles_per_us)) {
    return kEmpty;
  }
  rx_.checked = now;
  char byte;
  const long peeked = Syscall(SYS_recvfrom, fd_, reinterpret_cast<long>(&byte), 1, MSG_PEEK | MSG_DONTWAIT, 0, 0);
  if (peeked == -EAGAIN || peeked == -EINTR) {
    rx_.kernel_event.store(0, std::memory_order_relaxed);
    return kEmpty;
  }
  // What the peer put into the ring before its end became visible to the kernel is visible to us now.
  if (peeked < 0) return Keep(peeked);
  if (peer.sender.tail.load(std::memory_order_acquire) != end ||
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
  if (peer.control.returning.load(std::memory_order_acquire) != 0) {
    // It is about to say that it came back. Where it died before that, what TCP has are copies: there is nothing behind
    // what a peek has seen, and PassToTcp() has the calls that took the last of the ring.
    const bool died = end != rx_.head.load(std::memory_order_relaxed) &&
                      (PollNow(fd_, POLLRDHUP) & (POLLRDHUP | POLLHUP | POLLERR)) != 0 &&
                      peer.control.continue_at.load(std::memory_order_acquire) == 0;
    return died ? End(0) : kMore;
  }
  // Bytes on TCP without a way back announced: a process that shares the peer's socket wrote behind its library's
  // back.
  const long got = KernelReceive(cursor_, cursor_.Total());
  if (got <= 0) return got == -EAGAIN ? kEmpty : Nothing(got);
  Took(static_cast<size_t>(got));
  return kMore;
}

bool Receiver::Changed() const {
  layout::SideLines& peer = channel_.peer();
  if (rx_.mode.load(std::memory_order_relaxed) != Mode::kRing)
    return peer.control.switch_at.load(std::memory_order_acquire) != seen_switch_;
  const uint64_t from = peek_from_ != 0 ? peek_from_ : rx_.head.load(std::memory_order_relaxed);
  return peer.sender.tail.load(std::memory_order_acquire) != from ||
         (peer.control.continue_at.load(std::memory_order_relaxed) != 0 && !dropping_);
}

// Returns 0 to look again, or -errno. Enters and leaves with the lock held.
ssize_t Receiver::Wait() {
  layout::SideLines& own = channel_.own();
  if (rx_.mode.load(std::memory_order_relaxed) == Mode::kRing) {
    NoteCpu(own.wait);
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
  const bool patient = !impatient_ && MayBePatient(index_, 0);
  bell::ArmReceiver(own.wait, rx_.sleep, patient);
  const bool changed = Changed();
  Count(own.counters.sleeps);
  NoteSleep();
  const uint64_t seen = peek_from_ != 0 ? peek_from_ : rx_.head.load(std::memory_order_relaxed);
  const short news = peeks_on_ || CopiesAlone(index_, seen) ? POLLRDHUP : POLLIN | POLLRDHUP;
  pollfd sources[2] = {{fd_, news, 0}, {channel_.bell_dead ? -1 : channel_.own_bell, POLLIN, 0}};
  timespec left = {};
  const timespec* timeout = changed ? &left : deadline_.Left(&left);
  constexpr timespec kPatience = {0, bell::kPatienceNs};
  if (patient && (timeout == nullptr || left.tv_sec > 0 || left.tv_nsec > kPatience.tv_nsec)) timeout = &kPatience;
  if (peeks_on_ && (timeout == nullptr || left.tv_sec > 0 || left.tv_nsec > kPeekAgain.tv_nsec)) timeout = &kPeekAgain;
  const bool serve = PeerWaits(index_);  // who asks later rings
  rx_.lock.Release();
  if (poke) EpollPoke(index_);
  if (serve) ServePeer(index_, fd_);
  errno = 0;
  const int n = PollTwo(sources, 2, timeout);  // libc's ppoll: a cancellation point, as recv() is one
  const int error = errno;
  LockReceive(index_);
  LeaveBell(index_);
  if (slot_.generation != generation_ || channel_.page == nullptr) return -EBADF;  // closed while we slept
  impatient_ = patient && n == 0;
  if (n > 0 && (sources[1].revents & POLLIN) != 0)
    LearnWakeCost(channel_.peer().wait.rang_at.load(std::memory_order_relaxed));
  if (n > 0 && (sources[1].revents & (POLLIN | POLLHUP)) == POLLHUP) channel_.bell_dead = true;
  if (n > 0 && sources[0].revents != 0) rx_.kernel_event.store(1, std::memory_order_relaxed);
  if (n < 0 && error == EINTR && (done_ > 0 || peeked_ > 0 || deadline_.Set() || !CallRestarts())) return -EINTR;
  return 0;
}

}  // namespace heterok8s::heterosock
