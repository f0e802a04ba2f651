// fork and its kin, exec, and programs started by libc.
//
// fork: parent and child share the connections through the slots, which are shared memory. vfork: the child runs in the
// parent's memory, so there the wrappers only pass on. exec: a connection that the new program inherits goes back to
// TCP first, because that program may read it in ways we do not see.
#include <alloca.h>
#include <pty.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>

#include "heterosock/hooks/hook.h"
#include "heterosock/lib/real.h"
#include "heterosock/ofd/lock.h"
#include "heterosock/ofd/slot.h"
#include "heterosock/upgrade/upgrade.h"

using namespace heterok8s::heterosock;  // NOLINT

extern char** environ;

namespace {

template <typename Call>
pid_t Fork(Call&& call) {
  if (thread_state.in_vfork != 0) return call();
  // Of a program that gave up system calls the child counts itself, if there is anything left that it uses.
  if (process.restricted.load() && process.alive != nullptr) return call();
  NoticeFork();
  if (!process.fork_lock.Acquire()) return call();  // within libc's own forkpty or daemon, which is counted already
  Slots::BeforeFork();
  const pid_t child = call();
  if (child == 0) {
    process.counted_child = true;
    if (process.alive == nullptr)
      AfterForkInChild();
    else
      NoticeFork();  // unless a call that libc made in there did
    process.counted_child = false;
    return 0;
  }
  const int saved = errno;
  Slots::AfterFork(child);
  process.fork_lock.Release();
  errno = saved;
  return child;
}

}  // namespace

HETEROSOCK_EXPORT pid_t fork() {
  return Fork([] { return real.fork(); });
}
HETEROSOCK_EXPORT pid_t __fork() __attribute__((alias("fork")));

HETEROSOCK_EXPORT pid_t _Fork() {
  return Fork([] { return real._Fork(); });
}

HETEROSOCK_EXPORT int daemon(int no_chdir, int no_close) {
  int result = -1;
  Fork([&] {
    result = real.daemon(no_chdir, no_close);  // the parent ends in there
    return result == 0 ? 0 : -1;
  });
  return result;
}

// libc's calls its own fork, not the one above. Before glibc 2.34 it is in libutil, which not every program has.
HETEROSOCK_EXPORT int forkpty(int* master, char* name, const termios* modes, const winsize* size) {
  using ForkPty = int (*)(int*, char*, const termios*, const winsize*);
  static ForkPty next = nullptr;
  if (next == nullptr) next = reinterpret_cast<ForkPty>(NextFunction("forkpty"));
  if (next == nullptr) {
    errno = ENOSYS;
    return -1;
  }
  const pid_t child = Fork([&] { return next(master, name, modes, size); });
  if (child > 0) Fresh(*master);
  return child;
}

namespace heterok8s::heterosock {
long ForkBySystemCall(long number, long a, long b, long c, long d, long e, long f) {
  return Fork([&] { return static_cast<pid_t>(real.syscall(number, a, b, c, d, e, f)); });
}
}  // namespace heterok8s::heterosock

#if defined(__x86_64__)
// The child comes back first, on the parent's stack, so the return address must not be kept there (as in libc's own
// vfork). The mark stays on while the child runs and is taken off when the parent continues.
extern "C" __attribute__((visibility("hidden"))) void heterosock_vfork_mark(uint32_t on) {
  ThreadId();  // the child asks for it too, and must hear the parent's
  thread_state.in_vfork = on;
}
asm(R"(
  .text
  .globl vfork
  .type vfork, @function
  .globl __vfork
  .type __vfork, @function
vfork:
__vfork:
  .cfi_startproc
  endbr64
  subq $8, %rsp
  .cfi_adjust_cfa_offset 8
  movl $1, %edi
  call heterosock_vfork_mark
  addq $8, %rsp
  .cfi_adjust_cfa_offset -8
  popq %r8
  .cfi_adjust_cfa_offset -8
  movl $58, %eax
  syscall
  pushq %r8
  .cfi_adjust_cfa_offset 8
  testl %eax, %eax
  je 1f
  pushq %rax
  xorl %edi, %edi
  call heterosock_vfork_mark
  popq %rax
  cmpl $-4095, %eax
  jae 2f
1:
  ret
2:
  negl %eax
  movl %eax, %edi
  jmp heterosock_set_errno
  .cfi_endproc
  .size vfork, .-vfork
  .size __vfork, .-__vfork
)");
extern "C" __attribute__((visibility("hidden"), used)) int heterosock_set_errno(int error) {
  errno = error;
  return -1;
}
#else
// The child gets a memory of its own: dearer, never wrong.
HETEROSOCK_EXPORT pid_t vfork() { return fork(); }
HETEROSOCK_EXPORT pid_t __vfork() __attribute__((alias("vfork")));
#endif

namespace {
struct Begin {
  int (*function)(void*);
  void* argument;
  bool counted;
};

// In the child, which may have been given thread storage that nobody has set up: it touches none.
int BeginChild(void* data) {
  const Begin begin = *static_cast<const Begin*>(data);
  process.counted_child = begin.counted;
  return begin.function(begin.argument);
}
}  // namespace

