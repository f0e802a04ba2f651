// Programs that give up system calls and go on with what they have in epoll sets: whatever else the library calls for
// them there, ends them.
#include <poll.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/select.h>

#include <thread>

#include "heterosock/tests/cases_epoll.h"
#include "heterosock/tests/cases_seccomp.h"

namespace heterok8s::heterosock::behaviour {
namespace {

using namespace epoll;  // NOLINT

// What these programs and their two ends' meetings call, and what malloc may.
const std::vector<uint32_t> kCalls = {
    SYS_read,       SYS_write, SYS_close,  SYS_shutdown, SYS_epoll_ctl, SYS_epoll_pwait, SYS_accept4,
    SYS_exit_group, SYS_futex, SYS_sendto, SYS_brk,      SYS_mmap,      SYS_munmap,
#ifdef SYS_epoll_wait
    SYS_epoll_wait,
#endif
};

void Restrict(End& e, const std::vector<uint32_t>& more = {}, unsigned flags = 0) {
  std::vector<uint32_t> calls = kCalls;
  calls.insert(calls.end(), more.begin(), more.end());
  const Filter filter(calls);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  DO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter.program));
}

// Sends a part at each second meeting, which the other end may not ask for by a call of its own.
Body Restricted(std::vector<std::string> parts, std::function<void(End&)> server) {
  return {.client =
              [parts](End& e) {
                for (const std::string& part : parts) {
                  e.Meet();
                  e.SendAll(e.sock, part);
                }
                e.Drain(e.sock, 10);
              },
          .server =
              [server](End& e) {
                server(e);
                _exit(0);
              },
          .stays = true};
}

CASE{"seccomp: a level-triggered connection in a set", Restricted({"before", "second", "third"}, [](End& e) {
       const int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN, 7);
       e.Meet();
       e.AwaitBytes(e.sock, 6);
       Restrict(e);
       Wait(e, ep, -1);
       Wait(e, ep, 20);
       SayRead(e);
       Wait(e, ep, 0);
       Wait(e, ep, 20);
       e.Meet();
       Wait(e, ep, -1);
       SayRead(e);
       Mod(e, ep, e.sock, EPOLLIN | EPOLLOUT, 8);
       Wait(e, ep, -1);
       DO(write(e.sock, "answer", 6));
       Mod(e, ep, e.sock, EPOLLIN, 9);
       Wait(e, ep, 0);
       DO(epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr));
       DO(epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr));
       Add(e, ep, e.sock, EPOLLIN, 10);
       e.Meet();
       Wait(e, ep, 60000);
       SayRead(e);
       DO(shutdown(e.sock, SHUT_WR));
       DO(close(e.sock));
       Wait(e, ep, 0);
       DO(close(ep));
     })};

CASE{"seccomp: an edge-triggered connection in a set", Restricted({"before", "second"}, [](End& e) {
       const int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN | EPOLLET, 7);
       Wait(e, ep, 0);
       e.Meet();
       e.AwaitBytes(e.sock, 6);
       Restrict(e);
       Wait(e, ep, 60000);
       Wait(e, ep, 0);
       SayRead(e);
       e.Meet();
       Wait(e, ep, -1);
       char byte;
       DO(read(e.sock, &byte, 1));
       Wait(e, ep, 20);
       SayRead(e);
       DO(close(e.sock));
     })};

CASE{"seccomp: a connection in a set that is reported once", Restricted({"before", "second", "third"}, [](End& e) {
       const int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN | EPOLLONESHOT, 7);
       e.Meet();
       Wait(e, ep, 60000);
       Restrict(e);
       Wait(e, ep, 20);
       SayRead(e);
       e.Meet();
       Wait(e, ep, 20);
       Mod(e, ep, e.sock, EPOLLIN | EPOLLONESHOT, 8);
       Wait(e, ep, -1);
       SayRead(e);
       e.Meet();
       Wait(e, ep, 20);
       SayRead(e);
       DO(shutdown(e.sock, SHUT_RDWR));
       DO(close(e.sock));
     })};

