// Steps of a random program that hand the connection to the kernel or to another program: splice, options, exec.
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "heterosock/tests/program_calls.h"

namespace heterok8s::heterosock::behaviour {
namespace {

std::string Emptied(int pipe) {
  int held = 0;
  ioctl(pipe, FIONREAD, &held);
  std::string bytes(static_cast<size_t>(held), '\0');
  if (held > 0 && read(pipe, bytes.data(), bytes.size()) != held) return "?";
  return bytes;
}

void Set(End& e, int fd, int level, int name, int value) {
  e.Say("%d %d to %d", level, name, value);
  DO(setsockopt(fd, level, name, &value, sizeof value));
}

// `input` and `output` are the program's; how they come to be, by step.b.
pid_t Start(const ProgramStep& step, const char* const* argv, int input, int output) {
  char* const* words = const_cast<char* const*>(argv);
  pid_t child = -1;
  switch (step.b / 2 % 5) {
    case 0: {
      child = vfork();
      if (child != 0) return child;
      dup2(input, 0);
      dup2(output, 1);
      execvp(words[0], words);
      _exit(1);
    }
    case 1: {
      child = vfork();
      if (child != 0) return child;
      dup2(dup(input), 0);
      dup2(fcntl(output, F_DUPFD_CLOEXEC, 100), 1);
      execvp(words[0], words);
      _exit(1);
    }
    case 2: {
      child = fork();
      if (child != 0) return child;
      dup2(input, 0);
      dup2(output, 1);
      execvp(words[0], words);
      _exit(1);
    }
    default: {
      posix_spawn_file_actions_t files;
      posix_spawn_file_actions_init(&files);
      posix_spawn_file_actions_adddup2(&files, input, 0);
      posix_spawn_file_actions_adddup2(&files, output, 1);
      char path[] = "PATH=/usr/bin:/bin";
      char* const bare[] = {path, nullptr};
      if (posix_spawnp(&child, words[0], &files, nullptr, words, step.b / 2 % 5 == 3 ? environ : bare) != 0) child = -1;
      posix_spawn_file_actions_destroy(&files);
      return child;
    }
  }
}

}  // namespace

void SpliceAs(End& e, int fd, const ProgramStep& step, size_t there, bool at_end) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0 || fcntl(ends[1], F_SETPIPE_SZ, 4096) < 0) return e.Say("no pipe");
  const size_t wanted = std::min<size_t>(step.a, there);
  if (there == 0 && at_end) DO(splice(fd, nullptr, ends[1], nullptr, step.a, SPLICE_F_NONBLOCK));
  std::string all;
  for (uint32_t i = 0; all.size() < wanted;) {
    const ssize_t n = splice(fd, nullptr, ends[1], nullptr, wanted - all.size(), SPLICE_F_NONBLOCK);
    const bool again = n > 0 && ++i % (1 + step.b % 3) != 0;
    int held = 0;
    ioctl(ends[0], FIONREAD, &held);
    if (again && all.size() + static_cast<size_t>(held) < wanted) continue;
    if (n <= 0 && held == 0) {
      e.Say("splice ends after %zu of %zu: %s", all.size(), wanted, n < 0 ? strerrorname_np(errno) : "0");
      break;
    }
    all += Emptied(ends[0]);
  }
  e.Say("spliced %zu sum %llx", all.size(), static_cast<unsigned long long>(Sum(all)));
  close(ends[0]);
  close(ends[1]);
}

void SetOption(End& e, int fd, const ProgramStep& step) {
  switch (step.b % 10) {
    case 0:
      return Set(e, fd, IPPROTO_TCP, TCP_NODELAY, 1);
    case 1:
      return Set(e, fd, IPPROTO_TCP, TCP_NODELAY, 0);
    case 2:
      Set(e, fd, IPPROTO_TCP, TCP_CORK, 1);
      return Set(e, fd, IPPROTO_TCP, TCP_CORK, 0);
    case 3:
      return Set(e, fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    case 4:
      return Set(e, fd, SOL_SOCKET, SO_RCVLOWAT, 1);
    case 5:
      return Set(e, fd, SOL_SOCKET, SO_TIMESTAMP, 1);
    case 6:
      return Set(e, fd, SOL_SOCKET, SO_OOBINLINE, 1);
    case 7:
      return Set(e, fd, SOL_SOCKET, SO_MAX_PACING_RATE, 1 << 30);
    case 8: {
      sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, 0xffffffffu)};
      const sock_fprog program{1, all};
      DO(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
      return;
    }
    default: {
      signal(SIGIO, SIG_IGN);
      int on = 1;
      DO(ioctl(fd, FIOASYNC, &on));
    }
  }
}

void SpawnAs(End& e, int fd, const ProgramStep& step) {
  const bool reads = (step.b & 1) != 0;
  int ends[2] = {-1, -1};
  const int flags = fcntl(fd, F_GETFL);
  fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);  // programs like these wait
  if (step.b / 10 % 2 != 0) fcntl(fd, F_SETFD, FD_CLOEXEC);
  const std::string count = std::to_string(step.a);
  const int file = memfd_create("hk-program", MFD_CLOEXEC);
  if (pipe2(ends, O_CLOEXEC) != 0 || fcntl(ends[1], F_SETPIPE_SZ, 1 << 16) < 0) return e.Say("no pipe");
  const std::string bytes = reads ? "" : Pattern(step.a, step.b + step.a);
  if (pwrite(file, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) return e.Say("no file");
  const char* const head[] = {"head", "-c", count.c_str(), nullptr};
  const char* const cat[] = {"cat", nullptr};
  const pid_t child = reads ? Start(step, head, fd, ends[1]) : Start(step, cat, file, fd);
  int status = -1;
  waitpid(child, &status, 0);
  fcntl(fd, F_SETFL, flags);
  e.Say("it ended %d", status);
  if (reads) {
    const std::string all = Emptied(ends[0]);
    e.Say("it read %zu sum %llx", all.size(), static_cast<unsigned long long>(Sum(all)));
  }
  close(file);
  close(ends[0]);
  close(ends[1]);
}

}  // namespace heterok8s::heterosock::behaviour
