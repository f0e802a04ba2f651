// What is wholly on TCP becomes the kernel's alone, for a program that may make no calls but its own from now on.
#include "heterosock/epoll/registry.h"
#include "heterosock/lib/quiet.h"
#include "heterosock/ofd/fd_table.h"
#include "heterosock/stream/sleepers.h"
#include "heterosock/upgrade/agent_state.h"
#include "heterosock/upgrade/upgrade.h"

namespace heterok8s::heterosock {
namespace {

constexpr uint64_t kAwakeNs = 500'000'000;  // for threads that are asleep, on a machine with too much to do

template <typename F>
void ForEachStream(F function) {
  for (int fd = 0; fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() == FdWord::kStream) function(word.index());
  }
}

// Not one whose last bytes TCP does not take yet: the next calls bring them there.
bool OnTcp(const Slot& slot) { return slot.tx.mode.load() == Mode::kPlain && slot.rx.mode.load() == Mode::kPlain; }

// From the phases that a connection which was fenced can have; another thread may have closed it, and another process
// made a new one of its slot.
void LeaveLibrary(Slot& slot) {
  for (const Phase from : {Phase::kPaired, Phase::kArmed, Phase::kPaired}) {
    Phase phase = from;
    if (OnTcp(slot) && slot.phase.compare_exchange_strong(phase, Phase::kNever)) return;
  }
}

bool MayForget(FdWord word) {
  switch (word.kind()) {
    case FdWord::kStream: {
      const Slot& slot = Slots::Get(word.index());
      return slot.phase.load() == Phase::kNever && OnTcp(slot) && Slots::Local(word.index()).items.load() == 0;
    }
    case FdWord::kEpoll:
      return EpollRetired(word.index());
    case FdWord::kHidden:
      return false;
    default:
      return true;
  }
}

}  // namespace

void RetireAll() {
  {
    // Whoever was about to arm a connection has seen by now that it is fenced.
    const SignalsBlocked quiet;
    if (agent_lock.Acquire()) agent_lock.Release();
  }
  ForEachStream([](uint32_t index) { LeaveLibrary(Slots::Get(index)); });
  EpollRetireAll();
  const uint64_t until = Nanoseconds() + kAwakeNs;
  ForEachStream([until](uint32_t index) {
    while (Slots::Get(index).phase.load() == Phase::kNever && WakeOthers(index) && Nanoseconds() < until) sched_yield();
  });
  for (unsigned number = 0; number < FdTable::End(); ++number) {
    const int fd = static_cast<int>(number);
    const FdWord word = FdTable::Get(fd);
    if (word.raw() != 0 && MayForget(word)) FdTable::Clear(fd, word);
  }
}

}  // namespace heterok8s::heterosock
