// The agent dies with offers unanswered, and another one takes its place: connections that had been offered move then.
// A process whose connections have all moved is counted by the new agent too.
// An agent that does not run keeps no other end from hearing that a connection is over. Both ends are of one process,
// which is a connection too, but for those that must outlive it.
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "heterosock/ctl/admin_client.h"
#include "heterosock/tests/agent.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kBoth = 3;        // heterosock_moved(): sends and receives through shared memory
constexpr int kPatience = 60;   // seconds until a connection must have moved
constexpr int kEvidence = 100;  // exchanges, of which few are enough for an offer
constexpr int kCrowd = 8;
constexpr useconds_t kSilenceUs = 200'000;  // longer than what the library takes for a silence of the agent

using Moved = int (*)(int);

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  _exit(2);
}

struct Connection {
  int client = -1, server = -1;
};

int Listen(sockaddr_in& address) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* name = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, name, length) != 0 || listen(listener, kCrowd) != 0 || getsockname(listener, name, &length) != 0)
    Die("listen");
  return listener;
}

Connection Connect() {
  sockaddr_in address{};
  const int listener = Listen(address);
  Connection made;
  made.client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(made.client, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Die("connect");
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
bool Hears(char wanted) { return std::getchar() == wanted; }
void Say(const char* word) {
  std::printf("%s\n", word);
  std::fflush(stdout);
}

bool HasMoved(const Connection& which) {
  static const auto moved = reinterpret_cast<Moved>(dlsym(RTLD_DEFAULT, "heterosock_moved"));
  if (moved == nullptr) Die("no library");
  for (const time_t end = time(nullptr) + kPatience; time(nullptr) < end;) {
    Exchange(which);
    if (moved(which.client) == kBoth && moved(which.server) == kBoth) return true;
  }
  return false;
}

// The answer of recv(), or -2 when nothing comes.
ssize_t Ends(int fd) {
  pollfd p{fd, POLLIN, 0};
  char byte;
  return poll(&p, 1, kPatience * 1000) == 1 ? recv(fd, &byte, 1, 0) : -2;
}

// One that moves, so that the agent is known; then the agent stops.
bool UntilStopped() {
  if (!HasMoved(Connect())) return false;
  Say("moved");
  return Hears('s');
}

// One is offered to an agent that does not answer, and to the next one.
int Again() {
  if (!UntilStopped()) return 3;
  const Connection second = Connect();
  for (int i = 0; i < kEvidence; ++i) Exchange(second);
  Say("offered");
  if (!Hears('k')) return 4;
  return HasMoved(second) ? 0 : 5;
}

// One is offered to an agent that does not answer, and closed.
int Closed(bool unread) {
  if (!UntilStopped()) return 3;
  const Connection second = Connect();
  for (int i = 0; i < kEvidence; ++i) Exchange(second);
  if (unread && send(second.client, "x", 1, 0) != 1) return 4;
  close(second.server);
  const ssize_t end = Ends(second.client);
  if (unread ? end != -1 || errno != ECONNRESET : end != 0) return 5;
  // Somebody else may hold a third one: it lives.
  const Connection third = Connect();
  for (int i = 0; i < kEvidence; ++i) Exchange(third);
  const pid_t child = fork();
  if (child == 0) {
    char byte;
    _exit(recv(third.server, &byte, 1, 0) == 1 && send(third.server, &byte, 1, 0) == 1 ? 0 : 1);
  }
  close(third.server);
  char byte = 'y';
  if (send(third.client, &byte, 1, 0) != 1 || Ends(third.client) != 1) return 6;
  int status = 0;
  waitpid(child, &status, 0);
  Say("offered");
  return Hears('k') && status == 0 ? 0 : 7;
}

// One is offered to an agent that does not answer, and given to a program in the background by one that has ended when
// it is closed.
int Handed() {
  if (!UntilStopped()) return 3;
  const Connection which = Connect();
  for (int i = 0; i < kEvidence; ++i) Exchange(which);
  const pid_t child = fork();
  if (child == 0) {
    unsetenv("LD_PRELOAD");
    // A shell takes numbers of one digit.
    if (dup2(which.server, 9) != 9 || fcntl(9, F_SETFD, 0) != 0) Die("dup2");
    execl("/bin/sh", "sh", "-c", "cat <&9 >&9 &", nullptr);
    Die("execl");
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child || status != 0) return 4;
  close(which.server);
  char byte = 'y';
  if (send(which.client, &byte, 1, 0) != 1 || Ends(which.client) != 1) return 5;
  close(which.client);
  Say("offered");
  return Hears('k') ? 0 : 6;
}

// All have moved, and no other one is made: the process sleeps, in recv(), poll() or epoll_wait(), and receives.
int Counted(const std::string& sleeps_in) {
  const Connection first = Connect();
  if (!HasMoved(first)) return 3;
  Say("moved");
  const timeval brief{.tv_sec = 0, .tv_usec = 10'000};
  const int set = epoll_create1(EPOLL_CLOEXEC);
  epoll_event wanted{.events = EPOLLIN, .data = {}}, seen;
  if (epoll_ctl(set, EPOLL_CTL_ADD, first.server, &wanted) != 0) return 4;
  const auto sleeps = [&] {
    char byte;
    pollfd news{first.server, POLLIN, 0};
    if (sleeps_in == "recv") return recv(first.server, &byte, 1, 0) == -1 && errno == EAGAIN;
    const int n = sleeps_in == "poll" ? poll(&news, 1, 10) : epoll_wait(set, &seen, 1, 10);
    if (n == 0) Exchange(first);
    return n == 0;
  };
  if (sleeps_in == "recv") setsockopt(first.server, SOL_SOCKET, SO_RCVTIMEO, &brief, sizeof brief);
  pollfd told{0, POLLIN, 0};
  while (poll(&told, 1, 0) == 0) {
    if (!sleeps()) return 5;
  }
  return Hears('k') && HasMoved(first) ? 0 : 6;
}

// As many as that, to the tester, are there when this process is killed.
int Crowd(const char* port) {
  if (!UntilStopped()) return 3;
  usleep(kSilenceUs);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(std::atoi(port)));
  for (int i = 0; i < kCrowd; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) Die("connect");
    char byte = 'x';
    for (int exchange = 0; exchange < kEvidence; ++exchange) {
      if (send(fd, &byte, 1, 0) != 1 || recv(fd, &byte, 1, 0) != 1) Die("exchange");
    }
  }
  Say("offered");
  pause();
  return 8;
}

// In the tester: a program under the library and an agent of its own.
class Program {
 public:
  Program(const std::string& library, std::vector<std::string> arguments) {
    started_ = agent_.Start();
    int to[2], from[2];
    if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0) Die("pipe2");
    pid_ = fork();
    if (pid_ == 0) {
      dup2(to[0], 0);
      dup2(from[1], 1);
      setenv("LD_PRELOAD", library.c_str(), 1);
      setenv("HETEROSOCK_AGENT", agent_.path().c_str(), 1);
      std::vector<char*> argv = {const_cast<char*>("restart_test")};
      for (std::string& argument : arguments) argv.push_back(argument.data());
      argv.push_back(nullptr);
      execv("/proc/self/exe", argv.data());
      _exit(6);
    }
    close(to[0]);
    close(from[1]);
    to_ = to[1];
    said_ = fdopen(from[0], "r");
  }
  ~Program() {
    End(SIGKILL);
    std::fclose(said_);
    close(to_);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  bool started() const { return started_; }
  Agent& agent() { return agent_; }
  bool Hears() {
    char line[100];
    return std::fgets(line, sizeof line, said_) != nullptr;
  }
  bool Say(char word) { return write(to_, &word, 1) == 1; }
  // Its status, after this signal if it is one.
  int End(int signal = 0) {
    if (pid_ <= 0) return status_;
    if (signal != 0) kill(pid_, signal);
    waitpid(std::exchange(pid_, -1), &status_, 0);
    return status_;
  }

 private:
  Agent agent_;
  bool started_ = false;
  pid_t pid_ = -1;
  int to_ = -1, status_ = 0;
  FILE* said_ = nullptr;
};

bool Report(const char* what, bool right, int status) {
  std::printf("%s: %s: status %#x\n", right ? "ok" : "FAILED", what, static_cast<unsigned>(status));
  return right;
}

bool Talks(const std::string& library, const char* what) {
  Program program(library, {what});
  bool right = program.started() && program.Hears();
  program.agent().Stop();
  right = right && program.Say('s') && program.Hears();
  program.agent().Kill();
  right = right && program.agent().StartAgain() && program.Say('k');
  const int status = program.End(right ? 0 : SIGKILL);
  return Report(what, right && WIFEXITED(status) && WEXITSTATUS(status) == 0, status);
}

// What is said of channels by the agent that took the place of another one.
bool IsCounted(const std::string& library, const char* sleeps_in) {
  Program program(library, {"--counted", sleeps_in});
  bool right = program.started() && program.Hears();
  program.agent().Kill();
  right = right && program.agent().StartAgain();
  bool counted = false;
  for (const time_t end = time(nullptr) + kPatience; right && !counted && time(nullptr) < end; usleep(10'000)) {
    const absl::StatusOr<nlohmann::json> status = ctl::Ask(program.agent().admin(), {{"command", "status"}});
    counted = status.ok() && status->at("channels").size() == 1 && status->at("domains").size() == 1;
  }
  right = right && counted && program.Say('k');
  const int status = program.End(right ? 0 : SIGKILL);
  return Report((std::string("--counted ") + sleeps_in).c_str(), right && WIFEXITED(status) && WEXITSTATUS(status) == 0,
                status);
}

bool Killed(const std::string& library) {
  sockaddr_in address{};
  const int listener = Listen(address);
  Program program(library, {"--crowd", std::to_string(ntohs(address.sin_port))});
  bool right = program.started() && program.Hears();
  program.agent().Stop();
  right = right && program.Say('s');
  std::vector<pollfd> ends;
  for (int i = 0; right && i < kCrowd; ++i) {
    const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    char byte;
    for (int exchange = 0; exchange < kEvidence; ++exchange) {
      if (recv(fd, &byte, 1, 0) != 1 || send(fd, &byte, 1, 0) != 1) Die("exchange");
    }
    ends.push_back({fd, POLLIN, 0});
  }
  right = right && program.Hears();
  const int status = program.End(SIGKILL);
  // The agent still does not run: one of them may lie in its queue.
  int over = 0;
  while (right && over < kCrowd - 1 && poll(ends.data(), ends.size(), kPatience * 1000) > 0) {
    for (pollfd& end : ends) {
      if (end.revents == 0) continue;
      close(end.fd);
      end.fd = -1;
      ++over;
    }
  }
  for (const pollfd& end : ends) close(end.fd);
  close(listener);
  return Report("--crowd", over >= kCrowd - 1, status);
}

int Main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "--again") return Again();
  if (what == "--closed") return Closed(false);
  if (what == "--unread") return Closed(true);
  if (what == "--handed") return Handed();
  if (what == "--counted" && argc == 3) return Counted(argv[2]);
  if (what == "--crowd" && argc == 3) return Crowd(argv[2]);
  const std::string library = BesideThisProgram("../libheterosock.so");
  if (library.empty() || BesideThisProgram("../agent/heterosockd").empty()) {
    std::printf("the library or heterosockd is not built\n");
    return 77;
  }
  bool right = true;
  for (const char* talk : {"--again", "--closed", "--unread", "--handed"}) right = Talks(library, talk) && right;
  for (const char* call : {"recv", "poll", "epoll_wait"}) right = IsCounted(library, call) && right;
  return Killed(library) && right ? 0 : 1;
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) { return heterok8s::heterosock::behaviour::Main(argc, argv); }
