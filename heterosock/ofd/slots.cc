#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <new>

#include "heterosock/lib/process.h"
#include "heterosock/lib/trace.h"
#include "heterosock/ofd/fd_table.h"
#include "heterosock/ofd/slot.h"

namespace heterok8s::heterosock {

constinit Slot* Slots::slots_ = nullptr;
constinit LocalChannel Slots::local_[Slots::kCount] = {};

namespace {
std::atomic<uint32_t> next_slot{0};

bool Alive(uint32_t pid) {
  if (Syscall(SYS_kill, pid, 0) == -ESRCH) return false;
  // A child that has ended and was not waited for holds nothing any more; looking leaves it to be waited for.
  siginfo_t info = {};
  const long result = Syscall(SYS_waitid, P_PID, pid, reinterpret_cast<long>(&info), WEXITED | WNOHANG | WNOWAIT, 0);
  return result != 0 || info.si_pid == 0;
}

void AddHolder(Slot& slot, uint32_t pid) {
  for (auto& holder : slot.pids) {
    uint32_t none = 0;
    if (holder.compare_exchange_strong(none, pid)) return;
  }
  // More processes than we can name: the count alone keeps the slot, and it is not reclaimed when they die.
}

void RemoveHolder(Slot& slot, uint32_t pid) {
  for (auto& holder : slot.pids) {
    uint32_t mine = pid;
    if (holder.compare_exchange_strong(mine, 0)) return;
  }
}

// What this process has descriptors of.
void MarkStreams() {
  for (int fd = 0; fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() == FdWord::kStream) process.fork_marks.Set(word.index());
  }
}

void Initialise(Slot& slot) {
  const uint32_t generation = slot.generation + 1;
  slot.phase.store(Phase::kTcp, std::memory_order_relaxed);
  slot.reason.store(Reason::kNone, std::memory_order_relaxed);
  slot.nonblocking.store(0, std::memory_order_relaxed);
  slot.broken.store(0, std::memory_order_relaxed);
  slot.spawned.store(0, std::memory_order_relaxed);
  slot.generation = generation;
  slot.retry_at = slot.held_since = 0;
  for (uint32_t& sleeper : slot.bell_sleepers) sleeper = 0;
  slot.bell_crowd = slot.bell_unnamed = 0;
  slot.program_idle.store(0, std::memory_order_relaxed);
  slot.tx.~SendState();
  slot.rx.~ReceiveState();
  new (&slot.tx) SendState;
  new (&slot.rx) ReceiveState;
}

}  // namespace

bool Slots::Map() {
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return false;
  Slot* expected = nullptr;
  if (!__atomic_compare_exchange_n(&slots_, &expected, static_cast<Slot*>(memory), false, __ATOMIC_ACQ_REL,
                                   __ATOMIC_ACQUIRE)) {
    munmap(memory, kBytes);  // another thread was first
  }
  return true;
}

int Slots::Allocate() {
  if (__atomic_load_n(&slots_, __ATOMIC_ACQUIRE) == nullptr && !Map()) return -1;
  const uint32_t start = next_slot.fetch_add(1, std::memory_order_relaxed);
  for (int sweep = 0; sweep < 2; ++sweep) {
    for (uint32_t i = 0; i < kCount; ++i) {
      const uint32_t index = (start + i) % kCount;
      Slot& slot = slots_[index];
      uint32_t free = 0;
      if (slot.used.load(std::memory_order_relaxed) != 0) {
        // Processes that were killed left their slots: collected when there is nothing else.
        if (sweep == 0 || local_[index].fds.load(std::memory_order_relaxed) != 0) continue;
        Alone(slot);
        uint32_t nobody = 0;
        if (!slot.holders.compare_exchange_strong(nobody, 1)) continue;
      } else {
        if (!slot.used.compare_exchange_strong(free, 1, std::memory_order_acquire)) continue;
        slot.holders.store(1, std::memory_order_relaxed);
      }
      for (auto& holder : slot.pids) holder.store(0, std::memory_order_relaxed);
      slot.pids[0].store(process.pid, std::memory_order_relaxed);
      Initialise(slot);
      local_[index].generation = slot.generation;
      local_[index].closing.store(false);
      local_[index].fds.store(1, std::memory_order_relaxed);
      local_[index].offered.store(0, std::memory_order_relaxed);
      next_slot.store(index + 1, std::memory_order_relaxed);
      return static_cast<int>(index);
    }
  }
  return -1;
}

