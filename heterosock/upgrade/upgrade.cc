#include "heterosock/upgrade/upgrade.h"

#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/lib/hidden_fd.h"
#include "heterosock/lib/process.h"
#include "heterosock/lib/quiet.h"
#include "heterosock/lib/trace.h"
#include "heterosock/notify/bell.h"
#include "heterosock/ofd/fd_table.h"
#include "heterosock/stream/direction.h"
#include "heterosock/stream/stream.h"
#include "heterosock/upgrade/agent_link.h"

namespace heterok8s::heterosock {
namespace {

constexpr uint64_t kPollUs = 20;       // between looks for the agent's answers
constexpr uint64_t kRetryUs = 2000;    // an offer that could not be made
constexpr uint64_t kSharedUs = 50000;  // a socket that another process holds too; it often closes its copy soon
constexpr uint64_t kSettleNs = 500 * 1000 * 1000;  // and for the agent, on a machine with too much to do
constexpr uint64_t kAnswerNs = 300 * 1000;         // for an end that is asleep in a call of its library

SharedLock agent_lock;
AgentLink agent;
std::atomic<uint64_t> poll_at{0};

uint64_t Later(uint64_t us) { return Cycles() + us * process.cycles_per_us; }

int FindFd(uint32_t index) {
  for (int fd = 0; fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() == FdWord::kStream && word.index() == index) return fd;
  }
  return -1;
}

void Unmap(LocalChannel& channel) {
  if (channel.page != nullptr)
    Syscall(SYS_munmap, reinterpret_cast<long>(channel.page), static_cast<long>(channel.bytes));
  CloseHidden(channel.memfd);
  CloseHidden(channel.own_bell);
  CloseHidden(channel.peer_bell);
  channel.page = nullptr;
  channel.memfd = channel.own_bell = channel.peer_bell = 0;
  channel.bell_dead = false;
}

bool Map(LocalChannel& channel, const Pairing& pairing) {
  channel.memfd = HideFd(pairing.memfd);
  channel.own_bell = HideFd(pairing.own_bell);
  channel.peer_bell = HideFd(pairing.peer_bell);
  if (channel.memfd < 0 || channel.own_bell < 0 || channel.peer_bell < 0) return false;
  // Only a memory that cannot shrink may be mapped: else the agent's other customer could make us fault.
  const long seals = Syscall(SYS_fcntl, channel.memfd, F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || pairing.bytes < sizeof(layout::ChannelPage)) return false;
  const long size = Syscall(SYS_lseek, channel.memfd, 0, SEEK_END);
  if (size < 0 || pairing.offset > static_cast<uint64_t>(size) ||
      static_cast<uint64_t>(size) - pairing.offset < pairing.bytes)
    return false;
  const long at = Syscall(SYS_mmap, 0, static_cast<long>(pairing.bytes), PROT_READ | PROT_WRITE, MAP_SHARED,
                          channel.memfd, static_cast<long>(pairing.offset));
  if (at < 0 && at > -4096) return false;
  channel.page = reinterpret_cast<layout::ChannelPage*>(at);
  channel.bytes = pairing.bytes;
  layout::ChannelHeader header;
  memcpy(&header, &channel.page->header, sizeof header);
  if (!layout::ValidHeader(header, pairing.bytes)) return false;
  if (header.epoch != pairing.epoch || header.nonce != pairing.nonce) return false;
  uint8_t* base = reinterpret_cast<uint8_t*>(channel.page);
  channel.side = static_cast<uint16_t>(pairing.side);
  channel.ring_bytes = header.ring_bytes;
  channel.out = base + header.ring_offset[pairing.side];
  channel.in = base + header.ring_offset[1 - pairing.side];
  channel.channel_id = pairing.channel_id;
  channel.epoch = pairing.epoch;
  channel.nonce = pairing.nonce;
  return true;
}

// What the kernel counted must be what passed through us: else somebody else writes or reads (libc's stdio, a child).
// The SYN of the connecting side and a FIN count as one byte each.
bool CountsAgree(Slot& slot, int fd) {
  tcp_info info = {};
  socklen_t length = sizeof info;
  int unsent = 0, unread = 0;
  if (Syscall(SYS_ioctl, fd, SIOCOUTQ, reinterpret_cast<long>(&unsent)) != 0 ||
      Syscall(SYS_ioctl, fd, SIOCINQ, reinterpret_cast<long>(&unread)) != 0 ||
      Syscall(SYS_getsockopt, fd, IPPROTO_TCP, TCP_INFO, reinterpret_cast<long>(&info),
              reinterpret_cast<long>(&length)) != 0) {
    return false;
  }
  // Acknowledgements and bytes may arrive between the three calls, so this is a range, wide enough for what can be
  // under way and narrow enough to notice a writer that bypassed us before.
  const uint64_t sent = slot.tx.calls.bytes();
  const uint64_t received = slot.rx.calls.bytes();
  int unsent_after = 0, unread_after = 0;
  Syscall(SYS_ioctl, fd, SIOCOUTQ, reinterpret_cast<long>(&unsent_after));
  Syscall(SYS_ioctl, fd, SIOCINQ, reinterpret_cast<long>(&unread_after));
  const uint64_t most_sent = info.tcpi_bytes_acked + static_cast<uint64_t>(unsent);
  const uint64_t least_sent = info.tcpi_bytes_acked + static_cast<uint64_t>(unsent_after);
  const uint64_t most_received = info.tcpi_bytes_received - static_cast<uint64_t>(unread);
  const uint64_t least_received = info.tcpi_bytes_received - static_cast<uint64_t>(unread_after);
  const bool sent_agrees = sent + 1 >= least_sent && sent <= most_sent;
  const bool received_agrees = received + 1 >= least_received && received <= most_received + 1;
  if (!sent_agrees || !received_agrees) {
    Trace("fd %d: counted %llu sent and %llu received, the kernel %llu and %llu", fd,
          static_cast<unsigned long long>(sent), static_cast<unsigned long long>(received),
          static_cast<unsigned long long>(most_sent), static_cast<unsigned long long>(most_received));
  }
  return sent_agrees && received_agrees;
}

// With the agent's lock held.
void GiveUpChannel(uint32_t index, Reason reason) {
  LocalChannel& channel = Slots::Local(index);
  EpollForgetBell(index);
  if (channel.channel_id != 0) agent.Release(channel.channel_id, reason);
  channel.channel_id = 0;
  Unmap(channel);
  StayOnTcp(Slots::Get(index), reason);
}

// With the agent's lock held.
void TryArm(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  if (slot.phase.load() != Phase::kPaired || channel.page == nullptr) return;
  if (slot.rx.calls.inside() != 0 || slot.tx.calls.inside() != 0) return;
  if (!Slots::Alone(slot)) return GiveUpChannel(index, Reason::kShared);
  if (!CountsAgree(slot, fd)) return GiveUpChannel(index, Reason::kByteCount);
  // From here on registrations that the program adds are made for shared memory; the others get their bell below.
  slot.phase.store(Phase::kArmed, std::memory_order_seq_cst);
  if (!slot.rx.calls.Settle() || slot.rx.calls.inside() != 0) {
    slot.phase.store(Phase::kPaired, std::memory_order_seq_cst);  // somebody just went into the kernel: another time
    return;
  }
  // The other end cannot switch before it sees the epoch, so nothing is in the ring if this fails.
  if (!EpollAttach(index)) return Fence(index, fd, Reason::kEpoll);
  if (!LockReceive(index)) return Fence(index, fd, Reason::kShared);
  layout::SideLines& own = channel.own();
  own.counters.pid.store(process.pid, std::memory_order_relaxed);
  own.counters.tcp_received.store(slot.rx.calls.bytes(), std::memory_order_relaxed);
  own.sender.ring_size.store(channel.ring_bytes, std::memory_order_relaxed);
  // Sets that sleep already: the bell is asked for before the other end may switch, or its first bytes would ring none.
  if (channel.items.load() != 0) bell::Arm(own.wait.rx_sleep, slot.rx.sleep);
  own.control.armed_nonce.store(channel.nonce, std::memory_order_relaxed);
  own.control.armed_epoch.store(channel.epoch, std::memory_order_release);
  slot.rx.lock.Release();
  Trace("fd %d: armed, channel %llu side %d", fd, static_cast<unsigned long long>(channel.channel_id), channel.side);
}

void Paired(const Rendezvous::Event& event) {
  const uint32_t index = static_cast<uint32_t>(event.id);
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  const Pairing& pairing = event.pairing;
  const bool wanted = index < Slots::kCount && slot.generation == event.id >> 32 &&
                      slot.phase.load() == Phase::kOffered && channel.fds.load() != 0 && channel.page == nullptr;
  if (!wanted) {
    Syscall(SYS_close, pairing.memfd);
    Syscall(SYS_close, pairing.own_bell);
    Syscall(SYS_close, pairing.peer_bell);
    agent.Release(pairing.channel_id, Reason::kClosed);
    return;
  }
  if (!Map(channel, pairing)) {
    Unmap(channel);
    agent.Release(pairing.channel_id, Reason::kMemory);
    StayOnTcp(slot, Reason::kMemory);
    return;
  }
  slot.phase.store(Phase::kPaired);
  TryArm(index, FindFd(index));
}

void Declined(const Rendezvous::Event& event) {
  const uint32_t index = static_cast<uint32_t>(event.id);
  if (index >= Slots::kCount) return;
  Slot& slot = Slots::Get(index);
  if (slot.generation != event.id >> 32 || slot.phase.load() != Phase::kOffered) return;
  Trace("fd %d: declined: %s", FindFd(index), Text(event.reason));
  if (event.retry_ms == 0) {
    StayOnTcp(slot, event.reason);
  } else {
    slot.reason.store(event.reason);
    slot.retry_at = Later(uint64_t{event.retry_ms} * 1000);
    slot.phase.store(Phase::kTcp);
  }
}

// Fences ask for other locks, so they are collected and done after the agent's lock is released.
struct FenceOrder {
  bool wanted = false;
  uint64_t channel_id = 0;
  Reason reason = Reason::kNone;
};

void Obey(const FenceOrder& order) {
  const auto for_each = [&order](auto&& function) {
    for (int fd = 0; fd <= FdTable::High(); ++fd) {
      const FdWord word = FdTable::Get(fd);
      if (word.kind() != FdWord::kStream) continue;
      const LocalChannel& channel = Slots::Local(word.index());
      if (channel.page != nullptr && (order.channel_id == 0 || channel.channel_id == order.channel_id)) {
        function(word.index(), fd);
      }
    }
  };
  for_each([&order](uint32_t index, int fd) { Fence(index, fd, order.reason); });
  // What the other ends had sent is on TCP before we go on, as if it had never been elsewhere.
  const uint64_t until = Nanoseconds() + kSettleNs;
  for_each([until](uint32_t index, int fd) { Settle(index, fd, until); });
}

// What this process holds, told to an agent that does not know: it restarted, or the channels are our parent's.
void ResumeAll() {
  for (int fd = 0; fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() != FdWord::kStream) continue;
    const LocalChannel& channel = Slots::Local(word.index());
    if (channel.page == nullptr || channel.channel_id == 0) continue;
    Pairing held;
    held.side = channel.side;
    held.channel_id = channel.channel_id;
    held.epoch = channel.epoch;
    held.nonce = channel.nonce;
    held.memfd = channel.memfd;
    if (!agent.Resume(held, fd)) return;  // it is slow: what is not told is not counted
  }
}

