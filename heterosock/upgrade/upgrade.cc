#include "heterosock/upgrade/upgrade.h"

#include <sys/stat.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/lib/process.h"
#include "heterosock/lib/quiet.h"
#include "heterosock/lib/trace.h"
#include "heterosock/notify/bell.h"
#include "heterosock/ofd/fd_table.h"
#include "heterosock/stream/direction.h"
#include "heterosock/stream/stream.h"
#include "heterosock/upgrade/agent_state.h"
#include "heterosock/upgrade/mapping.h"
#include "heterosock/upgrade/pace.h"
#include "heterosock/upgrade/unseen.h"

namespace heterok8s::heterosock {

SharedLock agent_lock;
AgentLink agent;

namespace {

constexpr uint64_t kPollUs = 20;       // between looks for the agent's answers
constexpr uint64_t kRetryUs = 2000;    // an offer that could not be made, or all that is held not be told
constexpr uint64_t kSharedUs = 50000;  // a socket that another process holds too; it often closes its copy soon
constexpr uint64_t kPauseUs = 100000;  // there was no room for a channel
constexpr uint64_t kTendUs = 500000;  // between looks whether the agent is there, of a process that needs nothing of it
constexpr uint64_t kLongUs = 500000;  // that a connection is held back before the trace says so

std::atomic<uint64_t> poll_at{0};
Pace pace;  // guarded by agent_lock

uint64_t Later(uint64_t us) { return Cycles() + us * process.cycles_per_us; }

// The descriptor from which on the agent has not yet been told what this process holds. Guarded by the agent's lock.
constexpr int kToldAll = -1;
int resume_from = kToldAll;

// From the phase that was looked at, or not at all: another thread may have fenced the connection meanwhile, or closed
// it.
bool Step(Slot& slot, Phase from, Phase to) { return slot.phase.compare_exchange_strong(from, to); }

// Not now. Most reasons are gone soon, and no news: the trace has one that lasts, once.
void HoldBack(Slot& slot, int fd, Reason reason, uint64_t us = kRetryUs) {
  const uint64_t now = Cycles();
  slot.retry_at = now + us * process.cycles_per_us;
  if (slot.reason.exchange(reason) != reason || slot.held_since == 0) {
    slot.held_since = now;
  } else if (slot.held_since != Slot::kTold && now - slot.held_since >= kLongUs * process.cycles_per_us) {
    slot.held_since = Slot::kTold;
    Trace("fd %d: held back on TCP: %s", fd, Text(reason));
  }
}

// With the agent's lock held.
void GiveUpChannel(uint32_t index, Reason reason) {
  LocalChannel& channel = Slots::Local(index);
  StayOnTcp(index, reason);
  EpollForgetBell(index);
  if (channel.channel_id != 0) agent.Release(channel.channel_id, reason);
  UnmapLocked(index, false);
}

// With the agent's lock held. The memory stays meanwhile: Leave() waits for that lock before it takes it away.
void TryArm(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  if (slot.phase.load() != Phase::kPaired || channel.page == nullptr || channel.closing.load()) return;
  if (slot.rx.calls.inside() != 0 || slot.tx.calls.inside() != 0) return HoldBack(slot, fd, Reason::kInside);
  if (!Slots::Alone(slot)) return GiveUpChannel(index, Reason::kShared);
  if (HasUnseenSet(channel.own_bell)) return GiveUpChannel(index, Reason::kEpoll);
  if (!CountsAgree(slot, fd)) return GiveUpChannel(index, Reason::kByteCount);
  // From here on registrations that the program adds are made for shared memory; the others get their bell below.
  if (!Step(slot, Phase::kPaired, Phase::kArmed)) return GiveUpChannel(index, slot.reason.load());
  if (!slot.rx.calls.Settle() || slot.rx.calls.inside() != 0) {
    Step(slot, Phase::kArmed, Phase::kPaired);  // somebody just went into the kernel: another time
    return HoldBack(slot, fd, Reason::kInside);
  }
  // The other end cannot switch before it sees the epoch, so nothing is in the ring if this fails.
  if (!EpollAttach(index)) return Fence(index, fd, Reason::kEpoll);
  if (!LockReceive(index)) return Fence(index, fd, Reason::kShared);
  layout::SideLines& own = channel.own();
  own.counters.pid.store(process.pid, std::memory_order_relaxed);
  own.counters.tcp_received.store(slot.rx.calls.bytes(), std::memory_order_relaxed);
  own.sender.ring_size.store(channel.ring_bytes, std::memory_order_relaxed);
  // Sets that sleep already: the bell is asked for before the other end may switch, or its first bytes would ring none.
  if (channel.items.load() != 0) bell::ArmReceiver(own.wait, slot.rx.sleep, false);
  struct stat socket = {};
  Syscall(SYS_fstat, fd, reinterpret_cast<long>(&socket));
  channel.inode = socket.st_ino;
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
  if (index < Slots::kCount && slot.generation == event.id >> 32) channel.offered.store(0);
  const bool wanted = index < Slots::kCount && slot.generation == event.id >> 32 &&
                      slot.phase.load() == Phase::kOffered && channel.fds.load() != 0 && !channel.closing.load() &&
                      channel.page == nullptr;
  if (!wanted) {
    Syscall(SYS_close, pairing.memfd);
    Syscall(SYS_close, pairing.own_bell);
    Syscall(SYS_close, pairing.peer_bell);
    agent.Release(pairing.channel_id, Reason::kClosed);
    return;
  }
  if (!Map(channel, pairing)) {
    StayOnTcp(index, Reason::kMemory);
    UnmapLocked(index, false);
    agent.Release(pairing.channel_id, Reason::kMemory);
    if (pace.NoRoom(Nanoseconds())) Trace("agent: no room for another channel: no offer for %u ms", pace.pause_ms());
    return;
  }
  pace.Mapped();
  if (!Step(slot, Phase::kOffered, Phase::kPaired)) return GiveUpChannel(index, slot.reason.load());
  TryArm(index, FdTable::Find(index));
}

void Declined(const Rendezvous::Event& event) {
  const uint32_t index = static_cast<uint32_t>(event.id);
  if (index >= Slots::kCount) return;
  Slot& slot = Slots::Get(index);
  // Of one that this process has closed, a child may have made an offer of its own.
  LocalChannel& channel = Slots::Local(index);
  if (slot.generation != event.id >> 32) return;
  channel.offered.store(0);
  if (slot.phase.load() != Phase::kOffered) return;
  if (channel.fds.load() == 0 || channel.closing.load()) return;
  if (event.retry_ms == 0) {
    StayOnTcp(index, event.reason);
    return;
  }
  if (slot.reason.exchange(event.reason) != event.reason && trace_fd >= 0)
    Trace("fd %d: declined for now: %s", FdTable::Find(index), Text(event.reason));
  slot.retry_at = Later(uint64_t{event.retry_ms} * 1000);
  Step(slot, Phase::kOffered, Phase::kTcp);
}

// What this process holds, told to an agent that does not know: it restarted, or the channels are our parent's. As much
// as fits into the socket; the rest with the next looks for its answers.
void ResumeHeld() {
  if (resume_from == kToldAll) return;
  for (; resume_from <= FdTable::High(); ++resume_from) {
    const FdWord word = FdTable::Get(resume_from);
    if (word.kind() != FdWord::kStream) continue;
    const LocalChannel& channel = Slots::Local(word.index());
    if (channel.page == nullptr || channel.channel_id == 0) continue;
    Pairing held;
    held.side = channel.side;
    held.channel_id = channel.channel_id;
    held.epoch = channel.epoch;
    held.nonce = channel.nonce;
    held.memfd = channel.memfd;
    if (!agent.Resume(held, resume_from)) return;
  }
  resume_from = kToldAll;
}

}  // namespace

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
        resume_from = 0;
        break;
      case Rendezvous::Event::kNone:
        break;
    }
  }
  ResumeHeld();
  return order;
}