bool Slots::Drop(uint32_t index) {
  Slot& slot = slots_[index];
  if (local_[index].let_go.exchange(false)) return false;
  RemoveHolder(slot, process.pid);
  if (slot.holders.fetch_sub(1) != 1) return false;
  slot.used.store(0, std::memory_order_release);
  return true;
}

void Slots::BeforeFork() {
  if (slots_ == nullptr) return;
  MarkStreams();
  process.fork_marks.ForEach([](uint32_t index) { slots_[index].holders.fetch_add(1); });
}

void Slots::AfterFork(int child) {
  if (slots_ == nullptr) return;
  // The child names itself, so that its name is there before it can let go.
  if (child < 0) process.fork_marks.ForEach([](uint32_t index) { slots_[index].holders.fetch_sub(1); });
  if (child == 0) {
    process.fork_marks.ForEach([](uint32_t index) {
      AddHolder(slots_[index], process.pid);
      local_[index].closing.store(false);  // another thread of the parent's may have been about to
    });
  }
  process.fork_marks.Clear();
}

bool Slots::Join(uint32_t index) {
  Slot& slot = slots_[index];
  uint32_t holders = slot.holders.load();
  do {
    if (holders == 0) return false;
  } while (!slot.holders.compare_exchange_weak(holders, holders + 1));
  AddHolder(slot, process.pid);
  if (slot.generation == local_[index].generation) return true;
  Drop(index);
  return false;
}

void Slots::AfterUnseenFork() {
  process.fork_marks.Clear();  // another thread of the parent may have been about to fork
  if (slots_ == nullptr) return;
  MarkStreams();
  process.fork_marks.ForEach([](uint32_t index) {
    if (!Join(index)) local_[index].fds.store(0);
    local_[index].closing.store(false);
  });
  process.fork_marks.Clear();
}

void Slots::LetGoForExec(uint32_t index) {
  Slot& slot = slots_[index];
  uint32_t holders = slot.holders.load();
  if (holders <= 1 || local_[index].let_go.exchange(true)) return;
  RemoveHolder(slot, process.pid);
  while (holders > 1) {
    if (slot.holders.compare_exchange_weak(holders, holders - 1)) return;
  }
  // The others went meanwhile: it ends with the exec.
  AddHolder(slot, process.pid);
  local_[index].let_go.store(false);
}

void Slots::BeforeExec() {
  // In a child of a bare vfork the holder is its parent. A thread that forks is not waited for: it may wait for us, in
  // a handler of pthread_atfork().
  if (slots_ == nullptr || Syscall(SYS_getpid) != static_cast<long>(process.pid) || !process.fork_lock.TryAcquire())
    return;
  for (int fd = 0; fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() != FdWord::kStream || slots_[word.index()].holders.load() <= 1) continue;
    const long flags = Syscall(SYS_fcntl, fd, F_GETFD);
    if (flags < 0 || (flags & FD_CLOEXEC) == 0) process.fork_marks.Set(word.index());
  }
  for (int fd = 0; fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() == FdWord::kStream && !process.fork_marks.Has(word.index())) LetGoForExec(word.index());
  }
  process.fork_marks.Clear();
  process.fork_lock.Release();
}

bool Slots::AfterFailedExec() {
  if (slots_ == nullptr) return false;
  bool lost = false;
  for (int fd = 0; fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    if (word.kind() != FdWord::kStream || !local_[word.index()].let_go.exchange(false) || Join(word.index())) continue;
    local_[word.index()].fds.store(0);
    lost = true;
  }
  return lost;
}

bool Slots::Alone(Slot& slot) {
  if (slot.holders.load() <= 1) return true;
  for (auto& holder : slot.pids) {
    uint32_t pid = holder.load();
    if (pid != 0 && pid != process.pid && !Alive(pid) && holder.compare_exchange_strong(pid, 0))
      slot.holders.fetch_sub(1);
  }
  return slot.holders.load() <= 1;
}

bool StayOnTcp(uint32_t index, Reason reason, int fd) {
  Slot& slot = Slots::Get(index);
  Phase phase = slot.phase.load();
  do {
    if (phase == Phase::kArmed) return false;
    if (phase == Phase::kNever) return true;
  } while (!slot.phase.compare_exchange_weak(phase, Phase::kNever));
  slot.reason.store(reason, std::memory_order_relaxed);
  slot.tx.mode.store(Mode::kPlain, std::memory_order_release);
  slot.rx.mode.store(Mode::kPlain, std::memory_order_release);
  if (trace_fd >= 0) Trace("fd %d: stays on TCP: %s", fd >= 0 ? fd : FdTable::Find(index), Text(reason));
  return true;
}

}  // namespace heterok8s::heterosock
