// One process with more connections than its socket to the agent takes messages: a new agent is told of all of them,
// and those that end while the agent does not run are forgotten. Both ends are of one process.
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "heterosock/ctl/admin_client.h"
#include "heterosock/tests/agent.h"
#include "heterosock/tests/loopback.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kBoth = 3;       // heterosock_moved(): sends and receives through shared memory
constexpr int kPatience = 60;  // seconds
// A socket of default size takes 278 messages, and each connection has two ends.
constexpr int kCrowd = 400;
constexpr rlim_t kOwnFiles = 2 * kCrowd + 100;
constexpr rlim_t kFilesPerEnd = 3;

using Moved = int (*)(int);

bool AllMove(const std::vector<Connection>& all) {
  const auto moved = reinterpret_cast<Moved>(dlsym(RTLD_DEFAULT, "heterosock_moved"));
  if (moved == nullptr) Die("no library");
  size_t done = 0;
  for (const time_t end = time(nullptr) + kPatience; done < all.size() && time(nullptr) < end;) {
    done = 0;
    for (const Connection& each : all) {
      if (moved(each.client) == kBoth && moved(each.server) == kBoth) {
        ++done;
      } else {
        Exchange(each);
      }
    }
  }
  return done == all.size();
}

void Say(const char* what) {
  std::printf("%s\n", what);
  std::fflush(stdout);
}

// In the process that has the library; its standard input and output are the two sides of the talk with the tester.
int Talk() {
  std::vector<Connection> crowd(kCrowd);
  for (Connection& each : crowd) each = Connect();
  if (!AllMove(crowd)) return 3;
  Say("moved");
  if (std::getchar() != 'r') return 4;
  if (!AllMove({Connect()})) return 5;
  Say("moved one more");
  if (std::getchar() != 'c') return 4;
  for (const Connection& each : crowd) {
    close(each.client);
    close(each.server);
  }
  Say("closed");
  if (std::getchar() != 'n') return 4;
  if (!AllMove({Connect()})) return 6;
  Say("moved another one");
  return std::getchar() == 'q' ? 0 : 4;
}

// The agent learns of what is said to it when it gets to that.
bool ChannelsBecome(const Agent& agent, int wanted) {
  nlohmann::json said;
  for (const time_t end = time(nullptr) + kPatience; time(nullptr) < end; usleep(10'000)) {
    absl::StatusOr<nlohmann::json> status = ctl::Ask(agent.admin(), {{"command", "status"}});
    if (!status.ok()) continue;
    said = (*status)["totals"];
    if (said["channels"] == wanted) return true;
  }
  std::printf("%d channels expected: %s\n", wanted, said.dump().c_str());
  return false;
}

int Main(int argc, char**) {
  if (argc == 2) return Talk();
  const std::string library = BesideThisProgram("../libheterosock.so");
  Agent agent;
  if (library.empty() || !agent.Start()) {
    std::printf("the library or heterosockd is not built\n");
    return 77;
  }
  rlimit files{};
  getrlimit(RLIMIT_NOFILE, &files);
  if (files.rlim_max < kOwnFiles + 2 * kCrowd * kFilesPerEnd) {
    std::printf("the hard limit of descriptors is too low for %d connections\n", kCrowd);
    return 77;
  }
  int to[2], from[2];
  if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) Die("pipe2");
  const pid_t child = fork();
  if (child == 0) {
    dup2(to[0], 0);
    dup2(from[1], 1);
    files.rlim_cur = kOwnFiles;
    setrlimit(RLIMIT_NOFILE, &files);
    setenv("LD_PRELOAD", library.c_str(), 1);
    setenv("HETEROSOCK_AGENT", agent.path().c_str(), 1);
    execl("/proc/self/exe", "crowd_test", "--talk", static_cast<char*>(nullptr));
    _exit(7);
  }
  close(to[0]);
  close(from[1]);
  FILE* const said = fdopen(from[0], "r");
  char line[100];
  const auto heard = [&] { return std::fgets(line, sizeof line, said) != nullptr; };
  const auto tell = [&](char what) { return write(to[1], &what, 1) == 1; };
  bool right = heard() && ChannelsBecome(agent, kCrowd);
  agent.Kill();
  right = right && agent.StartAgain() && tell('r') && heard() && ChannelsBecome(agent, kCrowd + 1);
  agent.Stop();
  right = right && tell('c') && heard();
  agent.Continue();
  // What it still has was told anew: the one before the crowd ended, and the one after.
  right = right && tell('n') && heard() && ChannelsBecome(agent, 2) && tell('q');
  if (!right) kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  right = right && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  std::printf(right ? "ok\n" : "FAILED: status %#x\n", static_cast<unsigned>(status));
  return right ? 0 : 1;
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) { return heterok8s::heterosock::behaviour::Main(argc, argv); }