// Taken out just before: the library leaves the kernel's registration where it is for a while.
CASE{"seccomp: a connection that was taken out of its set", Restricted({"before", "second"}, [](End& e) {
       const int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN, 7);
       Wait(e, ep, 0);
       DO(epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr));
       e.Meet();
       e.AwaitBytes(e.sock, 6);
       Restrict(e);
       Wait(e, ep, 20);
       Add(e, ep, e.sock, EPOLLIN, 8);
       Wait(e, ep, -1);
       SayRead(e);
       e.Meet();
       Wait(e, ep, -1);
       SayRead(e);
     })};

CASE{"seccomp: a set in a set", Restricted({"before", "second"}, [](End& e) {
       const int inner = epoll_create1(0), outer = epoll_create1(0);
       Add(e, inner, e.sock, EPOLLIN, 7);
       Add(e, outer, inner, EPOLLIN, 8);
       Wait(e, outer, 0);
       e.Meet();
       e.AwaitBytes(e.sock, 6);
       Restrict(e);
       Wait(e, outer, -1);
       Wait(e, inner, -1);
       SayRead(e);
       Wait(e, outer, 0);
       e.Meet();
       Wait(e, outer, -1);
       SayRead(e);
       DO(close(inner));
       DO(close(outer));
     })};

// A number that was closed while a duplicate keeps the registration: nobody can change it by epoll_ctl.
CASE{"seccomp: a set that knows the connection by a number that is closed",
     Restricted({"before", "second"}, [](End& e) {
       const int ep = epoll_create1(0);
       const int copy = dup(e.sock);
       Add(e, ep, copy, EPOLLIN, 7);
       Wait(e, ep, 0);
       DO(close(copy));
       e.Meet();
       Wait(e, ep, 60000);
       SayRead(e);
       Restrict(e);
       Wait(e, ep, 0);
       e.Meet();
       Wait(e, ep, -1);
       SayRead(e);
       DO(close(e.sock));
     })};

// Two threads, of which one sleeps in `wait` when the other gives up the calls of both.
Body TwoThreads(std::function<void(End&, int ep)> wait, std::vector<uint32_t> calls) {
  return Restricted({"before"}, [wait, calls](End& e) {
    const int ep = epoll_create1(0);
    Add(e, ep, e.sock, EPOLLIN, 7);
    Wait(e, ep, 0);
    int done[2], never[2];
    if (pipe(done) != 0 || pipe(never) != 0) e.Say("no pipes");
    std::thread other([&] {
      wait(e, ep);
      char byte = 0;
      if (write(done[1], &byte, 1) == 1) read(never[0], &byte, 1);  // the end of a thread would be calls of libc
    });
    Sleep(100);
    Restrict(e, calls, SECCOMP_FILTER_FLAG_TSYNC);
    e.Meet();
    char byte;
    if (read(done[0], &byte, 1) != 1) e.Say("it does not answer");
    _exit(0);
  });
}

CASE{"seccomp: another thread sleeps in epoll_wait for ever", TwoThreads(
                                                                  [](End& e, int ep) {
                                                                    Wait(e, ep, -1);
                                                                    SayRead(e);
                                                                  },
                                                                  {})};
CASE{"seccomp: another thread sleeps in epoll_wait for long", TwoThreads(
                                                                  [](End& e, int ep) {
                                                                    Wait(e, ep, 60000);
                                                                    SayRead(e);
                                                                  },
                                                                  {})};
CASE{"seccomp: another thread sleeps in read", TwoThreads([](End& e, int) { SayRead(e); }, {})};
CASE{"seccomp: another thread sleeps in poll", TwoThreads(
                                                   [](End& e, int) {
                                                     pollfd one{e.sock, POLLIN, 0};
                                                     DO(poll(&one, 1, 60000));
                                                     SayRead(e);
                                                   },
                                                   {
#ifdef SYS_poll
                                                       SYS_poll
#else
                                                       SYS_ppoll
#endif
                                                   })};

