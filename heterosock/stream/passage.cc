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
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {
namespace {

constexpr uint64_t kCopiesNs = 2'000'000'000;  // what a living sender brings back is there in far less

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

uint64_t TcpReceived(int fd) {
  tcp_info info = {};
  socklen_t length = sizeof info;
  Syscall(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, reinterpret_cast<long>(&info), reinterpret_cast<long>(&length));
  return info.tcpi_bytes_received;
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
    if ((PollNow(fd, POLLRDHUP) & (POLLRDHUP | POLLHUP | POLLERR)) == 0) return Passage::kDropping;
    if (peer.control.continue_at.load(std::memory_order_acquire) == 0) {
      Drop(slot, fd, channel.ring_bytes);
      slot.rx.mode.store(Mode::kPlain, std::memory_order_release);
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

uint64_t ArrivedOverTcp(uint32_t index, int fd) {
  const Slot& slot = Slots::Get(index);
  const LocalChannel& channel = Slots::Local(index);
  const uint64_t switch_at = channel.page != nullptr ? channel.peer().control.switch_at.load() : 0;
  const uint64_t before = switch_at == 0 ? ~uint64_t{0} : switch_at - 1;
  switch (slot.rx.mode.load(std::memory_order_relaxed)) {
    case Mode::kRing:
      return before;
    case Mode::kPlain:
      return slot.rx.tcp_base == 0 ? TcpReceived(fd) : before + TcpReceived(fd) - slot.rx.tcp_base;
    default: {
      const uint64_t received = TcpReceived(fd);
      return received < before ? received : before;
    }
  }
}

void RecallReceive(uint32_t index, int fd, Reason reason) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  if (!LockReceive(index)) return;
  if (channel.page != nullptr && slot.rx.mode.load(std::memory_order_relaxed) != Mode::kPlain) {
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
    if (peer.control.returning.load(std::memory_order_relaxed) != 0) {
      // It came back by itself at the same time, perhaps from a byte that we have read since.
      const uint64_t end = Nanoseconds() + kCopiesNs;
      while (peer.control.continue_at.load(std::memory_order_acquire) == 0 && Nanoseconds() < end) sched_yield();
      uint64_t from = 0, to = 0;
      while (Copies(peer, channel.ring_bytes, peer.sender.tail.load(), &from, &to) &&
             !DropRead(slot, fd, from, to, head) && head >= from && slot.rx.reset.load() == 0 && Nanoseconds() < end) {
        sched_yield();
      }
    }
    slot.rx.mode.store(Mode::kPlain, std::memory_order_release);
    Trace("fd %d: asked the other end to send over TCP (%s)%s", fd, Text(reason),
          peer.control.switch_at.load() == 0 ? ", it had not switched" : "");
  }
  slot.rx.lock.Release();
}

}  // namespace heterok8s::heterosock
