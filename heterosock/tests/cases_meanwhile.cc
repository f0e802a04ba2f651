// What another thread does to a connection in the middle of a call: between any two system calls that the library makes
// in it. Those of the library are caught by syscall user dispatch
// (Documentation/admin-guide/syscall-user-dispatch.rst), which lets the ones of libc pass. On plain libc, and where the
// kernel has none of it, nothing is caught.
#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "heterosock/tests/case.h"

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59  // linux/prctl.h, Linux 5.11
#endif

namespace heterok8s::heterosock::behaviour {
namespace {

#if defined(__x86_64__)

constexpr char kPass = 0, kCatch = 1;       // SYSCALL_DISPATCH_FILTER_ALLOW and _BLOCK
constexpr unsigned long kOff = 0, kOn = 1;  // PR_SYS_DISPATCH_OFF and _ON
constexpr int kPatienceUs = 100'000;        // the other thread may need a lock that the caught one has

using Raw = long (*)(long, ...);
Raw libc_syscall = nullptr;
volatile char selector = kPass;
std::atomic<int> countdown{0};  // catches until the other thread's turn
std::atomic<bool> turn{false};  // it may begin
std::atomic<bool> done{false};  // and has ended

// The system call is made for the library, after the other thread had its turn if it is due.
void Caught(int, siginfo_t*, void* context) {
  const char before = selector;
  selector = kPass;
  greg_t* const registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  if (countdown.fetch_sub(1) == 1) {
    turn = true;
    for (int us = 0; us < kPatienceUs && !done; us += 100) {
      const timespec moment{0, 100'000};
      libc_syscall(SYS_nanosleep, &moment, nullptr);
    }
  }
  const int saved = errno;
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

// `what` in this thread, which stops at the library's system call number `at` in it until `meanwhile` has run in
// another one. False when it makes fewer.
bool Interrupt(int at, const std::function<void()>& what, const std::function<void()>& meanwhile) {
  libc_syscall = reinterpret_cast<Raw>(dlsym(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "syscall"));
  Code code{reinterpret_cast<uintptr_t>(libc_syscall)};
  dl_iterate_phdr(FindCode, &code);
  struct sigaction action {
  }, before{};
  action.sa_sigaction = Caught;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSYS, &action, &before);
  countdown = at;
  turn = done = false;
  std::atomic<bool> over{false};
  std::thread other([&] {
    while (!turn && !over) Sleep(1);
    meanwhile();
    done = true;
  });
  prctl(PR_SET_SYSCALL_USER_DISPATCH, kOn, code.start, code.bytes, &selector);
  selector = kCatch;
  what();
  selector = kPass;
  prctl(PR_SET_SYSCALL_USER_DISPATCH, kOff, 0, 0, 0);
  over = true;
  other.join();
  sigaction(SIGSYS, &before, nullptr);
  return turn;
}

constexpr int kMost = 60;  // system calls of one call

// Every connection is closed by another thread at another moment of a poll(). The other end has shut its direction
// down, so the library asks the kernel about it; and the close is a reset, before which nothing goes back to TCP.
void CloseInPoll(End& e) {
  for (int at = 1, more = 1; more != 0; ++at) {
    const int fd = e.Accept();
    e.Warm(fd);
    e.Meet();
    const linger reset{1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    pollfd one{fd, 0, 0};
    more = Interrupt(
               at, [&] { poll(&one, 1, 20); }, [&] { close(fd); }) &&
           at < kMost;
    e.Tell(more);
    e.Meet();
  }
  e.Say("all closed");
}

void MeetEach(End& e) {
  for (int more = 1; more != 0;) {
    const int fd = e.Connect();
    e.Warm(fd);
    shutdown(fd, SHUT_WR);
    e.Meet();
    e.Meet();
    more = e.Told();
    close(fd);
  }
  e.Say("all met");
}

constexpr int kRounds = 40;
constexpr int kEach = 40;  // of more than a hundred calls that the library makes while it arms
constexpr int kMostArming = 240;

bool Whole(int fd, bool sends) {
  char bytes[8 << 10] = {};
  for (size_t at = 0; at < sizeof bytes;) {
    const ssize_t n =
        sends ? send(fd, bytes + at, sizeof bytes - at, MSG_NOSIGNAL) : recv(fd, bytes + at, sizeof bytes - at, 0);
    if (n <= 0) return false;
    at += static_cast<size_t>(n);
  }
  return true;
}

// Exchanges, until the connection has moved or is closed.
void Exchange(int fd, bool first) {
  for (int i = 0; i < kRounds && Whole(fd, first) && Whole(fd, !first); ++i) {
    if (first) Sleep(1);  // the agent's turn
  }
}

// Every connection is closed by another thread at another moment of the exchanges that move it.
void CloseWhileArming(End& e) {
  for (int at = 1, more = 1; more != 0; at += kEach) {
    const int fd = e.Accept();
    const linger reset{1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    // Linux, too, lets who sleeps in recv() sleep on when another thread closes.
    const timeval patience{0, 3 * kPatienceUs};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    more = Interrupt(
               at, [&] { Exchange(fd, false); }, [&] { close(fd); }) &&
           at < kMostArming;
    e.Tell(more);
    e.Meet();
  }
  e.Say("all closed");
}

void ExchangeEach(End& e) {
  for (int more = 1; more != 0;) {
    const int fd = e.Connect();
    Exchange(fd, true);
    close(fd);
    e.Meet();
    more = e.Told();
  }
  e.Say("all met");
}

#else

void CloseInPoll(End&) {}
void MeetEach(End&) {}
void CloseWhileArming(End&) {}
void ExchangeEach(End&) {}

#endif

CASE{"meanwhile: another thread closes what poll() looks at",
     {.client =
          [](End& e) {
            e.Meet();
            MeetEach(e);
          },
      .server =
          [](End& e) {
            e.Meet();
            CloseInPoll(e);
          },
      .bare = true}};

CASE{"meanwhile: another thread closes what is being armed",
     {.client =
          [](End& e) {
            e.Meet();
            ExchangeEach(e);
          },
      .server =
          [](End& e) {
            e.Meet();
            CloseWhileArming(e);
          },
      .bare = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
