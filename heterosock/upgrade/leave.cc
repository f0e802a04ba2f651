// The end of a connection in this process: what the other end and the kernel must be told before the memory goes.
#include <sys/socket.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/lib/process.h"
#include "heterosock/lib/quiet.h"
#include "heterosock/lib/trace.h"
#include "heterosock/ofd/fd_table.h"
#include "heterosock/stream/direction.h"
#include "heterosock/stream/stream.h"
#include "heterosock/upgrade/agent_state.h"
#include "heterosock/upgrade/mapping.h"
#include "heterosock/upgrade/upgrade.h"

namespace heterok8s::heterosock {

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

// Of what ends without a line of the trace that says why it was on TCP.
void SayWhyOnTcp(const Slot& slot, int fd) {
  const Phase phase = slot.phase.load();
  if (fd < 0 || phase == Phase::kNever || slot.held_since == Slot::kTold || slot.holders.load() > 1) return;
  if (slot.tx.mode.load() != Mode::kTcp || slot.rx.mode.load() != Mode::kTcp) return;
  if (slot.tx.calls.bytes() + slot.rx.calls.bytes() == 0) return;
  const Reason reason = slot.reason.load();
  if (phase == Phase::kArmed) {
    Trace("fd %d: ended on TCP: armed, and nothing was sent after both ends were", fd);
  } else if (phase == Phase::kOffered) {
    Trace("fd %d: ended on TCP: offered, and not yet answered", fd);
  } else {
    Trace("fd %d: ended on TCP: %s", fd, Text(reason == Reason::kNone ? Reason::kIdle : reason));
  }
}

void LeaveKernel(uint32_t index, int fd) {
  EpollForget(index, fd >= 0 && !process.restricted.load() && Slots::Alone(Slots::Get(index)));
  if (fd >= 0) EndUnread(index, fd);
}
}  // namespace

void LeaveClosed(uint32_t index) { Leave(index, -1); }

void LeaveLost() {
  for (int fd = 0; fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() != FdWord::kStream || Slots::Local(word.index()).fds.load() != 0) continue;
    FdTable::Set(fd, FdWord(FdWord::kOther, 0));
    EpollForget(word.index(), false);
    Unmap(Slots::Local(word.index()));
  }
}

void UnmapLocked(uint32_t index, bool ended) {
  Slot& slot = Slots::Get(index);
  // Whoever looks at the channel holds one of the two locks, or that of the bell for its number; sleepers find the page
  // gone. Who tells the agent of it holds the agent's.
  const bool rx = LockReceive(index);
  const bool tx = LockSend(index);
  const bool bell = slot.bell_lock.Acquire();
  if (ended) ++slot.generation;
  Slots::Local(index).channel_id = 0;
  Unmap(Slots::Local(index));
  if (bell) slot.bell_lock.Release();
  if (tx) slot.tx.lock.Release();
  if (rx) slot.rx.lock.Release();
}

void Leave(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  if (trace_fd >= 0) SayWhyOnTcp(slot, fd);
  channel.closing.store(true);  // who is about to map or to arm it sees this, or we see its phase
  const Phase phase = slot.phase.load();
  const bool retired = process.restricted.load() && phase == Phase::kNever;
  const bool never_moved =
      channel.page == nullptr && (phase == Phase::kTcp || (phase == Phase::kNever && !agent_lock.Taken()));
  // The memory of a retired one stays until the process ends, and the agent takes that for its end.
  if (never_moved || retired) return LeaveKernel(index, fd);
  const SignalsBlocked quiet;
  // Another thread may be arming it just now: that ends first.
  if (agent_lock.Acquire()) agent_lock.Release();
  if (channel.page == nullptr) return LeaveKernel(index, fd);
  const Reason reason = slot.reason.load();
  if (reason == Reason::kSeccomp && process.disabled_because.load() != reason)
    Trace("fd %d: was on TCP: another process that has it gave up system calls", fd);
  const bool alone = !Slots::LetGo(index) && Slots::Alone(slot);
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
  EpollForget(index, fd >= 0 && alone);
  const bool locked = agent_lock.Acquire();
  const uint64_t channel_id = channel.channel_id;
  UnmapLocked(index, alone);
  if (alone && locked && channel_id != 0 && agent.Connected()) agent.Release(channel_id, Reason::kClosed);
  if (locked) agent_lock.Release();
}

}  // namespace heterok8s::heterosock
