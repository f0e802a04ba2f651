#include "heterosock/stream/cork.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include "heterosock/lib/machine.h"
#include "heterosock/stream/direction.h"

namespace heterok8s::heterosock {
namespace {

bool InRing(const Slot& slot) {
  return slot.tx.mode.load(std::memory_order_relaxed) == Mode::kRing &&
         slot.broken.load(std::memory_order_relaxed) == 0;
}

long TellKernel(int fd, int on) {
  return Syscall(SYS_setsockopt, fd, IPPROTO_TCP, TCP_CORK, reinterpret_cast<long>(&on), sizeof on);
}

}  // namespace

bool CorkInRing(uint32_t index, int fd, bool on) {
  Slot& slot = Slots::Get(index);
  if (!InRing(slot) || !LockSend(index)) return false;
  bool here = InRing(slot) && Slots::Local(index).page != nullptr;
  if (here) {
    // What the kernel kept before the switch it sends when its own cork is drawn.
    const bool kernels = (slot.tx.corks.load(std::memory_order_relaxed) & kCorkOfKernel) != 0;
    if (kernels) here = !on && TellKernel(fd, 0) == 0;
    if (here) slot.tx.corks.store(kCorkEver | (on ? kCorkOfProgram : 0), std::memory_order_relaxed);
  }
  slot.tx.lock.Release();
  return here;
}

void NoteCork(uint32_t index, bool on) {
  std::atomic<uint32_t>& corks = Slots::Get(index).tx.corks;
  if (on)
    corks.fetch_or(kCorkEver | kCorkOfProgram | kCorkOfKernel);
  else
    corks.fetch_and(~kCorkOfProgram);
}

bool CorkIsOurs(uint32_t index, bool* on) {
  const Slot& slot = Slots::Get(index);
  const uint32_t corks = slot.tx.corks.load();
  *on = (corks & kCorkOfProgram) != 0;
  return InRing(slot) && (corks & kCorkEver) != 0;
}

void CorkAtSwitch(uint32_t index, int fd) {
  std::atomic<uint32_t>& corks = Slots::Get(index).tx.corks;
  uint32_t seen = corks.load();
  if ((seen & kCorkOfProgram) != 0) return;
  int corked = 0;
  socklen_t length = sizeof corked;
  const long asked = Syscall(SYS_getsockopt, fd, IPPROTO_TCP, TCP_CORK, reinterpret_cast<long>(&corked),
                             reinterpret_cast<long>(&length));
  // To draw a cork pushes, where there is none too (__tcp_sock_set_cork() in net/ipv4/tcp.c).
  if (asked == 0 && corked == 0 && TellKernel(fd, 0) == 0)
    corks.compare_exchange_strong(seen, seen & ~kCorkOfKernel);
  else
    corks.fetch_or(kCorkOfKernel);
}

void CorkAtReturn(uint32_t index, int fd) {
  std::atomic<uint32_t>& corks = Slots::Get(index).tx.corks;
  const uint32_t seen = corks.load();
  if ((seen & kCorkEver) == 0) return;
  const bool on = (seen & kCorkOfProgram) != 0;
  if (TellKernel(fd, on) == 0 && on) corks.fetch_or(kCorkOfKernel);
}

}  // namespace heterok8s::heterosock
