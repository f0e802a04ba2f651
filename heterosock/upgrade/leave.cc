// The end of a connection in this process: what the other end and the kernel must be told before the memory goes.
#include <sys/socket.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/lib/process.h"
#include "heterosock/lib/quiet.h"
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

void Leave(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  LocalChannel& channel = Slots::Local(index);
  const bool retired = process.restricted.load() && slot.phase.load() == Phase::kNever;
  if (channel.page == nullptr || retired) {
    // The memory of a retired one stays until the process ends, and the agent takes that for its end.
    EpollForget(index, fd >= 0 && !process.restricted.load() && Slots::Alone(slot));
    return;
  }
  const SignalsBlocked quiet;
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
  // Whoever looks at the channel holds one of the two locks, or that of the bell for its number; sleepers find the page
  // gone.
  const bool rx = LockReceive(index);
  const bool tx = LockSend(index);
  const bool bell = slot.bell_lock.Acquire();
  if (alone) ++slot.generation;
  const uint64_t channel_id = channel.channel_id;
  channel.channel_id = 0;
  Unmap(channel);
  if (bell) slot.bell_lock.Release();
  if (tx) slot.tx.lock.Release();
  if (rx) slot.rx.lock.Release();
  if (alone && agent_lock.Acquire()) {
    if (agent.Connected()) agent.Release(channel_id, Reason::kClosed);
    agent_lock.Release();
  }
}

}  // namespace heterok8s::heterosock
