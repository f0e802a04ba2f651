// The agent dies with offers unanswered, and another one takes its place: connections that had been offered move then.
// Both ends are threads of one process, which is a connection too.
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>

#include "heterosock/tests/agent.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kBoth = 3;        // heterosock_moved(): sends and receives through shared memory
constexpr int kPatience = 60;   // seconds until a connection must have moved
constexpr int kEvidence = 100;  // exchanges, of which few are enough for an offer

using Moved = int (*)(int);

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  _exit(2);
}

struct Connection {
  int client = -1, server = -1;
};

Connection Connect() {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* name = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, name, length) != 0 || listen(listener, 1) != 0 || getsockname(listener, name, &length) != 0)
    Die("listen");
  Connection made;
  made.client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(made.client, name, length) != 0) Die("connect");
  made.server = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (made.server < 0) Die("accept4");
  close(listener);
  return made;
}

void Exchange(const Connection& between) {
  char byte = 'x';
  if (send(between.client, &byte, 1, 0) != 1 || recv(between.server, &byte, 1, 0) != 1 ||
      send(between.server, &byte, 1, 0) != 1 || recv(between.client, &byte, 1, 0) != 1)
    Die("exchange");
}

// In the process that has the library; its standard input and output are the two sides of the talk with the tester.
int Talk() {
  const auto moved = reinterpret_cast<Moved>(dlsym(RTLD_DEFAULT, "heterosock_moved"));
  if (moved == nullptr) Die("no library");
  const auto has_moved = [moved](const Connection& which) {
    for (const time_t end = time(nullptr) + kPatience; time(nullptr) < end;) {
      Exchange(which);
      if (moved(which.client) == kBoth && moved(which.server) == kBoth) return true;
    }
    return false;
  };
  // One that moves, so that the agent is known; then one that is offered to an agent that does not answer.
  const Connection first = Connect();
  if (!has_moved(first)) return 3;
  std::printf("moved\n");
  std::fflush(stdout);
  if (std::getchar() != 's') return 4;
  const Connection second = Connect();
  for (int i = 0; i < kEvidence; ++i) Exchange(second);
  std::printf("offered\n");
  std::fflush(stdout);
  if (std::getchar() != 'k') return 4;
  return has_moved(second) ? 0 : 5;
}

int Main(int argc, char**) {
  if (argc == 2) return Talk();
  const std::string library = BesideThisProgram("../libheterosock.so");
  Agent agent;
  if (library.empty() || !agent.Start()) {
    std::printf("the library or heterosockd is not built\n");
    return 77;
  }
  int to[2], from[2];
  if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) Die("pipe2");
  const pid_t child = fork();
  if (child == 0) {
    dup2(to[0], 0);
    dup2(from[1], 1);
    setenv("LD_PRELOAD", library.c_str(), 1);
    setenv("HETEROSOCK_AGENT", agent.path().c_str(), 1);
    execl("/proc/self/exe", "restart_test", "--talk", static_cast<char*>(nullptr));
    _exit(6);
  }
  close(to[0]);
  close(from[1]);
  FILE* const said = fdopen(from[0], "r");
  char line[100];
  bool right = std::fgets(line, sizeof line, said) != nullptr;
  agent.Stop();
  right = right && write(to[1], "s", 1) == 1 && std::fgets(line, sizeof line, said) != nullptr;
  agent.Kill();
  right = right && agent.StartAgain() && write(to[1], "k", 1) == 1;
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
