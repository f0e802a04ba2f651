// fork, vfork, exec, posix_spawn, system: a connection that several processes have.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "heterosock/lib/machine.h"
#include "heterosock/tests/case.h"

extern "C" pid_t _Fork();
extern "C" void* _dl_allocate_tls(void*);  // of ld.so

namespace heterok8s::heterosock::behaviour {
namespace {

void Child(End& e, const std::function<void()>& what, pid_t (*start)() = fork) {
  pid_t child = start();
  if (child == 0) {
    what();
    _exit(0);
  }
  int status = -1;
  waitpid(child, &status, 0);
  e.Say("child ended %d", status);
}

pid_t ForkPty() {
  int master = -1;
  return forkpty(&master, nullptr, nullptr, nullptr);
}

// By no function of libc's.
pid_t BareFork() { return static_cast<pid_t>(BareSyscall(SYS_clone, SIGCHLD)); }

pid_t ForkBySyscall() { return static_cast<pid_t>(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0)); }

CASE{"process: the child reads on where the parent stopped",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "for the parent, for the child, parent again");
            DO(shutdown(e.sock, SHUT_WR));
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 43);
            e.Recv(e.sock, 16);
            Child(e, [&e] { e.Recv(e.sock, 15); });
            e.Recv(e.sock, 100);
            e.Recv(e.sock, 100);
          }}};

CASE{"process: parent and child write in turn",
     {.client = [](End& e) { e.Drain(e.sock, 5); },
      .server =
          [](End& e) {
            for (int i = 0; i < 5; ++i) {
              DO(write(e.sock, "parent ", 7));
              Child(e, [&e] { DO(write(e.sock, "child ", 6)); });
            }
            DO(close(e.sock));
          }}};

CASE{"process: the child closes, the connection lives", {.client = Echo, .server = [](End& e) {
                                                           Child(e, [&e] { DO(close(e.sock)); });
                                                           e.SendAll(e.sock, "abc");
                                                           e.Recv(e.sock, 3, MSG_WAITALL);
                                                           Child(e, [] {});
                                                           e.SendAll(e.sock, "def");
                                                           e.Recv(e.sock, 3, MSG_WAITALL);
                                                           DO(close(e.sock));
                                                         }}};

CASE{"process: the parent closes, the child goes on, its end is the end",
     {.client = Echo, .server = [](End& e) {
        pid_t child = fork();
        if (child == 0) {
          Sleep(10);
          e.SendAll(e.sock, Pattern(100'000));
          e.Say("%d", e.RecvAll(e.sock, 100'000) == Pattern(100'000));
          _exit(0);
        }
        DO(close(e.sock));
        waitpid(child, nullptr, 0);
      }}};

CASE{"process: shutdown by the child is for all",
     {.client =
          [](End& e) {
            e.Drain(e.sock, 10);
            DO(write(e.sock, "back", 4));
          },
      .server =
          [](End& e) {
            Child(e, [&e] { DO(shutdown(e.sock, SHUT_WR)); });
            DO(send(e.sock, "x", 1, MSG_NOSIGNAL));
            e.Recv(e.sock, 10);
          }}};

CASE{"process: unread bytes and an exit of only one process are no reset",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abcdef");
            e.Meet();
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 6);
            Child(e, [] {});
            e.Recv(e.sock, 100);
            DO(close(e.sock));
          }}};

CASE{"process: the child reads, the parent writes, at once", {.client = Echo, .server = [](End& e) {
                                                                pid_t child = fork();
                                                                if (child == 0) {
                                                                  e.Say("%d",
                                                                        e.RecvAll(e.sock, 900'000) == Pattern(900'000));
                                                                  _exit(0);
                                                                }
                                                                e.SendAll(e.sock, Pattern(900'000));
                                                                waitpid(child, nullptr, 0);
                                                                DO(close(e.sock));
                                                              }}};

CASE{"process: by _Fork, and by a child of a child", {.client = Echo, .server = [](End& e) {
                                                        Child(
                                                            e, [&e] { e.SendAll(e.sock, "one "); }, _Fork);
                                                        Child(e,
                                                              [&e] { Child(e, [&e] { e.SendAll(e.sock, "two "); }); });
                                                        e.Recv(e.sock, 8, MSG_WAITALL);
                                                        DO(close(e.sock));
                                                      }}};

// Whoever starts a program on a terminal does so, and closes what the child inherited.
CASE{"process: the child of forkpty closes, the connection lives", {.client = Echo, .server = [](End& e) {
                                                                      Child(
                                                                          e, [&e] { DO(close(e.sock)); }, ForkPty);
                                                                      e.NoteMoved(e.sock);
                                                                      e.SendAll(e.sock, "abc");
                                                                      e.Recv(e.sock, 3, MSG_WAITALL);
                                                                      DO(close(e.sock));
                                                                    }}};

CASE{"process: the child of a bare system call closes with bytes unread",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abcdef");
            e.Meet();
            e.Drain(e.sock, 100);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 6);
            Child(
                e, [&e] { DO(close(e.sock)); }, BareFork);
            e.NoteMoved(e.sock);
            e.Recv(e.sock, 100);
            e.SendAll(e.sock, "answer");
            DO(close(e.sock));
          }}};

