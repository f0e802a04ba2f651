#include "heterosock/tests/agent.h"

#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

extern char** environ;

namespace heterok8s::heterosock::behaviour {

std::string BesideThisProgram(const std::string& name) {
  char self[4096];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self);
  if (n <= 0) return "";
  std::string path(self, static_cast<size_t>(n));
  path = path.substr(0, path.rfind('/') + 1) + name;
  char* real = realpath(path.c_str(), nullptr);
  path = real ? real : "";
  std::free(real);
  return path;
}

bool Agent::Start(const std::string& program) {
  program_ = program.empty() ? BesideThisProgram("../agent/heterosockd") : program;
  char name[] = "/tmp/hk-heterosock-XXXXXX";
  if (!mkdtemp(name)) return false;
  folder_ = name;
  path_ = folder_ + "/agent.sock";
  return StartAgain();
}

bool Agent::StartAgain() {
  if (program_.empty()) return false;
  unlink(path_.c_str());  // what is there then is the new one's
  std::string socket = "--socket=" + path_, admin = "--admin=" + this->admin();
  char* argv[] = {program_.data(), socket.data(), admin.data(), nullptr};
  if (posix_spawn(&pid_, program_.c_str(), nullptr, nullptr, argv, environ) != 0) return false;
  for (int i = 0; i < 500; ++i) {
    struct stat there;
    if (stat(path_.c_str(), &there) == 0) return true;
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) break;
    usleep(10'000);
  }
  return false;
}

void Agent::Stop() { kill(pid_, SIGSTOP); }

void Agent::Continue() { kill(pid_, SIGCONT); }

void Agent::Kill() {
  if (pid_ <= 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

Agent::~Agent() {
  Kill();
  if (folder_.empty()) return;
  unlink(path_.c_str());
  unlink(admin().c_str());
  rmdir(folder_.c_str());
}

}  // namespace heterok8s::heterosock::behaviour
