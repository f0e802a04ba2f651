#include "heterosock/lib/process.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "heterosock/epoll/registry.h"
#include "heterosock/lib/trace.h"
#include "heterosock/notify/spin.h"
#include "heterosock/ofd/slot.h"
#include "heterosock/ofd/thread.h"
#include "heterosock/stream/piece.h"
#include "heterosock/upgrade/upgrade.h"

namespace heterok8s::heterosock {

constinit Process process;
thread_local constinit ThreadState thread_state;

namespace {

std::atomic<uint32_t> started{0};
uint64_t first_cycles = 0;
uint64_t first_ns = 0;

void MakeAlivePage() {
  void* page = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return;
  if (madvise(page, 4096, MADV_WIPEONFORK) != 0) {  // before Linux 4.14
    munmap(page, 4096);
    return;
  }
  auto* word = static_cast<std::atomic<uint32_t>*>(page);
  word->store(1);
  process.alive = word;
}

uint64_t Number(const char* name, uint64_t otherwise) {
  const char* text = getenv(name);
  if (text == nullptr || text[0] < '0' || text[0] > '9') return otherwise;
  return strtoull(text, nullptr, 10);
}

__attribute__((constructor)) void Constructor() { StartProcess(); }

}  // namespace

void StartProcess() {
  uint32_t state = started.load(std::memory_order_acquire);
  if (state == 2) [[likely]]
    return;
  if (state != 0 || !started.compare_exchange_strong(state, 1))
    return;  // another thread is at it: its sockets are tracked, ours not
  const int saved = errno;
  process.pid = static_cast<uint32_t>(Syscall(SYS_getpid));
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  if (Syscall(SYS_sched_getaffinity, 0, sizeof cpus, reinterpret_cast<long>(&cpus)) > 0)
    process.cpus = static_cast<uint32_t>(CPU_COUNT(&cpus));
  process.offer_bytes = Number("HETEROSOCK_OFFER_BYTES", process.offer_bytes);
  process.offer_writes = static_cast<uint32_t>(Number("HETEROSOCK_OFFER_WRITES", process.offer_writes));
  process.keep_alive_s = static_cast<uint32_t>(Number("HETEROSOCK_KEEP_ALIVE", process.keep_alive_s));
  const char* path = secure_getenv("HETEROSOCK_AGENT");
  if (path != nullptr && strlen(path) < sizeof process.agent_path) strcpy(process.agent_path, path);
  first_cycles = Cycles();
  first_ns = Nanoseconds();
  MakeAlivePage();
  CallCount::Start();
  StartTrace();
  const char* mode = getenv("HETEROSOCK");
  const bool off = mode != nullptr && (strcmp(mode, "off") == 0 || strcmp(mode, "0") == 0);
  if (off) {
    process.disabled_because.store(Reason::kDisabled);
    Trace("no connection of this process moves to shared memory: %s (HETEROSOCK)", Text(Reason::kDisabled));
  }
  // Without it a child of a bare system call would take itself for its parent.
  const bool blind = !off && process.alive == nullptr;
  if (blind) {
    process.disabled_because.store(Reason::kKernel);
    Trace("no connection of this process moves to shared memory: %s (MADV_WIPEONFORK)", Text(Reason::kKernel));
  }
  process.enabled.store(!off && !blind);
  started.store(2, std::memory_order_release);
  errno = saved;
}

void Calibrate() {
  static std::atomic<bool> done{false};
  if (done.load(std::memory_order_relaxed)) return;
  const uint64_t ns = Nanoseconds() - first_ns;
  if (ns < 1000000) return;  // too short to tell
  const uint64_t rate = (Cycles() - first_cycles) * 1000 / ns;
  process.cycles_per_us = rate == 0 ? 1 : rate;
  done.store(true, std::memory_order_relaxed);
}

void AfterForkInChild() {
  // This thread is still called what it was in the parent, unless it was given thread storage of its own.
  const bool counted = process.counted_child || process.fork_lock.HeldByMe();
  process.counted_child = false;
  process.fork_lock.Reset();
  process.parent = process.pid;
  process.pid = static_cast<uint32_t>(Syscall(SYS_getpid));
  thread_state = ThreadState();
  spin_state.spinners.store(0);
  PiecesAfterFork();
  if (process.alive != nullptr) process.alive->store(1);
  if (counted)
    Slots::AfterFork(0);
  else
    Slots::AfterUnseenFork();
  EpollAfterFork();
  UpgradeAfterFork();
  if (!counted) LeaveLost();
}

void DisableProcess(Reason reason) {
  process.disabled_because.store(reason);
  if (process.enabled.exchange(false))
    Trace("no connection of this process moves to shared memory from here on: %s", Text(reason));
  // Whoever makes a socket looks at `enabled` once more behind it (Track() in hooks/sockets.cc).
  std::atomic_thread_fence(std::memory_order_seq_cst);
  FenceAll(reason);
}

}  // namespace heterok8s::heterosock
