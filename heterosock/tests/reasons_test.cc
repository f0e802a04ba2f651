// A program that asks for a trace is told why a connection is on TCP, whatever the reason: each one that a program can
// cause is caused here, by a program of its own, and its trace names it, no line twice. A reason that is new has to be
// caused here as well, or stand in the list of those that others see.
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "heterosock/tests/agent.h"
#include "heterosock/tests/reason_scenarios.h"

namespace heterok8s::heterosock::behaviour {
namespace {

using protocol::Reason;
using protocol::ReasonText;

// What a program alone does not cause, and who has the trace, or the agent's answer, name it.
constexpr Reason kOfOthers[] = {
    // agent_test, pairing_test, namespaces_test: what the agent finds.
    Reason::kPolicy,        Reason::kNotTcp,        Reason::kDuplicate,        Reason::kExhausted,
    Reason::kAgentError,    Reason::kTooManyOffers, Reason::kUnknownSocket,    Reason::kAmbiguous,
    Reason::kImplausible,   Reason::kAgentStopping, Reason::kTooManyProcesses, Reason::kPeerWithdrew,
    Reason::kPolicyChanged, Reason::kAgentFence,
    Reason::kVersion,      // behaviour_test, faults of mixed versions
    Reason::kCorrupt,      // hostile_test
    Reason::kKernel,       // lacking_test
    Reason::kDescriptors,  // nobody: it was one of an older library
};

bool IsNamed(Reason reason) {
  const auto caused = [&](const Scenario& each) { return each.reason == reason; };
  return reason == Reason::kNone || std::ranges::any_of(Scenarios(), caused) ||
         std::find(std::begin(kOfOthers), std::end(kOfOthers), reason) != std::end(kOfOthers);
}

// "" when the trace is right.
std::string Wrong(const Scenario& scenario, const std::string& path) {
  std::ifstream file(path);
  std::multiset<std::string> why;  // it is on TCP
  std::string all;
  for (std::string line; std::getline(file, line);) {
    all += "  " + line + "\n";
    for (const char* mark : {kStays, kHeld, kEnded, "no connection of this"}) {
      if (line.find(mark) != std::string::npos) why.insert(line);
    }
  }
  for (const std::string& line : why) {
    if (why.count(line) != 1) return "said twice: " + line + "\n" + all;
  }
  if (all.find(std::string(scenario.line) + ReasonText(scenario.reason)) == std::string::npos)
    return "not said\n" + all;
  return "";
}

// A program without the library sends back what comes.
void Echo(int listener) {
  for (int fd; (fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC)) >= 0; close(fd)) {
    char bytes[64];
    for (ssize_t n; (n = recv(fd, bytes, sizeof bytes, 0)) > 0;) send(fd, bytes, static_cast<size_t>(n), MSG_NOSIGNAL);
  }
}

int Run(const Scenario& scenario, const std::string& library, const Agent& agent, uint16_t port) {
  const std::string path = agent.path() + ".trace";
  std::vector<std::string> more = {"LD_PRELOAD=" + library,
                                   "HETEROSOCK_AGENT=" + agent.path(),
                                   "HETEROSOCK_TRACE=" + path,
                                   "REASONS_PORT=" + std::to_string(port),
                                   "REASONS_ADMIN=" + agent.admin(),
                                   "REASONS_AGENT=" + std::to_string(agent.pid()),
                                   scenario.environment ? scenario.environment : "A="};
  const pid_t child = fork();
  if (child == 0) {
    for (std::string& each : more) putenv(each.data());
    execl("/proc/self/exe", "reasons_test", "--act", scenario.name, static_cast<char*>(nullptr));
    _exit(4);
  }
  int status = 0;
  waitpid(child, &status, 0);
  std::string wrong = Wrong(scenario, path);
  unlink(path.c_str());
  if (wrong.empty() && status != 0) wrong = "the program ended with status " + std::to_string(status) + "\n";
  std::printf("%s %s: %s%s\n", wrong.empty() ? "ok   " : "FAIL ", scenario.name, ReasonText(scenario.reason),
              wrong.empty() ? "" : (", " + wrong).c_str());
  std::fflush(stdout);
  return wrong.empty() ? 0 : 1;
}

int Main(int argc, char** argv) {  // [TEXT]: what has it in its name
  if (argc == 3 && std::strcmp(argv[1], "--act") == 0) return Act(argv[2]);
  const std::string library = BesideThisProgram("../libheterosock.so");
  Agent agent;
  if (library.empty() || !agent.Start()) {
    std::printf("the library or heterosockd is not built\n");
    return 77;
  }
  uint16_t port = 0;
  const int listener = ListenOn(&port);
  std::thread echo(Echo, listener);
  int wrong = 0;
  for (const Scenario& each : Scenarios()) {
    if (argc > 1 && std::strstr(each.name, argv[1]) == nullptr) continue;
    wrong += Run(each, library, agent, port);
  }
  for (uint32_t number = 0; number < 256; ++number) {
    const char* text = ReasonText(static_cast<Reason>(number));
    if (std::strcmp(text, "unknown") == 0 || IsNamed(static_cast<Reason>(number))) continue;
    std::printf("FAIL  %s: nobody causes it\n", text);
    ++wrong;
  }
  shutdown(listener, SHUT_RDWR);
  echo.join();
  close(listener);
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) { return heterok8s::heterosock::behaviour::Main(argc, argv); }