// The last of them by a number that is another file's since, so the library keeps the set: a thread that sleeps in it,
// and that hears of the others meanwhile, must not go to sleep in the kernel's.
CASE{"seccomp: a set that is not given back, and another thread sleeps in it", Restricted({"second"}, [](End& e) {
       const int ep = epoll_create1(0);
       Add(e, ep, dup(e.sock), EPOLLOUT | EPOLLET, 5);
       for (int i = 0; i < 300; ++i) Add(e, ep, dup(e.sock), EPOLLPRI, 6);
       const int closed = dup(e.sock);
       Add(e, ep, closed, EPOLLIN, 7);
       for (epoll_event event; epoll_wait(ep, &event, 1, 0) > 0;) {
       }
       DO(close(closed));
       int done[2];
       if (pipe(done) != 0) e.Say("no pipe");
       e.Say("another file %d", done[0] == closed);
       std::thread other([&] {
         char bytes[10];
         epoll_event event;
         while (recv(e.sock, bytes, sizeof bytes, MSG_DONTWAIT) < 0 && epoll_wait(ep, &event, 1, -1) > 0) {
         }
         if (write(done[1], bytes, 1) != 1) e.Say("no answer");
       });
       Sleep(100);
       sock_filter allow[] = {BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
       const sock_fprog program{1, allow};
       prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
       DO(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program));
       e.Meet();
       pollfd answer{done[0], POLLIN, 0};
       e.Say("it answers %d", poll(&answer, 1, 5000));
       _exit(0);
     })};

// A listener that another program made: nothing is known of it.
STEP("accepts under a filter") {
  Restrict(e);
  e.sock = accept4(fd, nullptr, nullptr, 0);
  SayRead(e);
  DO(write(e.sock, "answer", 6));
  SayRead(e);
  DO(close(e.sock));
  _exit(0);
});
CASE{"seccomp: accept on a listener that was inherited",
     {.client =
          [](End& e) {
            e.Meet();
            const int fd = e.Connect();
            e.SendAll(fd, "first");
            e.Recv(fd, 6, MSG_WAITALL);
            DO(shutdown(fd, SHUT_WR));
            e.Drain(fd, 10);
          },
      .server =
          [](End& e) {
            const int listener = dup(e.Listen());
            e.Meet();
            Again(e, "accepts under a filter", listener, false);
          },
      .bare = true,
      .stays = true}};

CASE{"seccomp: waits by their numbers", Restricted({"before", "second"}, [](End& e) {
       e.Meet();
       e.AwaitBytes(e.sock, 6);
       Restrict(e, {
                       SYS_ppoll,
                       SYS_epoll_pwait2,
#ifdef SYS_select
                       SYS_select,
#else
                       SYS_pselect6,
#endif
                   });
       timespec moment{60, 0};
       pollfd one{e.sock, POLLIN, 0};
       DO(syscall(SYS_ppoll, &one, 1, &moment, nullptr, 8));
       SayRead(e);
       moment = {0, 20'000'000};
       DO(syscall(SYS_ppoll, &one, 1, &moment, nullptr, 8));
       fd_set set;
       FD_ZERO(&set);
       FD_SET(e.sock, &set);
#ifdef SYS_select
       timeval wait{0, 20'000};
       DO(syscall(SYS_select, e.sock + 1, &set, nullptr, nullptr, &wait));
#else
       timespec wait{0, 20'000'000};
       DO(syscall(SYS_pselect6, e.sock + 1, &set, nullptr, nullptr, &wait, nullptr));
#endif
       e.Meet();
       DO(syscall(SYS_ppoll, &one, 1, nullptr, nullptr, 8));
       SayRead(e);
     })};

#if defined(__x86_64__)
CASE{"seccomp: a connection in a set, without the counter of cycles", Restricted({"before"}, [](End& e) {
       const int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN, 7);
       e.Meet();
       e.AwaitBytes(e.sock, 6);
       DO(prctl(PR_SET_TSC, PR_TSC_SIGSEGV, 0, 0, 0));
       Wait(e, ep, 1000);
       SayRead(e);
       Wait(e, ep, 20);
       const int other = socket(e.family, SOCK_STREAM, 0);
       DO(close(other));
       DO(close(e.sock));
       DO(prctl(PR_SET_TSC, PR_TSC_ENABLE, 0, 0, 0));
     })};
#endif

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
