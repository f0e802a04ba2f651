// What others ask about a connection: is it ready, how much is under way; and giving up on it.
#include <limits.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/lib/trace.h"
#include "heterosock/notify/bell.h"
#include "heterosock/ring/ring.h"
#include "heterosock/stream/direction.h"
#include "heterosock/stream/passage.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {
namespace {

constexpr short kEnds = POLLRDHUP | POLLHUP | POLLERR;
constexpr short kReadable = POLLIN | POLLRDNORM;  // as tcp_poll() says them
constexpr short kWritable = POLLOUT | POLLWRNORM;

// Sets POLLIN in `ready`. True when the kernel has to be asked as well; `hidden` are the conditions of which it knows
// nothing.
bool LookAtReceive(uint32_t index, int fd, short* ready, short* hidden) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  const uint64_t head = slot.rx.head.load(std::memory_order_relaxed);
  layout::SideLines& peer = channel.peer();
  const Mode mode = slot.rx.mode.load(std::memory_order_relaxed);
  if (mode == Mode::kPlain) return true;
  if (mode == Mode::kTcp) {
    const uint64_t switch_at = peer.control.switch_at.load(std::memory_order_acquire);
    // Until all bytes of TCP were received the kernel alone can say; afterwards the ring counts although nobody
    // switched yet.
    if (switch_at == 0 || switch_at - 1 != slot.rx.calls.bytes()) return true;
  }
  if (mode == Mode::kRing) {
    const Passage passage = PassToTcp(index, fd);
    if (passage == Passage::kTcp || (passage == Passage::kDropping && ReadingShut(fd))) return true;
    if (passage == Passage::kDropping) *hidden = kReadable;
    if (passage == Passage::kImpossible) *ready |= kReadable;  // the program learns it from recv()
  }
  if (peer.sender.tail.load(std::memory_order_acquire) != head) *ready |= kReadable;
  return mode == Mode::kTcp || peer.control.continue_at.load(std::memory_order_acquire) != 0 ||
         slot.rx.kernel_event.load(std::memory_order_relaxed) != 0 ||
         (peer.wait.flags.load(std::memory_order_relaxed) & layout::kFlagFin) != 0;
}

}  // namespace

short Readiness(uint32_t index, int fd, short wanted) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  short ready = 0;
  bool ask = true;
  short hidden = 0;
  short from_kernel = wanted | kEnds;
  if (slot.broken.load(std::memory_order_relaxed))
    return static_cast<short>((wanted & (kReadable | kWritable | POLLRDHUP)) | POLLERR | POLLHUP);
  if (!LockReceive(index)) return 0;
  if (channel.page != nullptr && slot.phase.load(std::memory_order_relaxed) == Phase::kArmed)
    ask = LookAtReceive(index, fd, &ready, &hidden);
  slot.rx.lock.Release();
  if ((wanted & kWritable) != 0 && LockSend(index)) {
    const Mode mode = slot.tx.mode.load(std::memory_order_relaxed);
    if (mode == Mode::kRing && channel.page != nullptr) {
      from_kernel &= static_cast<short>(~kWritable);
      if (RoomToSend(index)) ready |= kWritable;
    } else if (mode == Mode::kReturning) {
      from_kernel &= static_cast<short>(~kWritable);
    } else {
      ask = true;
    }
    slot.tx.lock.Release();
  }
  if (ask) {
    short kernel = PollNow(fd, static_cast<short>(from_kernel | POLLIN));
    if ((kernel & POLLRDHUP) != 0 && PeerEnded(index, fd))
      kernel = PollNow(fd, static_cast<short>(from_kernel | POLLIN));
    slot.rx.kernel_event.store((kernel & (POLLIN | kEnds)) != 0, std::memory_order_relaxed);
    ready |= static_cast<short>(kernel & ~hidden);
    // The end of the stream leaves a socket writable: Linux says so, whatever the ring holds.
    if (kernel & (POLLHUP | POLLERR)) ready |= kWritable;
  }
  if (slot.rx.reset.load(std::memory_order_relaxed) != 0 && slot.rx.mode.load() != Mode::kPlain)
    ready |= kReadable | POLLERR | POLLHUP | POLLRDHUP;
  return static_cast<short>(ready & (wanted | POLLHUP | POLLERR));
}

bool NothingToReceive(uint32_t index) {
  const Slot& slot = Slots::Get(index);
  const LocalChannel& channel = Slots::Local(index);
  if (channel.page == nullptr || slot.rx.mode.load(std::memory_order_relaxed) != Mode::kRing ||
      slot.rx.kernel_event.load(std::memory_order_relaxed) != 0 || slot.rx.reset.load(std::memory_order_relaxed) != 0 ||
      slot.broken.load(std::memory_order_relaxed) != 0) {
    return false;
  }
  const layout::SideLines& peer = channel.peer();
  return peer.sender.tail.load(std::memory_order_acquire) == slot.rx.head.load(std::memory_order_relaxed) &&
         peer.wait.flags.load(std::memory_order_relaxed) == 0 &&
         peer.control.returning.load(std::memory_order_relaxed) == 0 &&
         peer.control.continue_at.load(std::memory_order_relaxed) == 0;
}