FenceOrder PollAgent() {
  FenceOrder order;
  poll_at.store(Later(kPollUs), std::memory_order_relaxed);
  Rendezvous::Event event;
  while (!order.wanted && agent.Next(&event)) {
    switch (event.kind) {
      case Rendezvous::Event::kPaired:
        Paired(event);
        break;
      case Rendezvous::Event::kDeclined:
        Declined(event);
        break;
      case Rendezvous::Event::kFence:
        order = {true, event.id, event.reason};
        break;
      case Rendezvous::Event::kWelcomed:
        ResumeAll();
        break;
      case Rendezvous::Event::kNone:
        break;
    }
  }
  return order;
}

void TryOffer(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  if (!process.enabled.load(std::memory_order_relaxed)) return StayOnTcp(slot, process.disabled_because.load());
  slot.retry_at = Later(kRetryUs);
  if (!Slots::Alone(slot)) {
    slot.reason.store(Reason::kShared);
    slot.retry_at = Later(kSharedUs);
    return;
  }
  if (!agent.Ready()) {
    slot.reason.store(Reason::kNoAgent);
    return;
  }
  slot.phase.store(Phase::kOffered);
  if (!agent.Offer(uint64_t{slot.generation} << 32 | index, fd)) slot.phase.store(Phase::kTcp);
}

}  // namespace

