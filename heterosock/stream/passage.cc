#include "heterosock/stream/passage.h"
#include "heterosock/stream/direction.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>

#include "heterosock/lib/quiet.h"
#include "heterosock/lib/trace.h"
#include "heterosock/notify/bell.h"
#include "heterosock/ring/ring.h"
#include "heterosock/stream/patience.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {
namespace {

// tcpi_state from which on the peer's FIN has come, or nothing comes any more: TCP_TIME_WAIT, and those behind it
// (include/net/tcp_states.h; linux/tcp.h does not have it). Listeners, among them, are not connections.
constexpr uint8_t kTimeWait = 6;
constexpr uint64_t kCopiesNs = 1'000'000'000;  // what a living sender brings back is there in far less

// Throws away up to `most` bytes of TCP (tcp(7): MSG_TRUNC). Returns how many are left to be thrown away. An error that
// the kernel tells meanwhile is kept for the program: it is told once.
uint64_t Drop(Slot& slot, int fd, uint64_t most) {
  while (most > 0) {
    const long got = Syscall(SYS_recvfrom, fd, 0, static_cast<long>(most), MSG_TRUNC | MSG_DONTWAIT, 0, 0);
    if (got == -EINTR) continue;
    if (got == -EAGAIN) return most;
    if (got < 0) slot.rx.reset.store(static_cast<uint32_t>(-got));
    if (got <= 0) return 0;  // the end comes first: there are no more
    most -= static_cast<uint64_t>(got);
  }
  return 0;
}

// What of the ring is on TCP too: the offsets [from, to). False: it cannot be.
bool Copies(const layout::SideLines& peer, uint64_t ring_bytes, uint64_t tail, uint64_t* from, uint64_t* to) {
  *from = peer.control.continue_at.load(std::memory_order_acquire) - 1;
  *to = peer.control.returned_to.load(std::memory_order_relaxed) - 1;
  return ring::Used(tail, *from, ring_bytes) != ring::kImpossible && *to >= *from && *to <= tail;
}

// Throws away what was read from the ring up to `head`. True when TCP goes on at the first byte that was not.
bool DropRead(Slot& slot, int fd, uint64_t from, uint64_t to, uint64_t head) {
  const uint64_t read = head < to ? head : to;
  if (read < from) return false;
  const uint64_t due = read - from;
  if (slot.rx.dropped < due) slot.rx.dropped = due - Drop(slot, fd, due - slot.rx.dropped);
  return slot.rx.dropped == due;
}

// What the kernel counts as received: at the end of a stream that is one more (tcp_fin(): the FIN is in the sequence).
uint64_t TcpCounted(int fd, bool* ended) {
  tcp_info info = {};
  socklen_t length = sizeof info;
  Syscall(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, reinterpret_cast<long>(&info), reinterpret_cast<long>(&length));
  *ended = info.tcpi_state >= kTimeWait;
  return info.tcpi_bytes_received;
}

// Without the end of the stream, which SIOCINQ does not count.
uint64_t TcpReceived(int fd) {
  bool ended = false;
  const uint64_t counted = TcpCounted(fd, &ended);
  return counted - (ended && counted != 0 ? 1 : 0);
}

// Nothing more arrives over TCP, and the ring's bytes were not brought there: nobody is left who would.
bool LeftInRing(const Slot& slot, const LocalChannel& channel, int fd) {
  if (!TcpEnded(fd)) return false;
  // What the peer said before its end is visible now.
  const layout::SideLines& peer = channel.peer();
  return peer.control.continue_at.load(std::memory_order_acquire) == 0 &&
         peer.control.returned_to.load(std::memory_order_acquire) == 0 &&
         peer.sender.tail.load(std::memory_order_acquire) != slot.rx.head.load(std::memory_order_relaxed);
}

uint64_t Queued(int fd) {
  int queued = 0;
  Syscall(SYS_ioctl, fd, SIOCINQ, reinterpret_cast<long>(&queued));
  return static_cast<uint64_t>(queued);
}

}  // namespace

