// Sockets that may lie in the agent's queue when they are closed.
#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "heterosock/lib/process.h"
#include "heterosock/lib/quiet.h"
#include "heterosock/lib/trace.h"
#include "heterosock/ofd/fd_table.h"
#include "heterosock/upgrade/agent_state.h"
#include "heterosock/upgrade/upgrade.h"

namespace heterok8s::heterosock {
namespace {

bool MayBeUnread(uint32_t offered) {
  const SignalsBlocked quiet;
  if (!agent_lock.Acquire()) return true;  // this thread was interrupted under it
  const bool unread = agent.MayHold(offered);
  agent_lock.Release();
  return unread;
}

// Where close() answers with RST: unread bytes, or SO_LINGER with no time.
bool Resets(int fd) {
  int unread = 0;
  if (Syscall(SYS_ioctl, fd, SIOCINQ, reinterpret_cast<long>(&unread)) == 0 && unread > 0) return true;
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

void EndUnread(uint32_t index, int fd) {
  Slot& slot = Slots::Get(index);
  const uint32_t offered = Slots::Local(index).offered.load();
  const Phase phase = slot.phase.load();
  if (offered == 0 || slot.spawned.load() != 0 || process.restricted.load()) return;
  // What stays on TCP for good may have been handed to another process.
  if ((phase != Phase::kOffered && phase != Phase::kTcp) || Slots::LetGo(index) || !Slots::Alone(slot)) return;
  if (!MayBeUnread(offered)) return;
  Trace("fd %d: ended while the agent has not looked at it", fd);
  // tcp_disconnect() in the kernel sends RST whoever else holds the socket.
  const sockaddr nobody = {};
  static_assert(AF_UNSPEC == 0);
  if (Resets(fd) && Syscall(SYS_connect, fd, reinterpret_cast<long>(&nobody), sizeof nobody) == 0) return;
  Syscall(SYS_shutdown, fd, SHUT_RDWR);
}

void MarkSpawned(bool inherited_alone) {
  for (int fd = 0; fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() != FdWord::kStream) continue;
    const long flags = inherited_alone ? Syscall(SYS_fcntl, fd, F_GETFD) : 0;
    if (flags >= 0 && (flags & FD_CLOEXEC) == 0) Slots::Get(word.index()).spawned.store(1);
  }
}

}  // namespace heterok8s::heterosock