bool WorthAdvancing(const Slot& slot) {
  switch (slot.phase.load(std::memory_order_relaxed)) {
    case Phase::kTcp:
      return ((slot.tx.writes >= process.offer_writes && slot.rx.reads >= process.offer_writes) ||
              slot.tx.calls.bytes() + slot.rx.calls.bytes() >= process.offer_bytes) &&
             Cycles() >= slot.retry_at;
    case Phase::kOffered:
      return Cycles() >= poll_at.load(std::memory_order_relaxed);
    case Phase::kPaired:
      return true;
    default:
      return false;
  }
}

namespace {

FenceOrder AdvanceLocked(uint32_t index, int fd) {
  FenceOrder order;
  const SignalsBlocked quiet;
  if (!agent_lock.TryAcquire()) return order;
  if (agent.Connected()) order = PollAgent();
  const Phase phase = Slots::Get(index).phase.load();
  if (phase == Phase::kTcp) TryOffer(index, fd);
  if (phase == Phase::kPaired) TryArm(index, fd);
  agent_lock.Release();
  return order;
}

}  // namespace

void Advance(uint32_t index, int fd) {
  const int saved = errno;
  Calibrate();
  const FenceOrder order = AdvanceLocked(index, fd);
  if (order.wanted) Obey(order);
  errno = saved;
}

