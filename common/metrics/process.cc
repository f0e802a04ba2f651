#include "common/metrics/process.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "common/sys/heap.h"

namespace heterok8s::metrics {

ProcessFigures ReadProcessFigures() {
  ProcessFigures figures;
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator("/proc/self/fd", error);
       it != std::filesystem::directory_iterator(); it.increment(error)) {
    ++figures.open_files;
  }
  if (figures.open_files > 0) --figures.open_files;  // the one that listed them
  std::ifstream statm("/proc/self/statm");
  uint64_t total = 0, resident = 0;
  if (statm >> total >> resident) figures.resident_bytes = resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  figures.heap_bytes = sys::HeapInUse();
  return figures;
}

}  // namespace heterok8s::metrics
