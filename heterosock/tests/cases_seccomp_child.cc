// A forked child gives up system calls: what it has of its parent's connections goes back to TCP for both.
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "heterosock/tests/cases_epoll.h"
#include "heterosock/tests/cases_seccomp.h"

namespace heterok8s::heterosock::behaviour {
namespace {

using namespace epoll;  // NOLINT

void Install(const sock_fprog& program) {
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, reinterpret_cast<unsigned long>(&program), 0, 0) != 0) _exit(7);
}

// Until the child has ended.
void InChild(End& e, const std::function<void()>& what) {
  const pid_t child = fork();
  if (child == 0) {
    what();
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  e.Say("the child ended %d", status);
}

CASE{"seccomp: a child gives up calls, and the parent goes on with its connection",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, Pattern(50'000));
            e.Meet();
            e.Say("%d", e.RecvAll(e.sock, 50'000) == Pattern(50'000, 2));
            e.SendAll(e.sock, Pattern(50'000, 3));
            e.Drain(e.sock, 1000);
          },
      .server =
          [](End& e) {
            fcntl(e.sock, F_SETFD, FD_CLOEXEC);
            e.Meet();
            e.AwaitBytes(e.sock, 50'000);
            e.RecvAll(e.sock, 1000);
            InChild(e, [] { Install(Filter({SYS_exit_group}).program); });
            e.Say("%d", e.RecvAll(e.sock, 49'000) == Pattern(50'000).substr(1000));
            e.SendAll(e.sock, Pattern(50'000, 2));
            e.Say("%d", e.RecvAll(e.sock, 50'000) == Pattern(50'000, 3));
            DO(close(e.sock));
          },
      .stays = true}};

// Close-on-exec says nothing of what a child does that makes no exec.
CASE{"seccomp: a child uses a close-on-exec connection behind its filter",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "before");
            e.Meet();
            e.Recv(e.sock, 12, MSG_WAITALL);
            e.SendAll(e.sock, "second");
            e.Recv(e.sock, 13, MSG_WAITALL);
            e.SendAll(e.sock, "third");
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            fcntl(e.sock, F_SETFD, FD_CLOEXEC);
            e.Meet();
            e.AwaitBytes(e.sock, 6);
            InChild(e, [&e] {
              const Filter filter({SYS_read, SYS_write, SYS_exit_group});
              Install(filter.program);
              SayRead(e);
              DO(write(e.sock, "by the child", 12));
              SayRead(e);
            });
            DO(write(e.sock, "by the parent", 13));
            SayRead(e);
            DO(close(e.sock));
          },
      .stays = true}};

CASE{"seccomp: a child gives up calls, and runs another program",
     {.client = Echo,
      .server =
          [](End& e) {
            fcntl(e.sock, F_SETFD, FD_CLOEXEC);
            InChild(e, [] {
              // All but what only the library would call here.
              std::vector<uint32_t> calls;
              for (uint32_t call = 0; call < 1000; ++call) {
                if (call != SYS_getpid && call != SYS_gettid && call != SYS_ppoll && call != SYS_rt_sigprocmask)
                  calls.push_back(call);
              }
              Install(Filter(calls).program);
              char* const nothing[] = {nullptr};  // nor the library: what it calls there is not this filter's
              execle("/bin/true", "true", static_cast<char*>(nullptr), nothing);
            });
            e.SendAll(e.sock, Pattern(50'000));
            e.Say("%d", e.RecvAll(e.sock, 50'000) == Pattern(50'000));
            DO(close(e.sock));
          },
      .stays = true}};

CASE{"seccomp: a child gives up calls, and the parent's set waits for room",
     {.client =
          [](End& e) {
            e.Meet();
            Sleep(200);
            e.RecvAll(e.sock, static_cast<size_t>(e.Told()));
            e.Meet();
          },
      .server =
          [](End& e) {
            const int ep = epoll_create1(0);
            Add(e, ep, e.sock, EPOLLOUT);
            Wait(e, ep, 0);
            e.Tell(e.Fill(e.sock));
            Wait(e, ep, 0);
            InChild(e, [] { Install(Filter({SYS_exit_group}).program); });
            e.Meet();
            Wait(e, ep, 20'000);
            e.Meet();
          },
      .stays = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
