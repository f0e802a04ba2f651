// The two ends of kill_sweep_test: one that dies at any instruction, and one that must see no more of that than its
// end.
//
// Threading: each end is a process; these functions are called by its first thread.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <string>

namespace heterok8s::heterosock::behaviour {

enum class Way {
  kBlocking,
  kLevel,
  kEdge
};  // how an end waits: by poll, or by epoll with a socket that does not block
inline constexpr int kWays = 3;

constexpr int kPatience = 60'000;  // milliseconds for the end of a dead one, and until the agent has heard of it

// Streams a pattern, and takes what comes back, until it is killed or the other end is gone.
[[noreturn]] void Stream(int fd, Way way);

struct Seen {
  size_t bytes = 0;
  bool moved = false;
  const char* wrong = nullptr;
};

// Everything that Stream() wrote until it died, sent back as far as there is room. `has_moved` is called once, when the
// connection receives through shared memory.
Seen ReadAll(int fd, Way way, const std::function<void()>& has_moved);

struct Held {
  long descriptors = 0, mappings = 0, memfds = 0;  // memfds: open or mapped, where every channel must be to exist
};
Held Count(pid_t pid);

// True, and it says so, when `pid` has more than `before`, also after a while.
bool Grew(const char* who, const Held& before, pid_t pid);

}  // namespace heterok8s::heterosock::behaviour