namespace {

// stdin, stdout and stderr are libc's: it reads and writes these numbers itself.
bool IsStandard(uint32_t index) {
  for (int fd = 0; fd <= 2; ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() == FdWord::kStream && word.index() == index) return true;
  }
  return false;
}

Reason WhyNotReady() {
  if (!agent.Connected()) return Reason::kNoAgent;
  return agent.Full() ? Reason::kTooManyOffers : Reason::kAgentSilent;
}

void TryOffer(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  if (IsStandard(index)) {
    StayOnTcp(index, Reason::kStdio, fd);
    return;
  }
  if (!process.enabled.load(std::memory_order_relaxed)) {
    StayOnTcp(index, process.disabled_because.load(), fd);
    return;
  }
  if (!Slots::Alone(slot)) return HoldBack(slot, fd, Reason::kShared, kSharedUs);
  // Calls of a connection that waits to be offered are what goes on with telling: it is offered after that.
  if (!agent.Ready() || resume_from != kToldAll) return HoldBack(slot, fd, WhyNotReady());
  if (const uint64_t now = Nanoseconds(); !pace.Allows(agent.pending(), now))
    return HoldBack(slot, fd, Reason::kMemory, pace.Pauses(now) ? kPauseUs : kRetryUs);
  if (UnseenSetStays(agent.socket())) {
    StayOnTcp(index, Reason::kEpoll, fd);
    return;
  }
  slot.retry_at = Later(kRetryUs);
  if (!Step(slot, Phase::kTcp, Phase::kOffered)) return;
  LocalChannel& channel = Slots::Local(index);
  channel.offered.store(agent.number());
  if (agent.Offer(uint64_t{slot.generation} << 32 | index, fd)) {
    slot.held_since = 0;
    return;
  }
  channel.offered.store(0);
  Step(slot, Phase::kOffered, Phase::kTcp);
  HoldBack(slot, fd, WhyNotReady());
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
  Slot& slot = Slots::Get(index);
  // Nobody will answer: the agent died, or the process that had offered it closed its descriptor.
  if (slot.phase.load() == Phase::kOffered && agent.pending() == 0 && Slots::Alone(slot))
    Step(slot, Phase::kOffered, Phase::kTcp);
  const Phase phase = slot.phase.load();
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

namespace {

FenceOrder TendLocked() {
  FenceOrder order;
  const SignalsBlocked quiet;
  if (!agent_lock.TryAcquire()) return order;
  // Once more: of a program that gives up its calls, whoever gets this lock after RetireAll() makes none.
  if (process.enabled.load()) {
    if (agent.Connected()) {
      order = PollAgent();  // hears of its end, or of its welcome, and goes on with telling it what is held
    } else if (agent.Lost()) {
      agent.Ready();
    }
  }
  const bool telling = agent.Connected() && (!agent.Up() || resume_from != kToldAll);
  process.tend_at.store(Later(telling ? kRetryUs : kTendUs), std::memory_order_relaxed);
  agent_lock.Release();
  return order;
}

}  // namespace

void TendAgent() {
  process.agent_is_due.store(false, std::memory_order_relaxed);
  // A child of vfork would make a connection that its parent knows nothing of.
  if (!process.enabled.load(std::memory_order_relaxed) || thread_state.in_vfork != 0) return;
  const int saved = errno;
  const FenceOrder order = TendLocked();
  if (order.wanted) Obey(order);
  errno = saved;
}

void UpgradeAfterFork() {
  agent_lock.Reset();
  agent.Forget();
  resume_from = kToldAll;
}

}  // namespace heterok8s::heterosock
