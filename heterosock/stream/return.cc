#include "heterosock/stream/return.h"
#include "heterosock/stream/cork.h"
#include "heterosock/stream/direction.h"

#include "heterosock/lib/quiet.h"
#include "heterosock/lib/trace.h"
#include "heterosock/notify/bell.h"
#include "heterosock/ring/ring.h"
#include "heterosock/stream/keep_alive.h"
#include "heterosock/stream/patience.h"
#include "heterosock/stream/sleepers.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {
namespace {

// The other end, too, can write that the agent is at it. So nobody waits for it in a call that may not block.
constexpr uint32_t kAgentMs = 2000;         // an agent that has begun is done in far less, or dead
constexpr uint64_t kInPlaceNs = 1'000'000;  // mostly it is
constexpr uint64_t kLastNs = 200'000'000;   // where no later look is sure: at the end of the socket, or without /proc

uint32_t Milliseconds() { return static_cast<uint32_t>(Nanoseconds() / 1'000'000); }

bool Claim(layout::SideLines& own) {
  uint32_t nobody = 0;
  return own.control.returning.compare_exchange_strong(nobody, layout::kSenderReturns, std::memory_order_seq_cst);
}

// Puts the direction on TCP; the receiver learns what it finds there.
void EndRing(uint32_t index, int fd, Reason reason) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  layout::SideLines& own = channel.own();
  own.control.returned_to.store(slot.tx.returned + 1, std::memory_order_relaxed);
  own.control.continue_at.store(slot.tx.returned_from + 1, std::memory_order_release);
  own.counters.fenced.store(static_cast<uint32_t>(reason), std::memory_order_relaxed);
  CorkAtReturn(index, fd);
  slot.tx.mode.store(Mode::kPlain, std::memory_order_release);
  EndKeepAlive(index, fd);
  bell::Notify(channel.peer().wait.rx_sleep, slot.tx.rang, own.wait, channel.peer_bell);
  Trace("fd %d: sends to TCP again: %s", fd, Text(reason));
}

// Writes bytes of the ring to TCP. False when TCP takes no more now.
bool WriteReturned(Slot& slot, const LocalChannel& channel, int fd) {
  SendState& tx = slot.tx;
  while (tx.returned < tx.tail) {
    // An error that waits there is the program's: it is told once.
    if ((PollNow(fd, 0) & (POLLERR | POLLHUP)) != 0) return true;
    const uint64_t at = (tx.returned - tx.base) & (channel.ring_bytes - 1);
    uint64_t n = tx.tail - tx.returned;
    if (n > channel.ring_bytes - at) n = channel.ring_bytes - at;
    const long sent = Syscall(SYS_sendto, fd, reinterpret_cast<long>(channel.out + at), static_cast<long>(n),
                              MSG_DONTWAIT | MSG_NOSIGNAL, 0, 0);
    if (sent == -EINTR) continue;
    if (sent == -EAGAIN) return false;
    if (sent < 0) {
      // The connection is gone. An error that came just now was told to us, and is kept for the program; what the
      // kernel says of every send from now on, or of a number that was closed, was not.
      if (sent != -EPIPE && sent != -EBADF && sent != -ENOTSOCK) slot.rx.reset.store(static_cast<uint32_t>(-sent));
      return true;
    }
    tx.returned += static_cast<uint64_t>(sent);
  }
  return true;
}

Reason WhyReturned(const LocalChannel& channel) {
  const bool asked = (channel.peer().wait.flags.load(std::memory_order_relaxed) & layout::kFlagWantTcp) != 0;
  return asked ? Reason::kPeerAsked : Reason::kPeerClosed;
}

// The agent was first: the offset up to which it has written. False when it does not say so in time.
bool AgentWrote(const layout::SideLines& own, Patience patience, uint64_t* to) {
  uint64_t value = 0;
  while ((value = own.control.returned_to.load(std::memory_order_acquire)) == 0) {
    if (!patience.Again()) return false;
  }
  *to = value - 1;
  return true;
}

// False: the agent is not done. Until it is, sending goes on into the ring, and our own bell has whoever sleeps look
// again, as the next call does.
bool AgentIsDone(uint32_t index, int fd) {
  SendState& tx = Slots::Get(index).tx;
  LocalChannel& channel = Slots::Local(index);
  if (!AgentWrote(channel.own(), {fd, tx.agent_until == 0 ? kInPlaceNs : 0}, &tx.returned)) {
    const uint32_t now = Milliseconds();
    if (tx.agent_until == 0) tx.agent_until = (now + kAgentMs) | 1;
    const bool over = static_cast<int32_t>(now - tx.agent_until) >= 0;
    if (!over && RingOwn(index)) return false;
    if (over || !AgentWrote(channel.own(), {fd, kLastNs}, &tx.returned)) {
      Break(index, fd, "the agent died while it brought bytes back");
      return false;
    }
  }
  tx.agent_until = 0;
  if (tx.returned >= tx.returned_from && tx.returned <= tx.tail) return true;
  Break(index, fd, "returned");
  return false;
}

}  // namespace

uint64_t RefreshHead(uint32_t index, int fd) {
  SendState& tx = Slots::Get(index).tx;
  LocalChannel& channel = Slots::Local(index);
  const uint64_t head = channel.peer().receiver.head.load(std::memory_order_acquire);
  const uint64_t used = ring::Used(tx.tail, head, channel.ring_bytes);
  if (used == ring::kImpossible || head < tx.head_seen) {
    Break(index, fd, "head");
    return ring::kImpossible;
  }
  tx.head_seen = head;
  return used;
}

