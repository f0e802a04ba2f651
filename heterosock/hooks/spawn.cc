// posix_spawn, pidfd_spawn, and what its file actions give to the program that it starts.
//
// The child is libc's own: it copies descriptors where no wrapper sees it. So their numbers are kept when they are put
// into a posix_spawn_file_actions_t, whose inside libc alone knows. When that is used, whatever connection has such a
// number by then goes back to TCP. So does one that was kept for another object and still has its number: the program
// may have copied that object. What else has a number of another object stays where it is: objects are not always
// destroyed, and numbers are used again.
//
// Threading: any.
#include <spawn.h>

#include <atomic>

#include "heterosock/hooks/hook.h"
#include "heterosock/lib/real.h"
#include "heterosock/ofd/slot.h"
#include "heterosock/upgrade/upgrade.h"

using namespace heterok8s::heterosock;  // NOLINT

namespace {

struct Source {
  std::atomic<const void*> actions{nullptr};
  std::atomic<int> fd{-1};
  std::atomic<uint64_t> connection{0};  // that had the number when it was kept
};
Source sources[1024];
// More than there is room for: then every connection counts as one of them.
std::atomic<bool> too_many{false};

// Which connection has the number now, told apart from all others that use its slot in turn; 0: none.
uint64_t ConnectionAt(int fd) {
  const FdWord word = FdTable::Get(fd);
  if (word.kind() != FdWord::kStream) return 0;
  return (uint64_t{word.index()} + 1) << 32 | Slots::Local(word.index()).generation;
}

void Keep(const void* actions, int fd) {
  for (Source& source : sources) {
    const void* nobody = nullptr;
    if (!source.actions.compare_exchange_strong(nobody, actions)) continue;
    source.connection.store(ConnectionAt(fd));
    source.fd.store(fd);
    return;
  }
  too_many.store(true);
}

void Forget(const void* actions) {
  for (Source& source : sources) {
    if (source.actions.load(std::memory_order_relaxed) != actions) continue;
    source.fd.store(-1);
    source.actions.store(nullptr);
  }
}

void HandOn(int fd) {
  const FdWord word = FdTable::Get(fd);
  if (word.kind() == FdWord::kStream) FenceAndSettle(word.index(), fd, Reason::kExec);
}

void BeforeSpawn(const posix_spawn_file_actions_t* actions) {
  BeforeExec();
  MarkSpawned(false);  // an action may give it what its exec would not
  if (actions == nullptr) return;
  for (const Source& source : sources) {
    const void* kept_for = source.actions.load(std::memory_order_relaxed);
    if (kept_for == nullptr) continue;
    const int fd = source.fd.load();
    const uint64_t connection = source.connection.load();
    if (kept_for == actions || (connection != 0 && connection == ConnectionAt(fd))) HandOn(fd);
  }
  for (int fd = 0; too_many.load(std::memory_order_relaxed) && fd <= FdTable::High(); ++fd) HandOn(fd);
}

int SpawnByPidfd(const char* name, int* child, const char* file, const posix_spawn_file_actions_t* actions,
                 const posix_spawnattr_t* attributes, char* const* argv, char* const* env) {
  const auto next = reinterpret_cast<int (*)(int*, const char*, const posix_spawn_file_actions_t*,
                                             const posix_spawnattr_t*, char* const*, char* const*)>(NextFunction(name));
  if (next == nullptr) return ENOSYS;
  const int result = next(child, file, actions, attributes, argv, env);
  if (result == 0 && child != nullptr) Fresh(*child);
  return result;
}

}  // namespace

HETEROSOCK_EXPORT int posix_spawn_file_actions_init(posix_spawn_file_actions_t* actions) {
  Forget(actions);
  return real.posix_spawn_file_actions_init(actions);
}
HETEROSOCK_EXPORT int posix_spawn_file_actions_destroy(posix_spawn_file_actions_t* actions) {
  Forget(actions);
  return real.posix_spawn_file_actions_destroy(actions);
}
HETEROSOCK_EXPORT int posix_spawn_file_actions_adddup2(posix_spawn_file_actions_t* actions, int from, int to) {
  const int result = real.posix_spawn_file_actions_adddup2(actions, from, to);
  if (result == 0) Keep(actions, from);
  return result;
}

HETEROSOCK_EXPORT int posix_spawn(pid_t* child, const char* path, const posix_spawn_file_actions_t* actions,
                                  const posix_spawnattr_t* attributes, char* const* argv, char* const* env) {
  BeforeSpawn(actions);
  return real.posix_spawn(child, path, actions, attributes, argv, env);
}
HETEROSOCK_EXPORT int posix_spawnp(pid_t* child, const char* file, const posix_spawn_file_actions_t* actions,
                                   const posix_spawnattr_t* attributes, char* const* argv, char* const* env) {
  BeforeSpawn(actions);
  return real.posix_spawnp(child, file, actions, attributes, argv, env);
}

// Since glibc 2.39; this library's headers may be older.
HETEROSOCK_EXPORT int pidfd_spawn(int* child, const char* path, const posix_spawn_file_actions_t* actions,
                                  const posix_spawnattr_t* attributes, char* const* argv, char* const* env) {
  BeforeSpawn(actions);
  return SpawnByPidfd("pidfd_spawn", child, path, actions, attributes, argv, env);
}
HETEROSOCK_EXPORT int pidfd_spawnp(int* child, const char* file, const posix_spawn_file_actions_t* actions,
                                   const posix_spawnattr_t* attributes, char* const* argv, char* const* env) {
  BeforeSpawn(actions);
  return SpawnByPidfd("pidfd_spawnp", child, file, actions, attributes, argv, env);
}
