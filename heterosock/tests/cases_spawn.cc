// A program that is given the connection by a child of vfork, or by the file actions of posix_spawn: under another
// number, or as a close-on-exec one that loses that mark. Its bytes are under way when it starts.
#include <fcntl.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "heterosock/tests/case.h"

extern "C" int close_range(unsigned first, unsigned last, int flags) noexcept;

namespace heterok8s::heterosock::behaviour {
namespace {

// Nothing ends before all has come back, so nothing but the start of the program brings the bytes to it.
const auto kEchoedByCat = [](End& e) {
  e.Meet();
  e.SendAll(e.sock, Pattern(50'000));
  e.Say("%d", e.RecvAll(e.sock, 50'000) == Pattern(50'000));
  DO(shutdown(e.sock, SHUT_WR));
  e.Drain(e.sock, 10);
};

void CloseAndWait(End& e, pid_t child) {
  DO(close(e.sock));
  int status = -1;
  waitpid(child, &status, 0);
  e.Say("it ended %d", status);
}

// `copy` gives the number of the child that cat is to have, from one that is close-on-exec.
template <typename Copy>
void CatInVforkChild(End& e, Copy copy) {
  fcntl(e.sock, F_SETFD, FD_CLOEXEC);
  e.Meet();
  e.AwaitBytes(e.sock, 1);
  const int fd = e.sock;
  const pid_t child = vfork();
  if (child == 0) {
    const int number = copy(fd);
    dup2(number, 0);
    dup2(number, 1);
    execl("/bin/cat", "cat", static_cast<char*>(nullptr));
    _exit(1);
  }
  CloseAndWait(e, child);
}

CASE{"process: vfork, a close-on-exec connection becomes cat's input",
     {.client = kEchoedByCat, .server = [](End& e) { CatInVforkChild(e, [](int fd) { return fd; }); }}};
CASE{"process: vfork and dup", {.client = kEchoedByCat, .server = [](End& e) { CatInVforkChild(e, dup); }}};
CASE{"process: vfork and dup3", {.client = kEchoedByCat, .server = [](End& e) {
                                   CatInVforkChild(e, [](int fd) { return dup3(fd, 77, O_CLOEXEC); });
                                 }}};
CASE{"process: vfork and F_DUPFD", {.client = kEchoedByCat, .server = [](End& e) {
                                      CatInVforkChild(e, [](int fd) { return fcntl(fd, F_DUPFD, 20); });
                                    }}};
CASE{"process: vfork and F_DUPFD_CLOEXEC", {.client = kEchoedByCat, .server = [](End& e) {
                                              CatInVforkChild(e, [](int fd) { return fcntl(fd, F_DUPFD_CLOEXEC, 20); });
                                            }}};
CASE{"process: vfork and dup3, by system call",
     {.client = kEchoedByCat, .server = [](End& e) {
        CatInVforkChild(e, [](int fd) { return static_cast<int>(syscall(SYS_dup3, fd, 77, O_CLOEXEC)); });
      }}};
CASE{"process: vfork and F_DUPFD, by system call",
     {.client = kEchoedByCat, .server = [](End& e) {
        CatInVforkChild(e, [](int fd) { return static_cast<int>(syscall(SYS_fcntl, fd, F_DUPFD, 20)); });
      }}};

// As Python's subprocess does with pass_fds: the numbers stay, and all others are closed before the exec.
template <typename Pass>
void ShellInVforkChild(End& e, Pass pass) {
  const int fd = fcntl(e.sock, F_DUPFD_CLOEXEC, 7);
  if (fd > 9) e.Say("sh takes one digit");
  close(e.sock);
  e.sock = fd;
  e.Meet();
  e.AwaitBytes(e.sock, 1);
  const std::string command = "exec cat <&" + std::to_string(fd) + " >&" + std::to_string(fd);
  const char* text = command.c_str();
  const pid_t child = vfork();
  if (child == 0) {
    pass(fd);
    execl("/bin/sh", "sh", "-c", text, static_cast<char*>(nullptr));
    _exit(1);
  }
  CloseAndWait(e, child);
}

CASE{"process: vfork, F_SETFD takes close-on-exec off",
     {.client = kEchoedByCat, .server = [](End& e) { ShellInVforkChild(e, [](int fd) { fcntl(fd, F_SETFD, 0); }); }}};
CASE{"process: vfork, F_SETFD takes close-on-exec off, by system call",
     {.client = kEchoedByCat,
      .server = [](End& e) { ShellInVforkChild(e, [](int fd) { syscall(SYS_fcntl, fd, F_SETFD, 0); }); }}};
CASE{"process: vfork, FIONCLEX takes close-on-exec off, by system call",
     {.client = kEchoedByCat,
      .server = [](End& e) { ShellInVforkChild(e, [](int fd) { syscall(SYS_ioctl, fd, FIONCLEX, nullptr); }); }}};
CASE{"process: vfork, FIONCLEX takes close-on-exec off, and all others are closed",
     {.client = kEchoedByCat, .server = [](End& e) {
        ShellInVforkChild(e, [](int fd) {
          ioctl(fd, FIONCLEX, nullptr);
          close_range(3, static_cast<unsigned>(fd) - 1, 0);
          close_range(static_cast<unsigned>(fd) + 1, ~0u, 0);
        });
      }}};
CASE{"process: vfork, an inherited connection, after all others were closed",
     {.client = kEchoedByCat, .server = [](End& e) {
        const int fd = fcntl(e.sock, F_DUPFD, 7);
        if (fd > 9) e.Say("sh takes one digit");
        close(e.sock);
        e.sock = fd;
        e.Meet();
        e.AwaitBytes(e.sock, 1);
        const std::string command = "exec cat <&" + std::to_string(fd) + " >&" + std::to_string(fd);
        const char* text = command.c_str();
        const pid_t child = vfork();
        if (child == 0) {
          close_range(10, ~0u, 0);
          execl("/bin/sh", "sh", "-c", text, static_cast<char*>(nullptr));
          _exit(1);
        }
        CloseAndWait(e, child);
      }}};

// What the parent has put into the ring must not be written to what has the number in the child.
CASE{"process: vfork, the connection's number is another file's in the child",
     {.client =
          [](End& e) {
            e.Meet();
            e.Meet();
            e.Say("%d", e.RecvAll(e.sock, 10'000) == Pattern(10'000));
            e.SendAll(e.sock, "still there");
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            const int fd = e.sock, file = memfd_create("hk-other", MFD_CLOEXEC);
            e.SendAll(fd, Pattern(10'000));
            e.Meet();
            const pid_t child = vfork();
            if (child == 0) {
              dup2(file, fd);
              execl("/bin/true", "true", static_cast<char*>(nullptr));
              _exit(1);
            }
            int status = -1;
            waitpid(child, &status, 0);
            e.Say("it ended %d, the file has %ld bytes", status, static_cast<long>(lseek(file, 0, SEEK_END)));
            e.Meet();
            e.Recv(fd, 100);
            DO(close(fd));
          }}};

void SpawnCat(End& e, char* const* env) {
  fcntl(e.sock, F_SETFD, FD_CLOEXEC);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, e.sock, 60);
  posix_spawn_file_actions_adddup2(&files, 60, 0);
  posix_spawn_file_actions_adddup2(&files, 60, 1);
  posix_spawn_file_actions_addclosefrom_np(&files, 3);
  char* argv[] = {const_cast<char*>("cat"), nullptr};
  e.Meet();
  e.AwaitBytes(e.sock, 1);
  pid_t child = -1;
  DO(posix_spawn(&child, "/bin/cat", &files, nullptr, argv, env));
  posix_spawn_file_actions_destroy(&files);
  CloseAndWait(e, child);
}

CASE{"process: posix_spawn with adddup2 of a close-on-exec connection",
     {.client = kEchoedByCat, .server = [](End& e) { SpawnCat(e, environ); }}};
CASE{"process: posix_spawn with adddup2 of a close-on-exec connection, without the library",
     {.client = kEchoedByCat, .server = [](End& e) {
        char* bare[] = {nullptr};
        SpawnCat(e, bare);
      }}};

// Made before there was anything to hand on, used twice; the first time for the number alone.
CASE{"process: posix_spawn with adddup2 onto itself, actions kept",
     {.client = kEchoedByCat, .server = [](End& e) {
        const int fd = 8;
        posix_spawn_file_actions_t files;
        posix_spawn_file_actions_init(&files);
        posix_spawn_file_actions_adddup2(&files, fd, fd);
        dup3(e.sock, fd, O_CLOEXEC);
        close(e.sock);
        e.sock = fd;
        char* argv[] = {const_cast<char*>("sh"), const_cast<char*>("-c"), nullptr, nullptr};
        argv[2] = const_cast<char*>("exec true");
        pid_t child = -1;
        DO(posix_spawnp(&child, "sh", nullptr, nullptr, argv, environ));
        waitpid(child, nullptr, 0);
        e.Meet();
        e.AwaitBytes(e.sock, 1);
        argv[2] = const_cast<char*>("exec cat <&8 >&8");
        DO(posix_spawnp(&child, "sh", &files, nullptr, argv, environ));
        posix_spawn_file_actions_destroy(&files);
        CloseAndWait(e, child);
      }}};

// Of an object that nobody destroyed: the number is another descriptor's by now, and none of what is started.
CASE{"process: posix_spawn, and other file actions have the connection's number from before",
     {.client = Echo, .server = [](End& e) {
        const int fd = 70, before = open("/dev/null", O_RDWR | O_CLOEXEC);
        posix_spawn_file_actions_t left, files;
        posix_spawn_file_actions_init(&left);
        dup3(before, fd, O_CLOEXEC);
        posix_spawn_file_actions_adddup2(&left, fd, 1);
        dup3(e.sock, fd, O_CLOEXEC);
        close(e.sock);
        e.sock = fd;
        posix_spawn_file_actions_init(&files);
        posix_spawn_file_actions_adddup2(&files, before, 1);
        char* argv[] = {const_cast<char*>("true"), nullptr};
        pid_t child = -1;
        DO(posix_spawnp(&child, "true", &files, nullptr, argv, environ));
        int status = -1;
        waitpid(child, &status, 0);
        e.NoteMoved(e.sock);
        posix_spawn_file_actions_destroy(&files);
        posix_spawn_file_actions_destroy(&left);
        e.SendAll(e.sock, Pattern(9000));
        e.Say("%d, it ended %d", e.RecvAll(e.sock, 9000) == Pattern(9000), status);
        DO(close(e.sock));
      }}};

// The object that is used is a copy, as one is that a program has moved.
CASE{"process: posix_spawn with a copy of the file actions",
     {.client = kEchoedByCat, .server = [](End& e) {
        fcntl(e.sock, F_SETFD, FD_CLOEXEC);
        posix_spawn_file_actions_t made;
        posix_spawn_file_actions_init(&made);
        posix_spawn_file_actions_adddup2(&made, e.sock, 0);
        posix_spawn_file_actions_adddup2(&made, e.sock, 1);
        posix_spawn_file_actions_t files = made;
        char* argv[] = {const_cast<char*>("cat"), nullptr};
        e.Meet();
        e.AwaitBytes(e.sock, 1);
        pid_t child = -1;
        DO(posix_spawn(&child, "/bin/cat", &files, nullptr, argv, environ));
        posix_spawn_file_actions_destroy(&made);
        CloseAndWait(e, child);
      }}};

CASE{"process: posix_spawn with file actions that leave the connection out",
     {.client = Echo, .server = [](End& e) {
        posix_spawn_file_actions_t files;
        posix_spawn_file_actions_init(&files);
        posix_spawn_file_actions_addclose(&files, e.sock);
        posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
        posix_spawn_file_actions_adddup2(&files, 0, e.sock);
        char* argv[] = {const_cast<char*>("true"), nullptr};
        pid_t child = -1;
        DO(posix_spawnp(&child, "true", &files, nullptr, argv, environ));
        posix_spawn_file_actions_destroy(&files);
        int status = -1;
        waitpid(child, &status, 0);
        e.SendAll(e.sock, Pattern(9000));
        e.Say("%d", e.RecvAll(e.sock, 9000) == Pattern(9000));
        DO(close(e.sock));
      }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
