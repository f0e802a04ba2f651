// exec: the connection goes on in a new image, with the library or without it, and in programs that libc starts.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <atomic>
#include <mutex>
#include <thread>

#include "heterosock/tests/case.h"

extern "C" pid_t _Fork();

namespace heterok8s::heterosock::behaviour {
namespace {

CASE{"process: vfork and exec of cat on the connection",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "through cat");
            DO(shutdown(e.sock, SHUT_WR));
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            int fd = e.sock;
            pid_t child = vfork();
            if (child == 0) {
              dup2(fd, 0);
              dup2(fd, 1);
              execl("/bin/cat", "cat", nullptr);
              _exit(1);
            }
            int status = -1;
            DO(close(e.sock));
            waitpid(child, &status, 0);
            e.Say("cat ended %d", status);
          }}};

// The thread that forks never gets on: the exec ends it.
CASE{"process: exec, while a fork of another thread waits for a lock of the one that execs",
     {.client = [](End& e) { e.Drain(e.sock, 10); },
      .server =
          [](End& e) {
            static std::mutex lock;
            static std::atomic<bool> forks{false};
            lock.lock();
            pthread_atfork(
                [] {
                  forks = true;
                  lock.lock();
                },
                nullptr, nullptr);
            std::thread([] { fork(); }).detach();
            while (!forks) Sleep(1);
            execl("/bin/true", "true", static_cast<char*>(nullptr));
            e.Say("no exec");
          }}};

void Spawn(End& e, bool keep_environment) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, e.sock, 0);
  posix_spawn_file_actions_adddup2(&files, e.sock, 1);
  posix_spawn_file_actions_addclose(&files, e.sock);
  char* argv[] = {const_cast<char*>("cat"), nullptr};
  char* bare[] = {nullptr};
  pid_t child = -1;
  DO(posix_spawnp(&child, "cat", &files, nullptr, argv, keep_environment ? environ : bare));
  posix_spawn_file_actions_destroy(&files);
  DO(close(e.sock));
  int status = -1;
  waitpid(child, &status, 0);
  e.Say("cat ended %d", status);
}

// Another program in a child, until its input ends. Returns when it runs: then no descriptor of ours that is
// close-on-exec is open there.
struct Beside {
  pid_t child = -1;
  int input = -1;
};
Beside StartBeside(End& e) {
  int input[2], started[2];
  if (pipe2(input, O_CLOEXEC) != 0 || pipe2(started, O_CLOEXEC) != 0) e.Say("no pipes");
  const pid_t child = fork();
  if (child == 0) {
    dup2(input[0], 0);
    execlp("cat", "cat", static_cast<char*>(nullptr));
    _exit(1);
  }
  close(input[0]);
  close(started[1]);
  char byte;
  if (read(started[0], &byte, 1) != 0) e.Say("it does not start");
  close(started[0]);
  return {child, input[1]};
}
void EndBeside(End& e, const Beside& beside) {
  close(beside.input);
  int status = -1;
  waitpid(beside.child, &status, 0);
  e.Say("cat ended %d", status);
}

// The child had the connection until it ran that program: the last close is the parent's.
CASE{"process: a child that runs another program has a close-on-exec connection no more",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "never read");
            e.Meet();
            e.Meet();
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 10);
            fcntl(e.sock, F_SETFD, FD_CLOEXEC);
            const Beside beside = StartBeside(e);
            DO(close(e.sock));
            e.Meet();
            EndBeside(e, beside);
          }}};

