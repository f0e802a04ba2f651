#include "heterosock/tests/interrupt.h"

#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <sys/prctl.h>
#include <ucontext.h>

#include <cerrno>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59  // linux/prctl.h, Linux 5.11
#endif

namespace heterok8s::heterosock::behaviour {

const RawSyscall libc_syscall =
    reinterpret_cast<RawSyscall>(dlsym(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "syscall"));

#if defined(__x86_64__)

namespace {

constexpr char kPass = 0, kCatch = 1;       // SYSCALL_DISPATCH_FILTER_ALLOW and _BLOCK
constexpr unsigned long kOff = 0, kOn = 1;  // PR_SYS_DISPATCH_OFF and _ON

volatile char selector = kPass;
volatile int countdown = 0;  // catches until `due`
volatile bool stopped = false;
const std::function<void()>* due = nullptr;

// The system call is made for the library, after what is due before it.
void Caught(int, siginfo_t*, void* context) {
  const char before = selector;
  const int saved = errno;
  selector = kPass;
  greg_t* const registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  countdown = countdown - 1;
  if (countdown == 0) {
    stopped = true;
    (*due)();
  }
  const long result = libc_syscall(registers[REG_RAX], registers[REG_RDI], registers[REG_RSI], registers[REG_RDX],
                                   registers[REG_R10], registers[REG_R8], registers[REG_R9]);
  registers[REG_RAX] = result < 0 ? -errno : result;
  errno = saved;
  selector = before;
}

struct Code {
  uintptr_t inside;
  uintptr_t start = 0, bytes = 0;
};

int FindCode(dl_phdr_info* object, size_t, void* argument) {
  auto* code = static_cast<Code*>(argument);
  for (int i = 0; i < object->dlpi_phnum; ++i) {
    const ElfW(Phdr)& part = object->dlpi_phdr[i];
    const uintptr_t start = object->dlpi_addr + part.p_vaddr;
    if (part.p_type != PT_LOAD || (part.p_flags & PF_X) == 0) continue;
    if (code->inside >= start && code->inside < start + part.p_memsz) *code = {code->inside, start, part.p_memsz};
  }
  return 0;
}

}  // namespace

bool StopAt(int at, const std::function<void()>& what, const std::function<void()>& then) {
  Code code{reinterpret_cast<uintptr_t>(libc_syscall)};
  dl_iterate_phdr(FindCode, &code);
  struct sigaction action {
  }, before{};
  action.sa_sigaction = Caught;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSYS, &action, &before);
  countdown = at;
  stopped = false;
  due = &then;
  prctl(PR_SET_SYSCALL_USER_DISPATCH, kOn, code.start, code.bytes, &selector);
  selector = kCatch;
  what();
  selector = kPass;
  prctl(PR_SET_SYSCALL_USER_DISPATCH, kOff, 0, 0, 0);
  sigaction(SIGSYS, &before, nullptr);
  return stopped;
}

#else

bool StopAt(int, const std::function<void()>& what, const std::function<void()>&) {
  what();
  return false;
}

#endif

}  // namespace heterok8s::heterosock::behaviour
