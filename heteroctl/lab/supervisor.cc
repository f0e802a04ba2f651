#include "heteroctl/lab/supervisor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

extern char** environ;

namespace heterok8s::lab {
namespace {

constexpr std::chrono::milliseconds kRestartDelay{200};
constexpr std::chrono::seconds kStopGrace{5};
// Together, at the end of the PU: a lab that goes down is not worth waiting for.
constexpr std::chrono::seconds kEndGrace{1};

sigset_t WatchedSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&set, signal);
  return set;
}

std::string Describe(int wait_status) {
  return WIFSIGNALED(wait_status) ? fmt::format("signal {}", WTERMSIG(wait_status))
                                  : fmt::format("exit {}", WEXITSTATUS(wait_status));
}

bool EndsAProgram(int signal) {
  return signal == SIGKILL || signal == SIGTERM || signal == SIGINT || signal == SIGQUIT || signal == SIGABRT ||
         signal == SIGSEGV;
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& s : strings) pointers.push_back(const_cast<char*>(s.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> WithEnvironment(std::vector<std::string> added) {
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::string key = text.substr(0, text.find('=') + 1);
    const bool replaced = std::any_of(added.begin(), added.end(), [&](const auto& e) { return e.rfind(key, 0) == 0; });
    if (!replaced) added.push_back(text);
  }
  return added;
}

}  // namespace

Supervisor::Supervisor(std::vector<DaemonSpec> daemons, int log_folder, std::string log_prefix)
    : log_folder_(log_folder), log_prefix_(std::move(log_prefix)) {
  for (DaemonSpec& spec : daemons) {
    Daemon& daemon = daemons_.emplace_back();
    daemon.state.name = spec.name;
    daemon.spec = std::move(spec);
  }
}

absl::Status Supervisor::Loop(int control) {
  const sigset_t watched = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &watched, nullptr);
  sys::UniqueFd signals(signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.valid()) return ErrnoToStatus(errno, "make a signalfd");
  for (Daemon& daemon : daemons_) Start(daemon);

  while (true) {
    pollfd fds[2] = {{signals.get(), POLLIN, 0}, {control, POLLIN, 0}};
    if (poll(fds, 2, NextTimerMs()) < 0 && errno != EINTR) return ErrnoToStatus(errno, "poll");
    signalfd_siginfo info{};
    while (read(signals.get(), &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGCHLD) continue;
      EndAll();
      return absl::OkStatus();
    }
    Reap();
    if (fds[1].revents != 0) Serve(control);
    RunTimers();
  }
}

Supervisor::Daemon* Supervisor::Find(const std::string& name) {
  for (Daemon& daemon : daemons_) {
    if (daemon.spec.name == name) return &daemon;
  }
  return nullptr;
}

void Supervisor::Start(Daemon& daemon, const std::vector<std::string>& extra_env) {
  daemon.start_at.reset();
  daemon.state.held = false;
  if (daemon.state.pid > 0) return;
  const std::string log_name = log_prefix_ + daemon.spec.name + ".log";
  sys::UniqueFd log(openat(log_folder_, log_name.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, log.get(), 1);
  posix_spawn_file_actions_adddup2(&actions, log.get(), 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);

  std::vector<std::string> added = daemon.spec.env;
  added.insert(added.end(), extra_env.begin(), extra_env.end());
  const std::vector<std::string> env = WithEnvironment(added);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, daemon.spec.argv[0].c_str(), &actions, &attributes,
                                 Pointers(daemon.spec.argv).data(), Pointers(env).data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  ++daemon.state.starts;
  if (error != 0) {
    daemon.state.last_end = fmt::format("cannot start: {}", std::strerror(error));
    Note(daemon, fmt::format("cannot start '{}': {}", daemon.spec.argv[0], std::strerror(error)));
    daemon.start_at = Clock::now() + kRestartDelay;
    return;
  }
  daemon.state.pid = pid;
}

void Supervisor::Reap() {
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
    for (Daemon& daemon : daemons_) {
      if (daemon.state.pid == pid) Ended(daemon, status);
    }
  }
}

void Supervisor::Ended(Daemon& daemon, int wait_status) {
  daemon.state.pid = -1;
  daemon.state.last_end = Describe(wait_status);
  daemon.kill_at.reset();
  if (!daemon.state.held) daemon.start_at = Clock::now() + kRestartDelay;
  Note(daemon, fmt::format("{} ended ({}), {}", daemon.spec.name, daemon.state.last_end,
                           daemon.state.held ? "held" : "starting it again"));
  for (const sys::UniqueFd& asker : daemon.waiting) SendReply(asker.get(), States());
  daemon.waiting.clear();
}

