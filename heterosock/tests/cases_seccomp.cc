// Programs that give up system calls once they are connected, and then only read and write.
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "heterosock/tests/cases_seccomp.h"

namespace heterok8s::heterosock::behaviour {
namespace {

// Bytes lie unread both ways when the other end gives up its calls.
void Answer(End& e) {
  e.SendAll(e.sock, "before");
  e.Meet();
  e.Say("%s", e.RecvAll(e.sock, 11).c_str());
  e.SendAll(e.sock, "last");
  e.Drain(e.sock, 10);
}

void Begin(End& e) {
  e.SendAll(e.sock, "first");
  e.Meet();
  e.AwaitBytes(e.sock, 6);
}

CASE{"seccomp: strict mode, with bytes under way",
     {.client = Answer,
      .server =
          [](End& e) {
            Begin(e);
            DO(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0));
            SayRead(e);
            DO(write(e.sock, "second", 6));
            SayRead(e);
            syscall(SYS_exit, 0);
          },
      .stays = true}};

template <typename Install>
void Filtered(End& e, Install install) {
  Begin(e);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  Filter filter({
      SYS_read,
      SYS_write,
      SYS_ppoll,
      SYS_shutdown,
      SYS_close,
      SYS_exit_group,
#ifdef SYS_poll
      SYS_poll,
#endif
  });
  DO(install(&filter.program));
  pollfd one{e.sock, POLLIN, 0};
  DO(poll(&one, 1, -1));
  SayRead(e);
  DO(write(e.sock, "second", 6));
  SayRead(e);
  DO(shutdown(e.sock, SHUT_WR));
  SayRead(e);
  DO(close(e.sock));
  _exit(0);
}

CASE{"seccomp: a filter by prctl, with bytes under way",
     {.client = Answer,
      .server =
          [](End& e) {
            Filtered(e, [](sock_fprog* program) {
              return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, reinterpret_cast<unsigned long>(program), 0, 0);
            });
          },
      .stays = true}};

CASE{"seccomp: a filter by syscall(2), with bytes under way",
     {.client = Answer,
      .server =
          [](End& e) {
            Filtered(e, [](sock_fprog* program) { return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, program); });
          },
      .stays = true}};

// Questions that libseccomp asks: whether the kernel knows filters.
CASE{"seccomp: who asks what there is gives nothing up",
     {.client = Echo, .server = [](End& e) {
        DO(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, 0, 0, 0));
        DO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, nullptr));
        e.NoteMoved(e.sock);
        e.SendAll(e.sock, "abc");
        e.Recv(e.sock, 3, MSG_WAITALL);
        DO(close(e.sock));
      }}};

#if defined(__x86_64__)
CASE{"seccomp: without the counter of cycles",
     {.client = Echo,
      .server =
          [](End& e) {
            DO(prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0));
            e.SendAll(e.sock, "abc");
            e.Recv(e.sock, 3, MSG_WAITALL);
            DO(close(e.sock));
            DO(prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0));
          },
      .stays = true}};
#endif

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