bool ArmBell(uint32_t index, short wanted, bool patient, uint32_t sets) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  if ((wanted & (kReadable | POLLRDHUP)) != 0 && LockReceive(index)) {
    patient = patient && MayBePatient(index, sets);
    if (channel.page != nullptr) bell::ArmReceiver(channel.own().wait, slot.rx.sleep, patient);
    slot.rx.lock.Release();
  } else {
    patient = false;
  }
  if ((wanted & kWritable) != 0 && LockSend(index)) {
    if (channel.page != nullptr && slot.tx.mode.load(std::memory_order_relaxed) == Mode::kRing) {
      bell::Arm(channel.own().wait.tx_sleep, slot.tx.sleep);
    }
    slot.tx.lock.Release();
  }
  return patient;
}

namespace {

// Bytes in the ring that were not received; with `on_tcp`, what the kernel holds besides, less what is there twice.
uint64_t Unread(uint32_t index, uint64_t on_tcp) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  if (!LockReceive(index)) return on_tcp;
  uint64_t unread = on_tcp;
  if (channel.page != nullptr && slot.rx.mode.load(std::memory_order_relaxed) != Mode::kPlain) {
    const layout::SideLines& peer = channel.peer();
    const uint64_t tail = peer.sender.tail.load(std::memory_order_acquire);
    const uint64_t used = ring::Used(tail, slot.rx.head.load(std::memory_order_relaxed), channel.ring_bytes);
    const uint64_t switch_at = peer.control.switch_at.load(std::memory_order_acquire);
    uint64_t before = 0, copies = 0;  // on TCP before the ring's bytes; and behind that, of the ring's bytes
    if (slot.rx.mode.load(std::memory_order_relaxed) == Mode::kTcp) {
      before = switch_at == 0 ? on_tcp : switch_at - 1 - slot.rx.calls.bytes();
      if (before > on_tcp) before = on_tcp;
    }
    if (peer.control.returning.load(std::memory_order_acquire) != 0) {
      const uint64_t from = peer.control.continue_at.load(std::memory_order_acquire);
      copies = from == 0 ? on_tcp : peer.control.returned_to.load() - from - slot.rx.dropped;
    }
    const uint64_t behind = on_tcp - before;
    unread = (used == ring::kImpossible ? 0 : used) + before + (behind > copies ? behind - copies : 0);
  }
  slot.rx.lock.Release();
  return unread;
}

}  // namespace

uint64_t UnreadBytes(uint32_t index) { return Unread(index, 0); }
uint64_t ReadableBytes(uint32_t index, uint64_t on_tcp) { return Unread(index, on_tcp); }

int LeftToReceive(uint32_t index, int fd) {
  if (!LockReceive(index)) return 0;
  const bool nothing = NothingToReceive(index);
  Slots::Get(index).rx.lock.Release();
  if (nothing) return 0;
  int queued = 0;
  Syscall(SYS_ioctl, fd, SIOCINQ, reinterpret_cast<long>(&queued));
  uint64_t left = ReadableBytes(index, static_cast<uint64_t>(queued));
  // The end counts (tcp_inq_hint() in net/ipv4/tcp.c); that of SHUT_RD does not.
  if (TcpEnded(fd)) ++left;
  return left < INT_MAX ? static_cast<int>(left) : INT_MAX;
}

void Break(uint32_t index, int fd, const char* what) {
  Slot& slot = Slots::Get(index);
  slot.reason.store(Reason::kCorrupt, std::memory_order_relaxed);
  if (slot.broken.exchange(1) != 0) return;
  Trace("fd %d: the other end broke the protocol (%s): reset", fd, what);
  // The kernel tells the other end, and whoever else holds our side, with an error and not with an end: dissolving the
  // association sends the RST now (tcp_disconnect() in net/ipv4/tcp.c). Linux 6.5 refuses while another thread waits.
  const sockaddr nobody = {};
  static_assert(AF_UNSPEC == 0);
  if (Syscall(SYS_connect, fd, reinterpret_cast<long>(&nobody), sizeof nobody) == 0) return;
  const struct {
    int on;
    int seconds;
  } linger = {1, 0};
  Syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_LINGER, reinterpret_cast<long>(&linger), sizeof linger);
  Syscall(SYS_shutdown, fd, SHUT_RDWR);
}

}  // namespace heterok8s::heterosock
