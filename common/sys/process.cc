#include "common/sys/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "common/sys/unique_fd.h"

extern char** environ;

namespace heterok8s::sys {
namespace {

using Clock = std::chrono::steady_clock;

struct Pipe {
  UniqueFd read_end, write_end;
};

absl::StatusOr<Pipe> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoToStatus(errno, "make a pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// stdin is a socket, because only a socket can be written without SIGPIPE when the child does not read.
absl::StatusOr<Pipe> MakeInput() {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return ErrnoToStatus(errno, "make a socket pair");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& s : strings) pointers.push_back(const_cast<char*>(s.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

absl::Status TooLate(const RunOptions& options) {
  return absl::DeadlineExceededError(fmt::format("no end within {} ms", options.deadline.count()));
}

// Feeds stdin and drains both outputs until they close. False when the deadline passed.
absl::Status Pump(const RunOptions& options, Pipe& in, Pipe& out, Pipe& err, Clock::time_point deadline,
                  RunResult& result) {
  size_t fed = 0;
  fcntl(in.write_end.get(), F_SETFL, O_NONBLOCK);
  if (options.stdin_text.empty()) in.write_end.reset();
  while (out.read_end.valid() || err.read_end.valid()) {
    auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return TooLate(options);
    pollfd fds[3] = {
        {in.write_end.get(), POLLOUT, 0}, {out.read_end.get(), POLLIN, 0}, {err.read_end.get(), POLLIN, 0}};
    if (poll(fds, 3, static_cast<int>(left)) < 0 && errno != EINTR) return ErrnoToStatus(errno, "poll");
    if (fds[0].revents != 0) {
      ssize_t n = send(fds[0].fd, options.stdin_text.data() + fed, options.stdin_text.size() - fed, MSG_NOSIGNAL);
      if (n > 0) fed += static_cast<size_t>(n);
      bool gone = n < 0 && errno != EAGAIN && errno != EINTR;  // EPIPE: the child does not read its input
      if (gone || fed == options.stdin_text.size()) in.write_end.reset();
    }
    auto drain = [&](pollfd& p, UniqueFd& fd, std::string& text) -> absl::Status {
      if (p.revents == 0) return absl::OkStatus();
      char buffer[16384];
      ssize_t n = read(fd.get(), buffer, sizeof buffer);
      if (n > 0) text.append(buffer, static_cast<size_t>(n));
      if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) fd.reset();
      if (text.size() > options.max_output_bytes) {
        return absl::ResourceExhaustedError(fmt::format("printed more than {} bytes", options.max_output_bytes));
      }
      return absl::OkStatus();
    };
    HK_RETURN_IF_ERROR(drain(fds[1], out.read_end, result.stdout_text));
    HK_RETURN_IF_ERROR(drain(fds[2], err.read_end, result.stderr_text));
  }
  return absl::OkStatus();
}

// A child may close its outputs and stay. False when it has not ended by the deadline.
bool WaitUntil(Clock::time_point deadline, pid_t pid, int& status) {
  constexpr auto kLongestPause = std::chrono::microseconds(20000);
  for (auto pause = std::chrono::microseconds(100);; pause = std::min(pause * 2, kLongestPause)) {
    pid_t ended = waitpid(pid, &status, WNOHANG);
    if (ended != 0 && !(ended < 0 && errno == EINTR)) return true;
    if (Clock::now() >= deadline) return false;
    std::this_thread::sleep_for(pause);
  }
}

}  // namespace

absl::StatusOr<RunResult> Run(const RunOptions& options) {
  const std::string what = fmt::format("run '{}'", fmt::join(options.argv, " "));
  HK_ASSIGN_OR_RETURN(Pipe in, MakeInput());
  HK_ASSIGN_OR_RETURN(Pipe out, MakePipe());
  HK_ASSIGN_OR_RETURN(Pipe err, MakePipe());

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in.read_end.get(), 0);
  posix_spawn_file_actions_adddup2(&actions, out.write_end.get(), 1);
  posix_spawn_file_actions_adddup2(&actions, err.write_end.get(), 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, pipe_default;
  sigemptyset(&none);
  sigemptyset(&pipe_default);
  sigaddset(&pipe_default, SIGPIPE);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &pipe_default);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  std::vector<char*> argv = Pointers(options.argv);
  std::vector<char*> env = options.env ? Pointers(*options.env) : std::vector<char*>();
  pid_t pid = -1;
  int error = posix_spawnp(&pid, argv[0], &actions, &attributes, argv.data(), options.env ? env.data() : environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) return ErrnoToStatus(error, what);
  in.read_end.reset();
  out.write_end.reset();
  err.write_end.reset();

  RunResult result;
  const Clock::time_point deadline = Clock::now() + options.deadline;
  absl::Status pumped = Pump(options, in, out, err, deadline, result);
  int status = 0;
  bool ended = pumped.ok() && WaitUntil(deadline, pid, status);
  if (!ended) {
    if (pumped.ok()) pumped = TooLate(options);
    kill(-pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
  }
  if (!pumped.ok()) return Annotate(pumped, what);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace heterok8s::sys