#if defined(__x86_64__) && defined(__GLIBC__)
// By clone() with thread storage of its own, in which the child has no number yet; on a stack of its own.
void ChildWithItsOwnStorage(End& e, int fd, int (*child)(void*)) {
  // Its head as glibc has it (tcbhead_t): itself twice, and the guards of this thread.
  auto** storage = static_cast<void**>(_dl_allocate_tls(nullptr));
  auto** own = reinterpret_cast<void**>(pthread_self());
  storage[0] = storage[2] = storage;
  storage[5] = own[5];
  storage[6] = own[6];
  std::vector<char> stack(1 << 18);
  const pid_t pid = clone(child, stack.data() + stack.size(), CLONE_SETTLS | SIGCHLD, &fd, nullptr, storage);
  int status = -1;
  waitpid(pid, &status, 0);
  e.Say("child ended %d", status);
}

// When the child has ended the connection is its parent's alone, and moves.
CASE{"process: clone with thread storage of its own, then the connection moves",
     {.client =
          [](End& e) {
            e.Meet();
            const int fd = e.Connect();
            e.SendAll(fd, "n");
            e.Warm(fd);
            DO(close(fd));
          },
      .server =
          [](End& e) {
            const int listener = e.Listen();
            e.Meet();
            const int fd = e.Accept(listener);
            ChildWithItsOwnStorage(e, fd, [](void* at) {
              char byte = 0;
              const ssize_t n = recv(*static_cast<int*>(at), &byte, 1, MSG_PEEK);
              return n == 1 ? byte : 1;
            });
            e.Recv(fd, 1);
            e.Warm(fd);
            e.Drain(fd, 10);
          }}};
#endif

void ChildGoesOn(End& e, pid_t (*start)()) {
  const pid_t child = start();
  if (child == 0) {
    Sleep(30);
    Echo(e);
    _exit(0);
  }
  DO(close(e.sock));
  e.Meet();
  waitpid(child, nullptr, 0);
}

void TalkToChild(End& e) {
  e.Meet();
  e.SendAll(e.sock, Pattern(100'000));
  e.Say("%d", e.RecvAll(e.sock, 100'000) == Pattern(100'000));
  DO(shutdown(e.sock, SHUT_WR));
  e.Drain(e.sock, 100);
}

CASE{"process: clone by syscall(2), the parent closes, the child goes on",
     {.client = TalkToChild, .server = [](End& e) { ChildGoesOn(e, ForkBySyscall); }}};

CASE{"process: a bare clone, the parent closes before the child's first call",
     {.client = TalkToChild, .server = [](End& e) { ChildGoesOn(e, BareFork); }}};

CASE{"process: forked before the connection, accepted by the child",
     {.client =
          [](End& e) {
            e.Meet();
            for (int i = 0; i < 4; ++i) {
              int fd = e.Connect();
              e.SendAll(fd, Pattern(20'000));
              e.Say("%d", e.RecvAll(fd, 20'000) == Pattern(20'000));
              close(fd);
            }
            e.Meet();
          },
      .server =
          [](End& e) {
            pid_t children[2];
            for (pid_t& child : children) {
              child = fork();
              if (child != 0) continue;
              while (true) {
                int fd = e.Accept();
                std::string bytes = e.RecvAll(fd, 20'000);
                e.SendAll(fd, bytes);
                close(fd);
              }
            }
            e.Meet();
            e.Meet();
            for (pid_t child : children) {
              kill(child, SIGKILL);
              waitpid(child, nullptr, 0);
            }
          },
      .bare = true}};

CASE{"process: a server that forks for each connection",
     {.client =
          [](End& e) {
            e.Meet();
            for (int i = 0; i < 5; ++i) {
              int fd = e.Connect();
              e.SendAll(fd, Pattern(9000));
              shutdown(fd, SHUT_WR);
              e.Drain(fd, 777);
              close(fd);
            }
          },
      .server =
          [](End& e) {
            e.Meet();
            for (int i = 0; i < 5; ++i) {
              int fd = e.Accept();
              pid_t child = fork();
              if (child == 0) {
                close(e.listener);
                e.sock = fd;
                Echo(e);
                _exit(0);
              }
              close(fd);
              waitpid(child, nullptr, 0);
            }
          },
      .bare = true}};

CASE{"process: kill -9 of the child leaves the parent's connection",
     {.client = Echo, .server = [](End& e) {
        int ready[2];
        if (pipe(ready) != 0) e.Say("cannot make a pipe");
        pid_t child = fork();
        if (child == 0) {
          e.SendAll(e.sock, "abc");
          char b[3];
          recv(e.sock, b, 3, MSG_WAITALL);
          if (write(ready[1], "x", 1) == 1) recv(e.sock, b, 1, 0);
          _exit(0);
        }
        char b;
        DO(read(ready[0], &b, 1));
        Sleep(20);  // so that it mostly dies inside recv()
        kill(child, SIGKILL);
        waitpid(child, nullptr, 0);
        e.SendAll(e.sock, Pattern(9000));
        e.Say("%d", e.RecvAll(e.sock, 9000) == Pattern(9000));
        DO(close(e.sock));
      }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
