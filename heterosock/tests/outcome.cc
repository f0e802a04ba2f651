#include "heterosock/tests/outcome.h"

#include "heterosock/tests/meddler.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <sstream>

extern char** environ;

namespace heterok8s::heterosock::behaviour {
namespace {

class Memory {  // a memfd, mapped when asked
 public:
  explicit Memory(const char* name, size_t size) : fd_(memfd_create(name, MFD_CLOEXEC)), size_(size) {
    if (fd_ < 0 || (size && ftruncate(fd_, static_cast<off_t>(size)) != 0)) std::abort();
  }
  ~Memory() {
    if (at_) munmap(at_, size_);
    close(fd_);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  int fd() const { return fd_; }
  void* Map() {
    at_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0);
    if (at_ == MAP_FAILED) std::abort();
    return at_;
  }

 private:
  int fd_;
  size_t size_;
  void* at_ = nullptr;
};

pid_t Start(const std::string& case_name, const Mode& mode, bool server, const Preload& preload,
            const std::vector<std::string>& agent, int stage, int output) {
  std::vector<std::string> words = {
      "/proc/self/exe", "--end", server ? "server" : "client", std::to_string(mode.family), mode.warm ? "warm" : "cold",
      case_name};
  std::vector<std::string> environment = {
      "HETEROSOCK_STAGE=/proc/" + std::to_string(getpid()) + "/fd/" + std::to_string(stage),
      "PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  if (server ? mode.preload_server : mode.preload_client) {
    const bool other = !server && !preload.client_library.empty();
    environment.push_back("LD_PRELOAD=" + (other ? preload.client_library : preload.library));
    for (const std::string& extra : preload.extra) environment.push_back(extra);
    for (const std::string& extra : agent) environment.push_back(extra);
  }
  std::vector<char*> argv, envp;
  for (std::string& word : words) argv.push_back(word.data());
  for (std::string& word : environment) envp.push_back(word.data());
  argv.push_back(nullptr);
  envp.push_back(nullptr);

  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, output, 1);
  posix_spawn_file_actions_adddup2(&files, output, 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  pid_t pid = -1;
  std::string self(4096, '\0');  // this binary, named so that it is the same for a child
  self.resize(static_cast<size_t>(std::max<ssize_t>(0, readlink("/proc/self/exe", self.data(), self.size()))));
  if (posix_spawn(&pid, self.c_str(), &files, &attributes, argv.data(), envp.data()) != 0) pid = -1;
  posix_spawn_file_actions_destroy(&files);
  posix_spawnattr_destroy(&attributes);
  return pid;
}

std::vector<std::string> Lines(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

// How the process ended, after at most kDeadline; with it goes every process of its group.
std::string Finish(pid_t pid) {
  if (pid < 0) return "did not start\n";
  int handle = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  pollfd ended{handle, POLLIN, 0};
  bool hung =
      poll(&ended, 1, static_cast<int>(std::chrono::milliseconds(kDeadline + std::chrono::seconds(2)).count())) <= 0;
  close(handle);
  kill(-pid, SIGKILL);  // before the wait, while the number is still ours
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (hung) return "HUNG\n";
  if (WIFSIGNALED(status)) return std::string("killed by SIG") + sigabbrev_np(WTERMSIG(status)) + "\n";
  return "exit " + std::to_string(WEXITSTATUS(status)) + "\n";
}

}  // namespace

std::string Difference(const Outcome& plain, const Outcome& ours) {
  constexpr size_t kShared = 6, kNext = 4;  // lines
  std::string text;
  for (int role : {0, 1}) {
    std::vector<std::string> a = Lines(plain.said[role]), b = Lines(ours.said[role]);
    size_t same = 0;
    while (same < a.size() && same < b.size() && a[same] == b[same]) ++same;
    text += role == 0 ? "  server" : "  client";
    if (same == a.size() && same == b.size()) {
      text += ": the same\n";
      continue;
    }
    text += "\n";
    for (size_t i = same > kShared ? same - kShared : 0; i < same; ++i) text += "      " + a[i] + "\n";
    for (size_t i = same; i < a.size() && i < same + kNext; ++i) text += "    - " + a[i] + "\n";
    for (size_t i = same; i < b.size() && i < same + kNext; ++i) text += "    + " + b[i] + "\n";
  }
  if (!ours.output.empty()) text += "  output: " + ours.output + "\n";
  return text;
}

Outcome RunOnce(const std::string& case_name, const Mode& mode, const Preload& preload) {
  Memory stage("hk-stage", sizeof(Stage)), output("hk-output", 0);
  auto* shared = static_cast<Stage*>(stage.Map());
  std::unique_ptr<Meddler> meddler;
  std::vector<std::string> agent = {
      "HETEROSOCK_AGENT=" + (mode.without_agent || preload.agent.empty() ? "/nonexistent/agent.sock" : preload.agent)};
  if (mode.fault && !preload.agent.empty()) {
    meddler = std::make_unique<Meddler>(preload.agent, *mode.fault, shared->faulty);
    // Offered early, so that the fault lies within the case.
    agent = meddler->environment();
    agent.push_back("HETEROSOCK_OFFER_WRITES=1");
  }
  shared->can_move = mode.preload_server && mode.preload_client && !preload.agent.empty() && !mode.without_agent &&
                     !mode.agent_dies && !mode.stays && !mode.fault;
  pid_t pids[2];
  for (int role : {0, 1}) pids[role] = Start(case_name, mode, role == 0, preload, agent, stage.fd(), output.fd());

  Outcome outcome;
  std::string ends[2];
  for (int role : {0, 1}) ends[role] = Finish(pids[role]);
  for (int role : {0, 1}) {
    outcome.said[role] = shared->trace[role].Text() + ends[role];
    outcome.moved[role] = shared->moved[role].load();
  }
  outcome.faulty = shared->faulty.load() != 0;
  char text[4096];
  ssize_t n = pread(output.fd(), text, sizeof text, 0);
  if (n > 0) outcome.output.assign(text, static_cast<size_t>(n));
  return outcome;
}

}  // namespace heterok8s::heterosock::behaviour
