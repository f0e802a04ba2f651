#include "heteroctl/lab/spawn.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "common/sys/netns.h"
#include "common/sys/unique_fd.h"
#include "heteroctl/lab/cgroups.h"
#include "heteroctl/lab/processes.h"

namespace heterok8s::lab {
namespace {

constexpr int kPuNamespaces = CLONE_NEWCGROUP | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID;

// What a child tells its parent through a close-on-exec pipe; end of file means that exec succeeded.
struct ChildFailure {
  const char* step;  // a literal: the same address in parent and child
  int error_number;
};

[[noreturn]] void Fail(int pipe, const char* step) {
  const ChildFailure failure{step, errno};
  (void)!write(pipe, &failure, sizeof failure);
  _exit(127);
}

absl::Status ReadFailure(int pipe) {
  ChildFailure failure{};
  ssize_t n;
  while ((n = read(pipe, &failure, sizeof failure)) < 0 && errno == EINTR) {
  }
  if (n != sizeof failure) return absl::OkStatus();
  return ErrnoToStatus(failure.error_number, failure.step);
}

absl::StatusOr<std::vector<sys::UniqueFd>> OpenAll(const std::vector<std::string>& files) {
  std::vector<sys::UniqueFd> fds;
  for (const std::string& file : files) {
    fds.emplace_back(open(file.c_str(), O_WRONLY | O_CLOEXEC));
    if (!fds.back().valid()) return ErrnoToStatus(errno, fmt::format("open '{}'", file));
  }
  return fds;
}

bool JoinAll(const std::vector<sys::UniqueFd>& cgroups) {
  for (const sys::UniqueFd& fd : cgroups) {
    if (write(fd.get(), "0", 1) != 1) return false;
  }
  return true;
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& s : strings) pointers.push_back(const_cast<char*>(s.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

void ResetSignals() {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
}

struct Pipe {
  sys::UniqueFd read_end, write_end;
};
absl::StatusOr<Pipe> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoToStatus(errno, "make a pipe");
  return Pipe{sys::UniqueFd(ends[0]), sys::UniqueFd(ends[1])};
}

int WaitFor(pid_t pid) {
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

volatile pid_t g_entered = 0;
void PassOn(int signal) {
  if (g_entered > 0) kill(g_entered, signal);
}
// A terminal gives its own signals to the whole process group: those are the command's business alone.
void PassOnTo(pid_t child) {
  g_entered = child;
  for (int number : {SIGTERM, SIGHUP}) signal(number, PassOn);
  for (int number : {SIGINT, SIGQUIT}) signal(number, SIG_IGN);
}

}  // namespace

absl::Status StartInit(const Layout& layout, Place pu, const std::vector<std::string>& argv) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef netns, sys::NetnsRef::Open(layout.Netns(pu)));
  HK_ASSIGN_OR_RETURN(CgroupProcs files, CgroupProcsFiles(layout, pu));
  HK_ASSIGN_OR_RETURN(std::vector<sys::UniqueFd> top, OpenAll(files.top));
  HK_ASSIGN_OR_RETURN(std::vector<sys::UniqueFd> home, OpenAll(files.home));
  const std::string log_path = layout.Log(pu, "init");
  sys::UniqueFd log(open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  sys::UniqueFd null(open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!log.valid() || !null.valid()) return ErrnoToStatus(errno, fmt::format("open '{}'", log_path));
  HK_ASSIGN_OR_RETURN(Pipe failure, MakePipe());
  const std::vector<char*> arguments = Pointers(argv);

  const pid_t child = fork();
  if (child < 0) return ErrnoToStatus(errno, "fork");
  if (child == 0) {
    const int report = failure.write_end.get();
    if (!JoinAll(top)) Fail(report, "enter the PU's cgroup");
    if (setns(netns.fd(), CLONE_NEWNET) != 0) Fail(report, "enter the PU's network namespace");
    // The cgroup that we are in right now becomes the root of the cgroup namespace.
    if (unshare(kPuNamespaces) != 0) Fail(report, "make the PU's namespaces");
    if (!JoinAll(home)) Fail(report, "enter the PU's leaf cgroup");
    const pid_t init = fork();  // the first child of a new PID namespace is its PID 1
    if (init < 0) Fail(report, "fork the PU's init");
    if (init > 0) _exit(0);
    setsid();
    ResetSignals();
    if (dup2(null.get(), 0) < 0 || dup2(log.get(), 1) < 0 || dup2(log.get(), 2) < 0) Fail(report, "redirect");
    execv(arguments[0], arguments.data());
    Fail(report, "run the PU's init");
  }
  failure.write_end.reset();
  WaitFor(child);
  return Annotate(ReadFailure(failure.read_end.get()), fmt::format("start the {}", Name(pu)));
}

absl::StatusOr<int> Enter(const Layout& layout, Place place, const std::vector<std::string>& argv) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef netns, sys::NetnsRef::Open(layout.Netns(place)));
  HK_ASSIGN_OR_RETURN(CgroupProcs files, CgroupProcsFiles(layout, place));
  HK_ASSIGN_OR_RETURN(std::vector<sys::UniqueFd> home, OpenAll(files.home));
  PuInit init;
  if (place != Place::kClient) {
    HK_ASSIGN_OR_RETURN(init, FindInit(layout, place));
    const char* path = getenv("PATH");
    setenv("PATH", fmt::format("{}:{}", kInsideBin, path == nullptr ? "/usr/sbin:/usr/bin:/sbin:/bin" : path).c_str(),
           1);
  }
  HK_ASSIGN_OR_RETURN(Pipe failure, MakePipe());
  const std::vector<char*> arguments = Pointers(argv);
  char folder[4096];
  if (getcwd(folder, sizeof folder) == nullptr) folder[0] = '\0';

  // Two forks: a PID namespace is entered by children only.
  const pid_t outer = fork();
  if (outer < 0) return ErrnoToStatus(errno, "fork");
  if (outer == 0) {
    const int report = failure.write_end.get();
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // a command never outlives the heteroctl that waits for it
    if (!JoinAll(home)) Fail(report, "enter the cgroup");
    if (setns(netns.fd(), CLONE_NEWNET) != 0) Fail(report, "enter the network namespace");
    if (init.pidfd.valid() && setns(init.pidfd.get(), kPuNamespaces) != 0) Fail(report, "enter the PU's namespaces");
    if (init.pidfd.valid() && (folder[0] == '\0' || chdir(folder) != 0) && chdir("/") != 0) Fail(report, "go to '/'");
    const pid_t inner = fork();
    if (inner < 0) Fail(report, "fork");
    if (inner == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      ResetSignals();
      execvp(arguments[0], arguments.data());
      Fail(report, "exec");
    }
    failure.write_end.reset();
    PassOnTo(inner);
    _exit(WaitFor(inner));
  }
  PassOnTo(outer);
  failure.write_end.reset();
  absl::Status started = ReadFailure(failure.read_end.get());
  const int code = WaitFor(outer);
  HK_RETURN_IF_ERROR(
      Annotate(started, fmt::format("run '{}' in the {} of lab '{}'", argv[0], Name(place), layout.name)));
  return code;
}

}  // namespace heterok8s::lab
