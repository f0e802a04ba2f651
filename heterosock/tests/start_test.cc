// A program whose malloc makes a system call by syscall(2) when it starts, as jemalloc does: the library looks up
// libc's functions in there, and nothing in that may allocate, as it would wait for a lock that is held. dlsym() does,
// before glibc 2.34 with a thread's first call and later for each name that it does not find, so here it always does:
// the program has one of its own, which the library finds before libc's.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "heterosock/tests/agent.h"

namespace {

constexpr int kWithinItself = 42;

bool starting = false, has_started = false;

void Start() {
  if (starting) _exit(kWithinItself);
  if (has_started) return;
  starting = true;
  const long file = syscall(SYS_openat, AT_FDCWD, "/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
  if (file >= 0) syscall(SYS_close, file);
  starting = false;
  has_started = true;
}

void Allocate() { std::free(std::malloc(64)); }

using Find = void* (*)(void*, const char*);

Find RealFind() {
#if defined(__x86_64__)
  constexpr char kVersion[] = "GLIBC_2.2.5";
#else
  constexpr char kVersion[] = "GLIBC_2.17";
#endif
  static Find find = nullptr;
  if (find == nullptr) find = reinterpret_cast<Find>(dlvsym(RTLD_NEXT, "dlsym", kVersion));
  return find;
}

}  // namespace

extern "C" {
void* __libc_malloc(size_t);  // NOLINT

void* malloc(size_t size) {
  Start();
  return __libc_malloc(size);
}

// The last call must be a jump: RTLD_NEXT is what comes behind the caller.
void* dlsym(void* handle, const char* name) {
  Allocate();
  return RealFind()(handle, name);
}
}

namespace heterok8s::heterosock::behaviour {
namespace {

// In the process that has the library: it has started.
int Started() {
  int pipes[2];
  if (pipe2(pipes, O_CLOEXEC) != 0 || close(pipes[0]) != 0 || close(pipes[1]) != 0) return 2;
  return has_started ? 0 : 3;
}

int Main(int argc, char**) {
  if (argc == 2) return Started();
  const std::string library = BesideThisProgram("../libheterosock.so");
  if (library.empty()) {
    std::printf("the library is not built\n");
    return 77;
  }
  const pid_t child = fork();
  if (child == 0) {
    setenv("LD_PRELOAD", library.c_str(), 1);
    execl("/proc/self/exe", "start_test", "--started", static_cast<char*>(nullptr));
    _exit(4);
  }
  int status = 0;
  waitpid(child, &status, 0);
  const bool right = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  std::printf(right ? "ok\n" : "FAILED: status %#x\n", static_cast<unsigned>(status));
  return right ? 0 : 1;
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) { return heterok8s::heterosock::behaviour::Main(argc, argv); }
