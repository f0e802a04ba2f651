#include "heterosock/tests/stage.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace heterok8s::heterosock::behaviour {

void Trace::Append(std::string_view line) {
  uint32_t at = length.fetch_add(static_cast<uint32_t>(line.size()));
  if (at >= kTraceBytes) {
    length.store(kTraceBytes);
    return;
  }
  std::memcpy(text + at, line.data(), std::min(line.size(), kTraceBytes - at));
}

Stage* OpenStage() {
  const char* path = std::getenv("HETEROSOCK_STAGE");
  int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
  void* at = fd < 0 ? MAP_FAILED : mmap(nullptr, sizeof(Stage), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (at == MAP_FAILED) {
    std::fprintf(stderr, "no stage at HETEROSOCK_STAGE=%s\n", path ? path : "");
    std::abort();
  }
  close(fd);
  return static_cast<Stage*>(at);
}

bool WaitFor(std::atomic<uint32_t>& word, uint32_t value) {
  auto end = std::chrono::steady_clock::now() + kDeadline;
  while (true) {
    uint32_t now = word.load();
    if (now >= value) return true;
    if (std::chrono::steady_clock::now() > end) return false;
    timespec tick{0, 50'000'000};
    syscall(SYS_futex, &word, FUTEX_WAIT, now, &tick, nullptr, 0);
  }
}

void Wake(std::atomic<uint32_t>& word) { syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0); }

}  // namespace heterok8s::heterosock::behaviour
