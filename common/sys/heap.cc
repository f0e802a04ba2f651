#include "common/sys/heap.h"

#include <malloc.h>
#include <unistd.h>

#include <fstream>

namespace heterok8s::sys {
namespace {

// Allocation is no hot path of a daemon: two arenas keep its threads out of each other's way.
constexpr int kArenas = 2;
constexpr uint64_t kWorthTrimming = 4 << 20;  // bytes

uint64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  uint64_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

void BoundArenas() { mallopt(M_ARENA_MAX, kArenas); }

uint64_t HeapInUse() {
  const struct mallinfo2 info = mallinfo2();  // of all arenas
  return info.uordblks + info.hblkhd;
}

void TrimHeap() {
  static uint64_t last_bytes = 0;
  if (ResidentBytes() < last_bytes + kWorthTrimming) return;
  malloc_trim(0);
  last_bytes = ResidentBytes();
}

}  // namespace heterok8s::sys
