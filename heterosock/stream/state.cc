// What others ask about a connection: is it ready, how much is under way; and giving up on it.
#include "heterosock/epoll/registry.h"
#include "heterosock/lib/trace.h"
#include "heterosock/notify/bell.h"
#include "heterosock/ring/ring.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {
namespace {

constexpr short kEnds = POLLRDHUP | POLLHUP | POLLERR;
constexpr short kReadable = POLLIN | POLLRDNORM;  // as tcp_poll() says them
constexpr short kWritable = POLLOUT | POLLWRNORM;

// Sets POLLIN in `ready`. True when the kernel has to be asked as well.
bool LookAtReceive(Slot& slot, LocalChannel& channel, short* ready) {
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
  short from_kernel = wanted | kEnds;
  if (slot.broken.load(std::memory_order_relaxed))
    return static_cast<short>((wanted & (kReadable | kWritable | POLLRDHUP)) | POLLERR | POLLHUP);
  if (!slot.rx.lock.Acquire()) return 0;
  if (channel.page != nullptr && slot.phase.load(std::memory_order_relaxed) == Phase::kArmed)
    ask = LookAtReceive(slot, channel, &ready);
  slot.rx.lock.Release();
  if ((wanted & kWritable) != 0 && slot.tx.lock.Acquire()) {
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
    ready |= kernel;
    // The end of the stream leaves a socket writable: Linux says so, whatever the ring holds.
    if (kernel & (POLLHUP | POLLERR)) ready |= kWritable;
  }
  return static_cast<short>(ready & (wanted | POLLHUP | POLLERR));
}

void ArmBell(uint32_t index, short wanted) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  if ((wanted & (kReadable | POLLRDHUP)) != 0 && slot.rx.lock.Acquire()) {
    if (channel.page != nullptr) bell::Arm(channel.own().wait.rx_sleep, slot.rx.sleep);
    slot.rx.lock.Release();
  }
  if ((wanted & kWritable) != 0 && slot.tx.lock.Acquire()) {
    if (channel.page != nullptr && slot.tx.mode.load(std::memory_order_relaxed) == Mode::kRing) {
      bell::Arm(channel.own().wait.tx_sleep, slot.tx.sleep);
    }
    slot.tx.lock.Release();
  }
}

uint64_t UnreadBytes(uint32_t index) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  uint64_t used = 0;
  if (!slot.rx.lock.Acquire()) return 0;
  if (channel.page != nullptr && slot.rx.mode.load(std::memory_order_relaxed) != Mode::kPlain) {
    used = ring::Used(channel.peer().sender.tail.load(std::memory_order_acquire),
                      slot.rx.head.load(std::memory_order_relaxed), channel.ring_bytes);
  }
  slot.rx.lock.Release();
  return used == ring::kImpossible ? 0 : used;
}

void ShutReceive(uint32_t index) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  if (!slot.rx.lock.Acquire()) return;
  if (channel.page != nullptr && slot.rx.shut_at == 0)
    slot.rx.shut_at = channel.peer().sender.tail.load(std::memory_order_acquire) + 1;
  slot.rx.lock.Release();
}

void RecallReceive(uint32_t index, int fd, Reason reason) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  if (!slot.rx.lock.Acquire()) return;
  if (channel.page != nullptr && slot.rx.mode.load(std::memory_order_relaxed) != Mode::kPlain) {
    layout::SideLines& own = channel.own();
    const uint64_t switch_at = channel.peer().control.switch_at.load(std::memory_order_acquire);
    own.control.recall_at.store(slot.rx.head.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    own.wait.flags.fetch_or(layout::kFlagWantTcp, std::memory_order_release);
    own.counters.fenced.store(static_cast<uint32_t>(reason), std::memory_order_relaxed);
    FullFence();
    // Rung without looking whether somebody sleeps: this is rare, and a sleeper of any kind must see it.
    bell::Ring(channel.peer_bell);
    slot.rx.mode.store(Mode::kPlain, std::memory_order_release);
    Trace("fd %d: asked the other end to send over TCP (%s)%s", fd, Text(reason),
          switch_at == 0 ? ", it had not switched" : "");
  }
  slot.rx.lock.Release();
}

void Break(uint32_t index, int fd, const char* what) {
  Slot& slot = Slots::Get(index);
  slot.reason.store(Reason::kCorrupt, std::memory_order_relaxed);
  if (slot.broken.exchange(1) != 0) return;
  Trace("fd %d: the other end broke the protocol (%s): reset", fd, what);
  // The kernel tells the other end, and whoever else holds our side.
  const struct {
    int on;
    int seconds;
  } linger = {1, 0};
  Syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_LINGER, reinterpret_cast<long>(&linger), sizeof linger);
  Syscall(SYS_shutdown, fd, SHUT_RDWR);
}

}  // namespace heterok8s::heterosock