Passage PassToTcp(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  const layout::SideLines& peer = channel.peer();
  const uint64_t head = slot.rx.head.load(std::memory_order_relaxed);
  const bool returning = peer.control.returning.load(std::memory_order_acquire) != 0;
  if (peer.control.continue_at.load(std::memory_order_acquire) == 0 &&
      (!returning || peer.sender.tail.load(std::memory_order_acquire) != head))
    return Passage::kRing;
  const SignalsBlocked quiet;
  if (peer.control.continue_at.load(std::memory_order_acquire) == 0) {
    // It writes copies right now; or it died meanwhile, and then all that came are copies.
    if (!TcpEnded(fd)) return Passage::kDropping;
    if (peer.control.continue_at.load(std::memory_order_acquire) == 0) {
      Drop(slot, fd, channel.ring_bytes);
      if (slot.rx.reset.load() != 0) return Passage::kRing;
      LeaveToKernel(index, fd);
      return Passage::kTcp;
    }
  }
  const uint64_t tail = peer.sender.tail.load(std::memory_order_acquire);
  uint64_t from = 0, to = 0;
  if (!Copies(peer, channel.ring_bytes, tail, &from, &to) || from > tail || head > tail) return Passage::kImpossible;
  if (tail != head && to != tail) return Passage::kRing;
  const bool there = DropRead(slot, fd, from, to, head);
  if (slot.rx.reset.load() != 0) return Passage::kRing;  // which is where the program is told of it
  // TCP is as good as the ring once it has all that the ring has.
  if (!there) return tail != head ? Passage::kRing : Passage::kDropping;
  const uint64_t received = TcpReceived(fd), queued = Queued(fd);
  if (queued < tail - head) return Passage::kRing;
  slot.rx.tcp_base = received - (queued - (tail - head));
  slot.rx.mode.store(Mode::kPlain, std::memory_order_release);
  Trace("fd %d: receives from TCP again", fd);
  return Passage::kTcp;
}

bool CopiesAlone(uint32_t index, uint64_t seen) {
  const LocalChannel& channel = Slots::Local(index);
  if (channel.page == nullptr || Slots::Get(index).rx.mode.load(std::memory_order_relaxed) != Mode::kRing) return false;
  const layout::SideLines& peer = channel.peer();
  return peer.control.returning.load(std::memory_order_acquire) != 0 &&
         peer.control.continue_at.load(std::memory_order_acquire) == 0 &&
         peer.sender.tail.load(std::memory_order_acquire) == seen;
}

uint64_t ArrivedOverTcp(uint32_t index, int fd) {
  const Slot& slot = Slots::Get(index);
  const LocalChannel& channel = Slots::Local(index);
  if (channel.page == nullptr) return TcpReceived(fd);
  const layout::ControlLine& control = channel.peer().control;
  const Mode mode = slot.rx.mode.load(std::memory_order_relaxed);
  if (mode == Mode::kPlain && slot.rx.tcp_base == 0) return TcpReceived(fd);
  const bool back = control.continue_at.load(std::memory_order_acquire) != 0;
  if (mode == Mode::kRing && !back) return control.switch_at.load() - 1;
  // Asked first: what TCP has now was sent before a switch, and before a way back, that are not seen afterwards.
  const uint64_t received = TcpReceived(fd);
  const uint64_t switch_at = control.switch_at.load(std::memory_order_acquire);
  if (switch_at == 0) return received;
  const uint64_t before = switch_at - 1;
  if (mode == Mode::kPlain) return before + received - slot.rx.tcp_base;
  // The sender came back, and the receiver has not noticed yet: behind what was sent before the switch TCP has copies
  // of the ring's bytes, then what is new.
  const uint64_t from = control.continue_at.load(std::memory_order_acquire);
  const uint64_t copies = from != 0 ? control.returned_to.load(std::memory_order_relaxed) - from : 0;
  if (from != 0 && received > before + copies) return received - copies;
  return mode == Mode::kTcp && received < before ? received : before;
}

void LeaveToKernel(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  const LocalChannel& channel = Slots::Local(index);
  const uint64_t switch_at = channel.page != nullptr ? channel.peer().control.switch_at.load() : 0;
  if (switch_at != 0 && TcpEnded(fd)) {
    const uint64_t received = TcpReceived(fd);
    slot.rx.tcp_base = switch_at - 1 + received - ArrivedOverTcp(index, fd);
  }
  slot.rx.mode.store(Mode::kPlain, std::memory_order_release);
}

