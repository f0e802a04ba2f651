// A program with more rights than its user (set-user-ID), which has the library by /etc/ld.so.preload or because it is
// linked with it: the user's environment does not make it open a file. Played by a copy of this program, which loads
// the library itself.
#include <dlfcn.h>
#include <grp.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "heterosock/tests/agent.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kNotLoaded = 2, kNotPrivileged = 3, kNotStarted = 4;
constexpr uid_t kNobody = 65534;

int Load(const char* library, bool privileged) {
  if (privileged && getauxval(AT_SECURE) == 0) return kNotPrivileged;
  return dlopen(library, RTLD_NOW) != nullptr ? 0 : kNotLoaded;
}

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/hk-privileged-XXXXXX";
    path_ = mkdtemp(name) != nullptr ? name : "";
    chmod(name, 0755);  // anybody may run what is in it, and only root may add to it
  }
  ~Folder() {
    if (!path_.empty()) std::filesystem::remove_all(path_);
  }
  std::string operator/(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// How the copy ended, which was asked for a trace.
int Start(const Folder& folder, bool privileged) {
  const pid_t child = fork();
  if (child == 0) {
    setenv("HETEROSOCK_TRACE", (folder / "trace").c_str(), 1);
    if (privileged && (setgroups(0, nullptr) != 0 || setgid(kNobody) != 0 || setuid(kNobody) != 0)) _exit(kNotStarted);
    execl((folder / "program").c_str(), "program", (folder / "library").c_str(), privileged ? "privileged" : "ordinary",
          static_cast<char*>(nullptr));
    _exit(kNotStarted);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int Skip(const char* why) {
  std::printf("%s\n", why);
  return 77;
}

int Main(int argc, char** argv) {
  if (argc == 3) return Load(argv[1], std::string(argv[2]) == "privileged");
  const std::string library = BesideThisProgram("../libheterosock.so");
  if (library.empty()) return Skip("the library is not built");
  if (geteuid() != 0) return Skip("needs root");
  const Folder folder;
  std::filesystem::copy_file("/proc/self/exe", folder / "program");
  std::filesystem::copy_file(library, folder / "library");
  chmod((folder / "program").c_str(), 04755);

  const int privileged = Start(folder, true);
  if (privileged == kNotPrivileged) return Skip("/tmp takes no set-user-ID programs");
  const bool kept_out = !std::filesystem::exists(folder / "trace");
  const int ordinary = Start(folder, false);
  const bool traced = std::filesystem::exists(folder / "trace");

  const bool right = privileged == 0 && ordinary == 0 && kept_out && traced;
  std::printf("%s: ended with %d and %d; of a user's own trace %s, of root's %s\n", right ? "ok" : "FAILED", privileged,
              ordinary, kept_out ? "nothing" : "a file of root's", traced ? "a file" : "nothing");
  return right ? 0 : 1;
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) { return heterok8s::heterosock::behaviour::Main(argc, argv); }