void Fence(uint32_t index, int fd, Reason reason) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  slot.reason.store(reason);
  for (;;) {
    Phase phase = slot.phase.load();
    if (phase == Phase::kNever) return;
    if (phase == Phase::kArmed) break;
    if (!slot.phase.compare_exchange_strong(phase, Phase::kNever)) continue;
    slot.tx.mode.store(Mode::kPlain);
    slot.rx.mode.store(Mode::kPlain);
    Trace("fd %d: stays on TCP: %s", fd, Text(reason));
    return;
  }
  if (channel.page == nullptr) return;
  ReturnSend(index, fd, reason);
  RecallReceive(index, fd, reason);
  EpollConvert(index);
}

namespace {

// The other end has not answered: it is far from its library, perhaps for long.
FenceOrder AskLocked(uint64_t channel_id, uint64_t until_ns) {
  FenceOrder order;
  const SignalsBlocked quiet;
  if (!agent_lock.TryAcquire()) return order;
  // A forked child has no connection of its own yet.
  while (!agent.Up() && Nanoseconds() < until_ns) {
    agent.Ready();
    if (!agent.Connected()) break;
    order = PollAgent();
    if (!agent.Up()) sched_yield();
  }
  agent.HandBack(channel_id);
  agent_lock.Release();
  return order;
}

void AskToHandBack(uint64_t channel_id, uint64_t until_ns) {
  const FenceOrder order = AskLocked(channel_id, until_ns);
  if (order.wanted) Obey(order);
}

// Nothing of ours is in the ring any more that the next reader of the socket would miss.
bool Settled(const Slot& slot, const LocalChannel& channel) {
  const layout::SideLines& peer = channel.peer();
  return peer.control.continue_at.load(std::memory_order_acquire) != 0 ||
         peer.control.returned_to.load(std::memory_order_acquire) != 0 ||
         peer.sender.tail.load(std::memory_order_acquire) == slot.rx.head.load(std::memory_order_relaxed);
}

}  // namespace