namespace {

// The other end came back by itself at the same time, perhaps from a byte that we have read since: copies of such bytes
// are thrown away. False: it does not say from which, or they do not come.
bool DropCopies(Slot& slot, int fd, const LocalChannel& channel, uint64_t head) {
  const layout::SideLines& peer = channel.peer();
  if (head == 0) return true;
  Patience patience(fd, kCopiesNs);
  while (peer.control.continue_at.load(std::memory_order_acquire) == 0) {
    if (peer.control.returning.load(std::memory_order_acquire) != layout::kSenderReturns) return true;
    if (patience.Again()) continue;
    // It died in the middle: then all that came are copies. Of what else is in the ring some may be there, too.
    if (!TcpEnded(fd) || peer.sender.tail.load() != head) return false;
    if (peer.control.continue_at.load(std::memory_order_acquire) != 0) break;
    Drop(slot, fd, channel.ring_bytes);
    return true;
  }
  uint64_t from = 0, to = 0;
  if (!Copies(peer, channel.ring_bytes, peer.sender.tail.load(), &from, &to) || head < from) return false;
  while (!DropRead(slot, fd, from, to, head) && slot.rx.reset.load() == 0) {
    if (!patience.Again()) return false;
  }
  return true;
}

}  // namespace

void RecallReceive(uint32_t index, int fd, Reason reason) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  if (!LockReceive(index)) return;
  const bool here = channel.page != nullptr && slot.rx.mode.load(std::memory_order_relaxed) != Mode::kPlain &&
                    slot.broken.load() == 0;
  // Linux would have these bytes in the socket's queue, in front of the error: our calls go on reading the ring.
  if (here && reason != Reason::kSeccomp && LeftInRing(slot, channel, fd)) {
    Trace("fd %d: the other end is gone, and what it left is read from shared memory", fd);
  } else if (here) {
    const SignalsBlocked quiet;
    layout::SideLines& own = channel.own();
    const layout::SideLines& peer = channel.peer();
    const uint64_t head = slot.rx.head.load(std::memory_order_relaxed);
    own.control.recall_at.store(head + 1, std::memory_order_relaxed);
    own.wait.flags.fetch_or(layout::kFlagWantTcp, std::memory_order_release);
    own.counters.fenced.store(static_cast<uint32_t>(reason), std::memory_order_relaxed);
    FullFence();
    // Rung without looking whether somebody sleeps: this is rare, and a sleeper of any kind must see it.
    bell::Ring(channel.peer_bell);
    if (peer.control.returning.load(std::memory_order_acquire) != 0 && !DropCopies(slot, fd, channel, head))
      Break(index, fd, "it does not say what it brought back");
    // An error that the kernel has told us is told by the calls that ask here.
    if (slot.broken.load() == 0 && slot.rx.reset.load() == 0) LeaveToKernel(index, fd);
    Trace("fd %d: asked the other end to send over TCP (%s)%s", fd, Text(reason),
          peer.control.switch_at.load() == 0 ? ", it had not switched" : "");
  }
  slot.rx.lock.Release();
}

namespace {

// Where receiving goes on when all that TCP still has was sent before the switch: there first, if any of it is unread.
// Of that another thread may have read a part since the recall, uncounted. False: not all of it arrived.
bool FindPlace(Slot& slot, const LocalChannel& channel, int fd, Mode* mode) {
  const uint64_t switch_at = channel.peer().control.switch_at.load(std::memory_order_acquire);
  bool ended = false;
  if (switch_at == 0 || TcpCounted(fd, &ended) < switch_at - 1) return false;
  const uint64_t before = switch_at - 1, queued = Queued(fd), counted = slot.rx.calls.bytes();
  const uint64_t read = queued < before ? before - queued : 0;
  if (read > counted) slot.rx.calls.Add(read - counted);
  *mode = read < before && counted < before ? Mode::kTcp : Mode::kRing;
  return true;
}

}  // namespace

bool TakeBackRecall(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  const LocalChannel& channel = Slots::Local(index);
  if (!LockReceive(index)) return false;
  // Where somebody has begun to answer, another thread may have read a part of it from TCP.
  Mode mode = Mode::kPlain;
  const bool back =
      channel.page != nullptr && slot.rx.mode.load(std::memory_order_relaxed) == Mode::kPlain &&
      slot.broken.load() == 0 && slot.reason.load() != Reason::kSeccomp &&
      channel.own().control.recall_at.load(std::memory_order_relaxed) != 0 && LeftInRing(slot, channel, fd) &&
      channel.peer().control.returning.load(std::memory_order_acquire) == 0 && FindPlace(slot, channel, fd, &mode);
  if (back) {
    slot.rx.mode.store(mode, std::memory_order_release);
    Trace("fd %d: the other end ended before it answered, and what it left is read from shared memory", fd);
  }
  slot.rx.lock.Release();
  return back;
}

}  // namespace heterok8s::heterosock
