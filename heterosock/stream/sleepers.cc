#include "heterosock/stream/sleepers.h"

#include <fcntl.h>

#include "heterosock/lib/quiet.h"
#include "heterosock/notify/bell.h"
#include "heterosock/ofd/fd_table.h"
#include "heterosock/ofd/slot.h"

namespace heterok8s::heterosock {
namespace {

bool Gone(uint32_t thread) { return thread != ThreadId() && Syscall(SYS_tkill, thread, 0) == -ESRCH; }

// The places of a slot in the shared table. With the bell's lock held, under which alone they change.
uint64_t Crowded(uint32_t index, uint32_t thread) { return (uint64_t{index} + 1) << 32 | thread; }

bool JoinCrowd(Slot& slot, uint32_t index) {
  Crowd& crowd = Slots::TheCrowd();
  for (uint32_t i = 0; i < Crowd::kPlaces; ++i) {
    uint32_t high = crowd.high.load(std::memory_order_relaxed);
    while (high <= i && !crowd.high.compare_exchange_weak(high, i + 1)) {
    }
    uint64_t nobody = 0;
    if (crowd.places[i].load(std::memory_order_relaxed) != 0 ||
        !crowd.places[i].compare_exchange_strong(nobody, Crowded(index, ThreadId())))
      continue;
    ++slot.bell_crowd;
    return true;
  }
  return false;
}

bool LeaveCrowd(Slot& slot, uint32_t index) {
  if (slot.bell_crowd == 0) return false;
  Crowd& crowd = Slots::TheCrowd();
  for (uint32_t i = 0; i < crowd.high.load(std::memory_order_relaxed); ++i) {
    if (crowd.places[i].load(std::memory_order_relaxed) != Crowded(index, ThreadId())) continue;
    crowd.places[i].store(0, std::memory_order_relaxed);
    --slot.bell_crowd;
    return true;
  }
  return false;
}

bool AnyInCrowd(Slot& slot, uint32_t index) {
  if (slot.bell_crowd == 0) [[likely]]
    return false;
  uint32_t alive = 0;
  Crowd& crowd = Slots::TheCrowd();
  for (uint32_t i = 0; i < crowd.high.load(std::memory_order_relaxed); ++i) {
    const uint64_t who = crowd.places[i].load(std::memory_order_relaxed);
    if (who >> 32 != uint64_t{index} + 1) continue;
    if (!Gone(static_cast<uint32_t>(who)))
      ++alive;
    else
      crowd.places[i].store(0, std::memory_order_relaxed);
  }
  slot.bell_crowd = alive;
  return alive != 0;
}

// With the bell's lock held. Forgets those that have died. A signal handler counts the wait that it interrupted.
bool SomebodySleeps(Slot& slot, uint32_t index) {
  bool any = AnyInCrowd(slot, index) || slot.bell_unnamed != 0;
  for (uint32_t& sleeper : slot.bell_sleepers) {
    if (sleeper == 0) continue;
    if (Gone(sleeper))
      sleeper = 0;
    else
      any = true;
  }
  return any;
}

uint32_t* PlaceOf(Slot& slot, uint32_t thread) {
  for (uint32_t& sleeper : slot.bell_sleepers) {
    if (sleeper == thread) return &sleeper;
  }
  return nullptr;
}

}  // namespace

bool EnterBell(uint32_t index) {
  Slot& slot = Slots::Get(index);
  const LocalChannel& channel = Slots::Local(index);
  if (thread_state.asleep == 0) thread_state.asleep_at = StackPointer();
  ++thread_state.asleep;
  if (!slot.bell_lock.Acquire()) return false;
  const bool alone = channel.page != nullptr && !SomebodySleeps(slot, index);
  const int own_bell = channel.own_bell;  // a handler of this thread may have closed it since
  const bool emptied = alone && own_bell > 0 && bell::Empty(own_bell);
  if (uint32_t* place = PlaceOf(slot, 0))
    *place = ThreadId();
  else if (!JoinCrowd(slot, index))
    ++slot.bell_unnamed, ++thread_state.unnamed;
  slot.bell_lock.Release();
  return emptied && channel.items.load(std::memory_order_relaxed) != 0;
}

void LeaveBell(uint32_t index) {
  Slot& slot = Slots::Get(index);
  if (thread_state.asleep != 0) --thread_state.asleep;
  if (!slot.bell_lock.Acquire()) return;
  if (uint32_t* place = PlaceOf(slot, ThreadId()))
    *place = 0;
  else if (!LeaveCrowd(slot, index) && thread_state.unnamed > 0 && slot.bell_unnamed > 0)
    --slot.bell_unnamed, --thread_state.unnamed;
  slot.bell_lock.Release();
}

bool RingOwn(uint32_t index) {
  // We hold the end of the pipe that is read; /proc opens the other one.
  char path[40] = "/proc/self/fd/";
  char* end = path + sizeof "/proc/self/fd/" - 1;
  char digits[12];
  int count = 0;
  for (int rest = Slots::Local(index).own_bell; rest != 0; rest /= 10)
    digits[count++] = static_cast<char>('0' + rest % 10);
  while (count > 0) *end++ = digits[--count];
  const long fd = Syscall(SYS_openat, AT_FDCWD, reinterpret_cast<long>(path), O_RDWR | O_NONBLOCK | O_CLOEXEC, 0);
  if (fd < 0) return false;
  bell::Ring({.fd = static_cast<int>(fd), .reads = true});
  Syscall(SYS_close, fd);
  return true;
}

void TellOtherProcesses(uint32_t index) {
  Slot& slot = Slots::Get(index);
  if (slot.holders.load() <= 1) return;
  Slots::TheCrowd().moves.fetch_add(1);
  const SignalsBlocked quiet;
  if (!slot.bell_lock.Acquire()) return;
  if (Slots::Local(index).page != nullptr && Slots::Local(index).own_bell != 0) RingOwn(index);
  slot.bell_lock.Release();
}

void WakeOwn(uint32_t index) {
  Slot& slot = Slots::Get(index);
  const LocalChannel& channel = Slots::Local(index);
  if (slot.phase.load() != Phase::kArmed) return;
  const SignalsBlocked quiet;
  if (!slot.bell_lock.Acquire()) return;
  if (channel.page != nullptr && channel.own_bell != 0 && SomebodySleeps(slot, index)) RingOwn(index);
  slot.bell_lock.Release();
}

bool WakeOthers(uint32_t index) {
  Slot& slot = Slots::Get(index);
  const LocalChannel& channel = Slots::Local(index);
  const SignalsBlocked quiet;
  if (!slot.bell_lock.Acquire()) return false;
  bool others = AnyInCrowd(slot, index);
  for (const uint32_t sleeper : slot.bell_sleepers)
    others = others || (sleeper != 0 && sleeper != ThreadId() && !Gone(sleeper));
  const bool rung = others && channel.page != nullptr && channel.own_bell != 0 && RingOwn(index);
  slot.bell_lock.Release();
  return rung;
}

bool MayBePatient(uint32_t index, uint32_t sets) {
  Slot& slot = Slots::Get(index);
  const LocalChannel& channel = Slots::Local(index);
  if (channel.page == nullptr || channel.peer().wait.corks.load(std::memory_order_relaxed) == 0) [[likely]]
    return false;
  if (slot.holders.load() != 1 || channel.items.load() != sets || !slot.bell_lock.Acquire()) return false;
  bool alone = slot.bell_crowd == 0 && slot.bell_unnamed == 0;
  for (const uint32_t sleeper : slot.bell_sleepers) alone = alone && (sleeper == 0 || sleeper == ThreadId());
  slot.bell_lock.Release();
  return alone;
}

void LeaveAllBells() {
  for (int fd = 0; fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() != FdWord::kStream) continue;
    Slot& slot = Slots::Get(word.index());
    if (!slot.bell_lock.Acquire()) continue;
    while (uint32_t* place = PlaceOf(slot, ThreadId())) *place = 0;
    while (LeaveCrowd(slot, word.index())) {
    }
    slot.bell_lock.Release();
  }
  thread_state.asleep = 0;
}

}  // namespace heterok8s::heterosock