void Settle(uint32_t index, int fd, uint64_t until_ns) {
  const Slot& slot = Slots::Get(index);
  const LocalChannel& channel = Slots::Local(index);
  const uint64_t ask_at = Nanoseconds() + kAnswerNs;
  bool asked = false;
  while (channel.page != nullptr && slot.phase.load() == Phase::kArmed && !slot.broken.load()) {
    if (Settled(slot, channel)) return;
    const uint64_t now = Nanoseconds();
    if (now > until_ns || (PollNow(fd, POLLRDHUP) & (POLLRDHUP | POLLHUP | POLLERR)) != 0) return;
    if (!asked && now > ask_at) AskToHandBack(channel.channel_id, until_ns);
    asked = asked || now > ask_at;
    sched_yield();
  }
}

void FenceAndSettle(uint32_t index, int fd, Reason reason) {
  Fence(index, fd, reason);
  Settle(index, fd, Nanoseconds() + kSettleNs);
}

void FenceInheritable(Reason reason) {
  const auto for_each = [](auto&& function) {
    for (int fd = 0; fd <= FdTable::High(); ++fd) {
      const FdWord word = FdTable::Get(fd);
      if (word.kind() != FdWord::kStream || Slots::Get(word.index()).phase.load() != Phase::kArmed) continue;
      const long flags = Syscall(SYS_fcntl, fd, F_GETFD);
      if (flags >= 0 && (flags & FD_CLOEXEC) == 0) function(word.index(), fd);
    }
  };
  for_each([reason](uint32_t index, int fd) { Fence(index, fd, reason); });
  const uint64_t until = Nanoseconds() + kSettleNs;
  for_each([until](uint32_t index, int fd) { Settle(index, fd, until); });
}

void FenceAll(Reason reason) {
  for (int fd = 0; fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() == FdWord::kStream) Fence(word.index(), fd, reason);
  }
}

namespace {
bool ClosesWithReset(int fd) {
  struct {
    int on;
    int seconds;
  } linger = {};
  socklen_t length = sizeof linger;
  return Syscall(SYS_getsockopt, fd, SOL_SOCKET, SO_LINGER, reinterpret_cast<long>(&linger),
                 reinterpret_cast<long>(&length)) == 0 &&
         linger.on != 0 && linger.seconds == 0;
}
}  // namespace

void LeaveClosed(uint32_t index) { Leave(index, -1); }

void Leave(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  if (channel.page == nullptr) {
    EpollForget(index);
    return;
  }
  const SignalsBlocked quiet;
  const bool alone = Slots::Alone(slot);
  if (alone && !slot.broken.load()) {
    // What is unread in the ring goes to TCP in front of the FIN; of an abortive close nothing has to arrive.
    if (fd >= 0 && UnreadBytes(index) == 0 && !ClosesWithReset(fd)) ReturnSend(index, fd, Reason::kClosed);
    if (fd >= 0 && UnreadBytes(index) > 0) {
      // Linux answers with RST when a socket is closed before everything was read; its own queue is empty here.
      const struct {
        int on;
        int seconds;
      } linger = {1, 0};
      Syscall(SYS_setsockopt, fd, SOL_SOCKET, SO_LINGER, reinterpret_cast<long>(&linger), sizeof linger);
    }
    channel.own().wait.flags.fetch_or(layout::kFlagFin | layout::kFlagClosed, std::memory_order_release);
  }
  EpollForget(index);
  // Whoever looks at the channel holds one of the two locks; sleepers find the page gone.
  const bool rx = LockReceive(index);
  const bool tx = LockSend(index);
  if (alone) ++slot.generation;
  const uint64_t channel_id = channel.channel_id;
  channel.channel_id = 0;
  Unmap(channel);
  if (tx) slot.tx.lock.Release();
  if (rx) slot.rx.lock.Release();
  if (alone && agent_lock.Acquire()) {
    if (agent.Connected()) agent.Release(channel_id, Reason::kClosed);
    agent_lock.Release();
  }
}

void UpgradeAfterFork() {
  agent_lock.Reset();
  agent.Forget();
}

}  // namespace heterok8s::heterosock