void Supervisor::Serve(int control) {
  sys::UniqueFd connection(accept4(control, nullptr, nullptr, SOCK_CLOEXEC));
  if (!connection.valid()) return;
  absl::StatusOr<ControlRequest> request = ReadRequest(connection.get());
  if (!request.ok()) {
    SendReply(connection.get(), {.error = Message(request.status())});
    return;
  }
  Handle(*request, std::move(connection));
}

void Supervisor::Handle(const ControlRequest& request, sys::UniqueFd connection) {
  if (request.act == "status") return SendReply(connection.get(), States());
  Daemon* daemon = Find(request.daemon);
  if (daemon == nullptr) {
    std::string names;
    for (const Daemon& d : daemons_) names += " " + d.spec.name;
    return SendReply(connection.get(),
                     {.error = fmt::format("no daemon '{}' here; there are:{}", request.daemon, names)});
  }
  if (request.act == "start") {
    Start(*daemon, request.env);
    return SendReply(connection.get(), States());
  }
  if (request.act != "stop" && request.act != "kill") {
    return SendReply(connection.get(), {.error = fmt::format("unknown act '{}'", request.act)});
  }
  const bool stop = request.act == "stop";
  if (stop || request.hold) {
    daemon->state.held = true;
    daemon->start_at.reset();
  }
  if (daemon->state.pid < 0) {
    if (stop || request.hold || request.signal == 0) return SendReply(connection.get(), States());
    return SendReply(connection.get(), {.error = fmt::format("{} does not run", request.daemon)});
  }
  const int signal = stop ? SIGTERM : request.signal;
  if (kill(daemon->state.pid, signal) != 0) {
    return SendReply(connection.get(), {.error = fmt::format("signal {}: {}", signal, std::strerror(errno))});
  }
  if (!stop && !EndsAProgram(signal)) return SendReply(connection.get(), States());
  if (stop) daemon->kill_at = Clock::now() + kStopGrace;
  daemon->waiting.push_back(std::move(connection));
}

void Supervisor::RunTimers() {
  const auto now = Clock::now();
  for (Daemon& daemon : daemons_) {
    if (daemon.start_at && *daemon.start_at <= now) Start(daemon);
    if (daemon.kill_at && *daemon.kill_at <= now) {
      daemon.kill_at.reset();
      if (daemon.state.pid > 0) kill(daemon.state.pid, SIGKILL);
    }
  }
}

int Supervisor::NextTimerMs() const {
  std::optional<Clock::time_point> next;
  for (const Daemon& daemon : daemons_) {
    for (const auto& at : {daemon.start_at, daemon.kill_at}) {
      if (at && (!next || *at < *next)) next = at;
    }
  }
  if (!next) return -1;
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(*next - Clock::now()).count();
  return static_cast<int>(std::max<int64_t>(left, 0)) + 1;  // rounded up, or the last millisecond spins
}

ControlReply Supervisor::States() const {
  ControlReply reply;
  for (const Daemon& daemon : daemons_) reply.daemons.push_back(daemon.state);
  return reply;
}

void Supervisor::Note(Daemon& daemon, const std::string& text) {
  const std::string log_name = log_prefix_ + daemon.spec.name + ".log";
  sys::UniqueFd log(openat(log_folder_, log_name.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  const std::string line = "lab: " + text + "\n";
  (void)!write(log.get(), line.data(), line.size());
}

void Supervisor::EndAll() {
  for (Daemon& daemon : daemons_) {
    daemon.state.held = true;
    if (daemon.state.pid > 0) kill(daemon.state.pid, SIGTERM);
  }
  const auto end = Clock::now() + kEndGrace;
  auto running = [&] {
    return std::any_of(daemons_.begin(), daemons_.end(), [](const Daemon& d) { return d.state.pid > 0; });
  };
  const sigset_t watched = WatchedSignals();
  while (running() && Clock::now() < end) {
    const timespec slice{.tv_sec = 0, .tv_nsec = 50'000'000};
    sigtimedwait(&watched, nullptr, &slice);
    Reap();
  }
  // Containers and whatever else is left. As PID 1 the kernel would end them with us; so does a test that is not.
  if (getpid() == 1) kill(-1, SIGKILL);
  for (Daemon& daemon : daemons_) {
    if (daemon.state.pid > 0) kill(daemon.state.pid, SIGKILL);
  }
}

}  // namespace heterok8s::lab