CASE{"process: a child whose exec fails goes on with the connection",
     {.client = Echo, .server = [](End& e) {
        fcntl(e.sock, F_SETFD, FD_CLOEXEC);
        int tried[2];
        if (pipe2(tried, O_CLOEXEC) != 0) e.Say("no pipe");
        const pid_t child = fork();
        if (child == 0) {
          char* argv[] = {const_cast<char*>("none"), nullptr};
          DO(execv("/nonexistent", argv));
          DO(syscall(SYS_execve, "/nonexistent", argv, environ));
          close(tried[1]);
          Sleep(10);
          e.SendAll(e.sock, Pattern(100'000));
          e.Say("%d", e.RecvAll(e.sock, 100'000) == Pattern(100'000));
          _exit(0);
        }
        close(tried[1]);
        char byte;
        if (read(tried[0], &byte, 1) != 0) e.Say("a byte of nobody");
        close(e.sock);
        waitpid(child, nullptr, 0);
      }}};

const auto kThroughCat = [](End& e) {
  e.SendAll(e.sock, Pattern(150'000));
  shutdown(e.sock, SHUT_WR);
  e.Drain(e.sock, 1000);
};

CASE{"process: posix_spawn of cat on the connection",
     {.client = kThroughCat, .server = [](End& e) { Spawn(e, true); }}};
CASE{"process: posix_spawn of cat without the library",
     {.client = kThroughCat, .server = [](End& e) { Spawn(e, false); }}};

CASE{"process: system and popen write to the connection",
     {.client = [](End& e) { e.Drain(e.sock, 10); },
      .server =
          [](End& e) {
            int fd = fcntl(e.sock, F_DUPFD, 7);
            DO(write(e.sock, "first ", 6));
            std::string command = "printf 'by system ' >&" + std::to_string(fd);
            if (fd > 9) e.Say("sh takes one digit");
            DO(system(command.c_str()));
            command = "printf 'by popen ' >&" + std::to_string(fd);
            FILE* stream = popen(command.c_str(), "r");
            DO(pclose(stream));
            DO(write(e.sock, "last", 4));
            DO(close(fd) == 0);
            DO(close(e.sock));
          }}};

STEP("reads on") {
  e.Recv(fd, 100, MSG_DONTWAIT);
  e.Meet();
  e.Say("%d", e.RecvAll(fd, 100'000) == Pattern(100'000));
  e.SendAll(fd, "by the new image");
  DO(shutdown(fd, SHUT_WR));
  e.Recv(fd, 10);
});

void ExecInTheMiddle(End& e, bool clear) {
  e.SendAll(e.sock, "by the old image, ");
  e.AwaitBytes(e.sock, 9);
  e.Recv(e.sock, 4);
  Again(e, "reads on", e.sock, clear);
}

const auto kPeerOfExec = [](End& e) {
  SendOnBothSides(e, "for both.");
  e.Drain(e.sock, 10);
};

CASE{"process: exec keeps the connection",
     {.client = kPeerOfExec, .server = [](End& e) { ExecInTheMiddle(e, false); }}};
CASE{"process: exec of an image without the library keeps the connection",
     {.client = kPeerOfExec, .server = [](End& e) { ExecInTheMiddle(e, true); }}};
CASE{"process: both ends exec",
     {.client =
          [](End& e) {
            SendOnBothSides(e, "for both.");
            Again(e, "drains", e.sock, false);
          },
      .server = [](End& e) { ExecInTheMiddle(e, false); }}};
STEP("drains") { e.Drain(fd, 10); });

// The other end is far from any call of its library when the socket goes to a program without one. That program waits
// for what was sent before; it may have to until the other end calls again.
const auto kAway = [](End& e) {
  e.SendAll(e.sock, Pattern(50'000));
  e.Meet();
  e.Meet();
  e.SendAll(e.sock, "when back");
  e.Drain(e.sock, 10);
};
const auto kReadsSomeAndExecs = [](End& e) {
  e.Meet();
  e.Say("%d", e.RecvAll(e.sock, 1000) == Pattern(50'000).substr(0, 1000));
  Again(e, "reads what is left", e.sock, true);
};
STEP("reads what is left") {
  e.Meet();
  e.Say("%d", e.RecvAll(fd, 49'000) == Pattern(50'000).substr(1000));
  e.Recv(fd, 100);
  e.SendAll(fd, "by the new image");
});

CASE{"process: exec while the other end is away", {.client = kAway, .server = kReadsSomeAndExecs, .hands_on = true}};
CASE{"process: a child's exec while the other end is away",
     {.client = kAway,
      .server =
          [](End& e) {
            pid_t child = fork();
            if (child == 0) kReadsSomeAndExecs(e);
            close(e.sock);
            int status = -1;
            waitpid(child, &status, 0);
            e.Say("child ended %d", status);
          },
      .hands_on = true}};

// A connection of the process to itself that had time to move: 50,000 bytes are under way, and 1000 of them read.
struct Itself {
  int kept, left;
};
Itself ConnectToItself(End& e) {
  int listener = e.Listen(), kept = e.Connect(), left = e.Accept(listener);
  for (int i = 0; i < 40; ++i) {
    e.SendAll(kept, Pattern(4000));
    e.RecvAll(left, 4000);
    e.SendAll(left, Pattern(4000));
    e.RecvAll(kept, 4000);
    Sleep(1);
  }
  e.SendAll(left, Pattern(50'000));
  e.Say("%d", e.RecvAll(kept, 1000) == Pattern(50'000).substr(0, 1000));
  return {kept, left};
}

CASE{"process: connected to itself, and one end goes on in a new image",
     {.client =
          [](End& e) {
            const auto [kept, left] = ConnectToItself(e);
            fcntl(kept, F_SETFD, 0);
            fcntl(left, F_SETFD, FD_CLOEXEC);
            Again(e, "reads what it sent itself", kept, true);
          },
      .server = [](End&) {},
      .bare = true,
      .orphaned = true}};
STEP("reads what it sent itself") {
  e.Say("%d", e.RecvAll(fd, 49'000) == Pattern(50'000).substr(1000));
  e.Recv(fd, 1);
});
CASE{"process: connected to itself, and a child reads one end without the library",
     {.client =
          [](End& e) {
            const auto [kept, left] = ConnectToItself(e);
            fcntl(left, F_SETFD, FD_CLOEXEC);
            pid_t child = fork();
            if (child == 0) Again(e, "reads what its parent sent", kept, true);
            int status = -1;
            waitpid(child, &status, 0);
            e.Say("child ended %d", status);
          },
      .server = [](End&) {},
      .bare = true,
      .orphaned = true}};
STEP("reads what its parent sent") { e.Say("%d", e.RecvAll(fd, 49'000) == Pattern(50'000).substr(1000)); });

// What is brought back from the other end of the same process goes to that end, and not to what has its number in the
// child by then.
CASE{"process: connected to itself, vfork, and one end's number is another socket in the child",
     {.client =
          [](End& e) {
            const auto [kept, left] = ConnectToItself(e);
            fcntl(kept, F_SETFD, FD_CLOEXEC);
            fcntl(left, F_SETFD, FD_CLOEXEC);
            int pair[2], unread = -1;
            if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) e.Say("no pair");
            const int file = memfd_create("hk-read", MFD_CLOEXEC);
            const pid_t child = vfork();
            if (child == 0) {
              dup2(pair[0], left);
              dup2(file, 1);
              dup2(kept, 0);
              execl("/usr/bin/head", "head", "-c", "49000", static_cast<char*>(nullptr));
              _exit(1);
            }
            int status = -1;
            waitpid(child, &status, 0);
            std::string bytes(49'000, '\0');
            e.Say("%zd", pread(file, bytes.data(), bytes.size(), 0));
            e.Say("it ended %d, %d", status, bytes == Pattern(50'000).substr(1000));
            DO(ioctl(pair[1], FIONREAD, &unread));
            e.Say("the other socket has %d", unread);
          },
      .server = [](End&) {},
      .bare = true}};

CASE{"process: close-on-exec closes on exec",
     {.client = [](End& e) { e.Drain(e.sock, 10); },
      .server =
          [](End& e) {
            DO(fcntl(e.sock, F_SETFD, FD_CLOEXEC));
            e.SendAll(e.sock, "bye");
            Again(e, "is closed", e.sock, false);
          }}};
STEP("is closed") { DO(fcntl(fd, F_GETFD)); });

CASE{"process: an exec that fails changes nothing", {.client = Echo, .server = [](End& e) {
                                                       char* argv[] = {const_cast<char*>("none"), nullptr};
                                                       DO(execv("/nonexistent", argv));
                                                       DO(execvp("/", argv));
                                                       DO(execlp("/nonexistent", "none", nullptr));
                                                       e.SendAll(e.sock, Pattern(9000));
                                                       e.Say("%d", e.RecvAll(e.sock, 9000) == Pattern(9000));
                                                       DO(close(e.sock));
                                                     }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
