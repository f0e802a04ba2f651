// Connections that go back to TCP as a whole, and waiting until the other end has done its part.
#include <fcntl.h>
#include <sys/stat.h>

#include <utility>

#include "heterosock/epoll/registry.h"
#include "heterosock/lib/quiet.h"
#include "heterosock/lib/trace.h"
#include "heterosock/ofd/fd_table.h"
#include "heterosock/stream/direction.h"
#include "heterosock/stream/patience.h"
#include "heterosock/stream/stream.h"
#include "heterosock/upgrade/agent_state.h"
#include "heterosock/upgrade/upgrade.h"

namespace heterok8s::heterosock {
namespace {

constexpr uint64_t kSettleNs = 500 * 1000 * 1000;  // and for the agent, on a machine with too much to do
constexpr uint64_t kAnswerNs = 300 * 1000;         // for an end that is asleep in a call of its library

}  // namespace

void Fence(uint32_t index, int fd, Reason reason) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  slot.reason.store(reason);
  if (slot.phase.load() == Phase::kNever) return;
  if (StayOnTcp(index, reason, fd)) return;
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
  // A forked child has no connection of its own yet. A child of vfork would make one that its parent knows nothing of.
  while (!agent.Up() && thread_state.in_vfork == 0 && Nanoseconds() < until_ns) {
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

// Nothing of ours is in the ring any more that the next reader of the socket would miss; or another thread has closed
// the connection.
bool Settled(uint32_t index) {
  Slot& slot = Slots::Get(index);
  const LocalChannel& channel = Slots::Local(index);
  const bool locked = LockReceive(index);  // else this thread interrupted itself under it
  bool settled = true;
  if (channel.page != nullptr) {
    const layout::SideLines& peer = channel.peer();
    settled = peer.control.continue_at.load(std::memory_order_acquire) != 0 ||
              peer.control.returned_to.load(std::memory_order_acquire) != 0 ||
              peer.sender.tail.load(std::memory_order_acquire) == slot.rx.head.load(std::memory_order_relaxed);
  }
  if (locked) slot.rx.lock.Release();
  return settled;
}

// A child of vfork has numbers of its own beside its parent's table: what it closed may be another file by now.
bool StillMeans(int fd, uint32_t index) {
  if (thread_state.in_vfork == 0) return true;
  struct stat file = {};
  if (Syscall(SYS_fstat, fd, reinterpret_cast<long>(&file)) != 0 || !S_ISSOCK(file.st_mode)) return false;
  return Slots::Get(index).phase.load() != Phase::kArmed || Slots::Local(index).inode == file.st_ino;
}

// The other end may be this process's own: then nobody else brings back what was called back, for this thread is about
// to wait for it, or to end that end with an exec.
void ServeOtherEnd(uint32_t index) {
  const LocalChannel& channel = Slots::Local(index);
  for (int fd = 0; fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() != FdWord::kStream || word.index() == index) continue;
    const LocalChannel& other = Slots::Local(word.index());
    if (other.page != nullptr && other.channel_id == channel.channel_id && other.epoch == channel.epoch &&
        StillMeans(fd, word.index()))
      return ServePeer(word.index(), fd);
  }
}

}  // namespace

void Settle(uint32_t index, int fd, uint64_t until_ns) {
  Slot& slot = Slots::Get(index);
  const LocalChannel& channel = Slots::Local(index);
  const uint64_t ask_at = Nanoseconds() + kAnswerNs;
  Patience patience(fd, kSettleNs);
  bool asked = false, served = false;
  while (channel.page != nullptr && slot.phase.load() == Phase::kArmed && !slot.broken.load()) {
    if (Settled(index)) return;
    if (!std::exchange(served, true)) {
      ServeOtherEnd(index);
      // Calls that fence may be made again and again while the other end does not answer: they have this one wait.
      uint64_t first = 0;
      if (!slot.rx.settle_until.compare_exchange_strong(first, until_ns)) {
        if (first < until_ns) until_ns = first;
        if (Nanoseconds() > until_ns) return;
      }
      continue;
    }
    const uint64_t now = Nanoseconds();
    const bool over = now > until_ns || !patience.Again();
    if (TcpEnded(fd)) {
      if (TakeBackRecall(index, fd)) EpollConvert(index);
      return;
    }
    if (!asked && (over || now > ask_at)) AskToHandBack(channel.channel_id, until_ns);
    asked = asked || now > ask_at;
    if (!over) continue;
    slot.rx.settle_until.store(now);
    return;
  }
}

void FenceAndSettle(uint32_t index, int fd, Reason reason) {
  Fence(index, fd, reason);
  Settle(index, fd, Nanoseconds() + kSettleNs);
}

void FenceHandedOn(int fd) {
  const FdWord word = FdTable::Get(fd);
  if (thread_state.in_vfork == 0 || word.kind() != FdWord::kStream) return;
  if (Slots::Get(word.index()).phase.load() == Phase::kNever || !StillMeans(fd, word.index())) return;
  const int saved = errno;
  FenceAndSettle(word.index(), fd, Reason::kExec);
  errno = saved;
}

void FenceInheritable(Reason reason) {
  const auto for_each = [](auto&& function) {
    for (int fd = 0; fd <= FdTable::High(); ++fd) {
      const FdWord word = FdTable::Get(fd);
      if (word.kind() != FdWord::kStream || Slots::Get(word.index()).phase.load() != Phase::kArmed) continue;
      const long flags = Syscall(SYS_fcntl, fd, F_GETFD);
      if (flags >= 0 && (flags & FD_CLOEXEC) == 0 && StillMeans(fd, word.index())) function(word.index(), fd);
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

void SettleAll() {
  const uint64_t until = Nanoseconds() + kSettleNs;
  for (int fd = 0; fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() == FdWord::kStream) Settle(word.index(), fd, until);
  }
}

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

}  // namespace heterok8s::heterosock