bool FlushReturn(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  const SignalsBlocked quiet;
  if (!WriteReturned(slot, channel, fd)) return false;
  EndRing(index, fd, WhyReturned(channel));
  return true;
}

void StartReturn(uint32_t index, int fd, Reason reason) {
  Slot& slot = Slots::Get(index);
  SendState& tx = slot.tx;
  LocalChannel& channel = Slots::Local(index);
  if (tx.mode.load(std::memory_order_relaxed) != Mode::kRing || slot.broken.load(std::memory_order_relaxed)) return;
  const SignalsBlocked quiet;
  const bool ours = Claim(channel.own());
  const uint64_t recall = channel.peer().control.recall_at.load(std::memory_order_seq_cst);
  if (recall == 0 && ours) {
    const uint64_t used = RefreshHead(index, fd);
    if (used == ring::kImpossible) return;
    tx.returned_from = tx.returned = tx.tail - used;
    WriteReturned(slot, channel, fd);  // the rest, if any, is read from the ring
    EndRing(index, fd, reason);
    return;
  }
  tx.returned_from = tx.returned = recall - 1;
  if (recall == 0 || ring::Used(tx.tail, recall - 1, channel.ring_bytes) == ring::kImpossible)
    return Break(index, fd, "recall");
  if (ours) channel.own().control.returning.store(layout::kSenderAnswers, std::memory_order_release);
  if (!ours && !AgentIsDone(index, fd)) return;
  tx.mode.store(Mode::kReturning, std::memory_order_release);
  FlushReturn(index, fd);
}

namespace {
bool AgentIsAtIt(const Slot& slot) {
  return slot.tx.mode.load(std::memory_order_relaxed) == Mode::kRing && slot.tx.agent_until != 0 &&
         slot.broken.load(std::memory_order_relaxed) == 0;
}
}  // namespace

void AwaitAgent(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  constexpr timespec kPause = {0, 100'000};
  while (AgentIsAtIt(slot) && MayBlock(slot, fd)) {
    Syscall(SYS_nanosleep, reinterpret_cast<long>(&kPause), 0);
    StartReturn(index, fd, Reason::kPeerAsked);
  }
}

void ReturnSend(uint32_t index, int fd, Reason reason) {
  Slot& slot = Slots::Get(index);
  if (!LockSend(index)) return;
  const Mode mode = slot.tx.mode.load(std::memory_order_relaxed);
  if (mode == Mode::kRing && Slots::Local(index).page != nullptr) {
    Patience patience(fd, kLastNs);
    StartReturn(index, fd, reason);
    while (AgentIsAtIt(slot) && patience.Again()) StartReturn(index, fd, reason);
    if (AgentIsAtIt(slot)) Break(index, fd, "the agent does not bring the last bytes back");
  }
  if (mode == Mode::kReturning && Slots::Local(index).page != nullptr) FlushReturn(index, fd);
  if (mode == Mode::kTcp) {
    slot.tx.mode.store(Mode::kPlain, std::memory_order_release);
    if (reason != Reason::kClosed) Trace("fd %d: goes on sending to TCP: %s", fd, Text(reason));
  }
  slot.tx.lock.Release();
}

void AnnounceFin(uint32_t index) {
  LocalChannel& channel = Slots::Local(index);
  if (!LockSend(index)) return;
  if (channel.page != nullptr) channel.own().wait.flags.fetch_or(layout::kFlagFin, std::memory_order_release);
  Slots::Get(index).tx.lock.Release();
}

namespace {
// The kernel has the peer's FIN, and no more.
bool HasFin(int fd) { return (PollNow(fd, POLLRDHUP) & (POLLRDHUP | POLLHUP | POLLERR)) == POLLRDHUP && TcpEnded(fd); }
}  // namespace

bool PeerEnded(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  if (slot.tx.mode.load(std::memory_order_relaxed) != Mode::kRing || !LockSend(index)) return false;
  bool unread = false;
  const auto flags = channel.page != nullptr ? channel.peer().wait.flags.load(std::memory_order_relaxed) : 0;
  const bool half_closed = (flags & layout::kFlagFin) != 0 && (flags & layout::kFlagClosed) == 0;
  if (channel.page != nullptr && slot.tx.mode.load(std::memory_order_relaxed) == Mode::kRing && !half_closed &&
      (flags & layout::kFlagWantTcp) == 0 && HasFin(fd)) {
    const uint64_t used = RefreshHead(index, fd);
    unread = used != ring::kImpossible && used > 0;
    if (unread) {
      // The kernel takes the RST for the answer to a write after FIN (EPIPE); Linux would have sent it instead of the
      // FIN.
      slot.rx.reset.store(ECONNRESET);
      slot.rx.kernel_event.store(1);
    }
    if (used != ring::kImpossible) StartReturn(index, fd, Reason::kPeerClosed);
  }
  slot.tx.lock.Release();
  return unread;
}

bool PeerWaits(uint32_t index) {
  const LocalChannel& channel = Slots::Local(index);
  const Mode mode = Slots::Get(index).tx.mode.load(std::memory_order_relaxed);
  if (mode == Mode::kReturning) return true;
  return mode == Mode::kRing && channel.page != nullptr &&
         (channel.peer().wait.flags.load(std::memory_order_relaxed) & layout::kFlagWantTcp) != 0;
}

void ServePeer(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  if (!LockSend(index)) return;
  if (Slots::Local(index).page != nullptr && PeerWaits(index)) {
    if (slot.tx.mode.load(std::memory_order_relaxed) == Mode::kReturning)
      FlushReturn(index, fd);
    else
      StartReturn(index, fd, Reason::kPeerAsked);
  }
  slot.tx.lock.Release();
}

}  // namespace heterok8s::heterosock