HETEROSOCK_EXPORT int clone(int (*function)(void*), void* stack, int flags, void* argument, ...) {
  va_list arguments;
  va_start(arguments, argument);
  void* const a = va_arg(arguments, void*);
  void* const b = va_arg(arguments, void*);
  void* const c = va_arg(arguments, void*);
  va_end(arguments);
  using Clone = int (*)(int (*)(void*), void*, int, void*, void*, void*, void*);
  static Clone next = nullptr;
  if (next == nullptr) next = reinterpret_cast<Clone>(NextFunction("clone"));
  if (flags & CLONE_VM) {
    if (!(flags & CLONE_VFORK)) return next(function, stack, flags, argument, a, b, c);
    // As vfork: the child has our thread's memory, and with it this mark, unless it was given thread storage of its
    // own.
    ThreadId();
    ++thread_state.in_vfork;
    const int child = next(function, stack, flags, argument, a, b, c);
    --thread_state.in_vfork;
    return child;
  }
  if (function == nullptr || stack == nullptr) return next(function, stack, flags, argument, a, b, c);  // EINVAL
  // The child never returns here; it is noticed at its first call.
  return Fork([&] {
    Begin begin{function, argument, process.fork_lock.HeldByMe()};
    return next(BeginChild, stack, flags, &begin, a, b, c);
  });
}
HETEROSOCK_EXPORT int __clone(int (*function)(void*), void* stack, int flags, void* argument, ...)
    __attribute__((alias("clone")));

namespace {
// The program gave up system calls, and TCP has taken every byte.
bool AllOnTcp() {
  bool all = process.restricted.load();
  for (int fd = 0; all && fd <= FdTable::High(); ++fd) {
    const FdWord word = FdTable::Get(fd);
    all = word.kind() != FdWord::kStream || Slots::Get(word.index()).phase.load() != Phase::kArmed;
  }
  return all;
}

}  // namespace

namespace heterok8s::heterosock {
void BeforeExec() {
  if (AllOnTcp()) return;
  NoticeFork();
  MarkSpawned(thread_state.in_vfork == 0);
  FenceInheritable(Reason::kExec);
}
}  // namespace heterok8s::heterosock

namespace {
// This process becomes another program, or the call fails.
template <typename Call>
[[gnu::always_inline]] inline long Exec(Call call) {
  BeforeExec();
  if (thread_state.in_vfork != 0 || process.restricted.load()) return call();
  Slots::BeforeExec();
  const long result = call();
  const int saved = errno;
  if (Slots::AfterFailedExec()) LeaveLost();
  errno = saved;
  return result;
}

// The arguments of an execl: up to the null, then perhaps the environment.
#define HETEROSOCK_COLLECT(first)                                         \
  va_list counting, arguments;                                            \
  va_start(counting, first);                                              \
  char* const start = const_cast<char*>(first);                           \
  size_t count = start == nullptr ? 0 : 1;                                \
  while (count != 0 && va_arg(counting, char*) != nullptr) ++count;       \
  va_end(counting);                                                       \
  char** argv = static_cast<char**>(alloca((count + 1) * sizeof(char*))); \
  argv[0] = const_cast<char*>(first);                                     \
  va_start(arguments, first);                                             \
  for (size_t i = 1; i <= count; ++i) argv[i] = va_arg(arguments, char*);
}  // namespace

namespace heterok8s::heterosock {
long ExecBySystemCall(long number, long a, long b, long c, long d, long e, long f) {
  return Exec([&] { return real.syscall(number, a, b, c, d, e, f); });
}
}  // namespace heterok8s::heterosock

HETEROSOCK_EXPORT int execve(const char* path, char* const* argv, char* const* env) {
  return static_cast<int>(Exec([&] { return real.execve(path, argv, env); }));
}
HETEROSOCK_EXPORT int execv(const char* path, char* const* argv) {
  return static_cast<int>(Exec([&] { return real.execve(path, argv, environ); }));
}
HETEROSOCK_EXPORT int execvp(const char* file, char* const* argv) {
  return static_cast<int>(Exec([&] { return real.execvpe(file, argv, environ); }));
}
HETEROSOCK_EXPORT int execvpe(const char* file, char* const* argv, char* const* env) {
  return static_cast<int>(Exec([&] { return real.execvpe(file, argv, env); }));
}
HETEROSOCK_EXPORT int fexecve(int fd, char* const* argv, char* const* env) {
  return static_cast<int>(Exec([&] { return real.fexecve(fd, argv, env); }));
}
HETEROSOCK_EXPORT int execveat(int at, const char* path, char* const* argv, char* const* env, int flags) {
  return static_cast<int>(Exec([&] { return real.execveat(at, path, argv, env, flags); }));
}
HETEROSOCK_EXPORT int execl(const char* path, const char* first, ...) {
  HETEROSOCK_COLLECT(first)
  va_end(arguments);
  return static_cast<int>(Exec([&] { return real.execve(path, argv, environ); }));
}
HETEROSOCK_EXPORT int execlp(const char* file, const char* first, ...) {
  HETEROSOCK_COLLECT(first)
  va_end(arguments);
  return static_cast<int>(Exec([&] { return real.execvpe(file, argv, environ); }));
}
HETEROSOCK_EXPORT int execle(const char* path, const char* first, ...) {
  HETEROSOCK_COLLECT(first)
  char* const* env = va_arg(arguments, char* const*);
  va_end(arguments);
  return static_cast<int>(Exec([&] { return real.execve(path, argv, env); }));
}

HETEROSOCK_EXPORT int system(const char* command) {
  BeforeExec();
  return real.system(command);
}
HETEROSOCK_EXPORT FILE* popen(const char* command, const char* mode) {
  BeforeExec();
  return real.popen(command, mode);
}
