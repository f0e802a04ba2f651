// kill_sweep_test [--cycles N] [--library FILE]: kill -9 of a peer at any instruction, and nothing is left.
//
// One server lives through all cycles. In each it starts a client, which connects, streams a pattern and reads back
// what the server echoes, and is killed after a random time, so that clients die in every step of connecting, moving,
// filling and publishing. The server must see a beginning of the pattern and then an end or a reset. Afterwards the
// server's and the agent's descriptors and mappings are as many as after the first cycles, although programs still run
// that the server has started beside some of its connections.
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "heterosock/tests/agent.h"
#include "heterosock/tests/case.h"

extern char** environ;

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kSettleCycles = 40;  // until pools have their size
constexpr int kPatience = 60'000;  // milliseconds for the end of a dead client, and until the agent has heard of it

const std::string& Bytes() {
  static const std::string bytes = Pattern(1 << 20, 3);
  return bytes;
}

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

[[noreturn]] void Client(int port) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(port);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) _exit(1);
  std::string back(30'000, '\0');
  size_t at = 0;
  for (size_t i = 0;; ++i) {
    size_t n = std::min(size_t{1} + i * 7919 % 9000, Bytes().size() - at);
    ssize_t sent = send(fd, Bytes().data() + at, n, MSG_NOSIGNAL);
    if (sent <= 0) _exit(1);
    at = (at + static_cast<size_t>(sent)) % Bytes().size();
    recv(fd, back.data(), back.size(), MSG_DONTWAIT);
  }
}

constexpr unsigned kShortestLife = 10'000, kLongestLife = 320'000;  // of a client, in microseconds, at most
constexpr size_t kBeside = 20;  // programs that the server starts: a connection that each kept would be seen
constexpr int kLately = 16;     // cycles after which that is thought over

struct Held {
  long descriptors = 0, mappings = 0;
};

Held Count(pid_t pid) {
  Held held;
  std::error_code ignored;
  std::string proc = "/proc/" + std::to_string(pid);
  for ([[maybe_unused]] const auto& each : std::filesystem::directory_iterator(proc + "/fd", ignored))
    ++held.descriptors;
  std::ifstream maps(proc + "/maps");
  held.mappings = std::count(std::istreambuf_iterator<char>(maps), {}, '\n');
  return held;
}

bool Grew(const char* who, const Held& before, pid_t pid) {
  Held after;
  const auto more = [&] {
    after = Count(pid);
    return after.descriptors > before.descriptors + 8 || after.mappings > before.mappings + 16;
  };
  for (int waited = 0; more() && waited < kPatience; waited += 100) usleep(100'000);
  std::printf("# %s: %ld descriptors, %ld mappings; after the first cycles %ld, %ld\n", who, after.descriptors,
              after.mappings, before.descriptors, before.mappings);
  return more();
}

struct Seen {
  size_t bytes = 0;
  bool moved = false;
  const char* wrong = nullptr;
};

// By fork and exec, as servers start their helpers. Returns when it runs, and has none of our connections any more.
pid_t StartBeside() {
  int started[2];
  if (pipe2(started, O_CLOEXEC) != 0) return -1;
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    execlp("sleep", "sleep", "infinity", static_cast<char*>(nullptr));
    _exit(1);
  }
  close(started[1]);
  char byte;
  const ssize_t n = read(started[0], &byte, 1);
  close(started[0]);
  return n == 0 ? child : -1;
}

// Everything that a client wrote until it died. A connection that moved has a program started beside it while they are
// fewer than `most`.
Seen ReadAll(int fd, std::vector<pid_t>& beside, size_t most) {
  static auto* moved = reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "heterosock_moved"));
  Seen seen;
  std::string buffer(20'000, '\0');
  while (true) {
    pollfd one{fd, POLLIN, 0};
    if (poll(&one, 1, kPatience) <= 0) return seen.wrong = "the end of the dead client did not come", seen;
    ssize_t n = recv(fd, buffer.data(), buffer.size(), 0);
    if (n <= 0) {
      if (n < 0 && errno != ECONNRESET) seen.wrong = strerrorname_np(errno);
      return seen;
    }
    const bool moves = !seen.moved && moved && (moved(fd) & 2);
    if (moves && beside.size() < most) beside.push_back(StartBeside());
    seen.moved |= moves;
    for (ssize_t i = 0; i < n; ++i) {
      if (buffer[static_cast<size_t>(i)] != Bytes()[(seen.bytes + static_cast<size_t>(i)) % Bytes().size()])
        return seen.wrong = "a byte that the client did not send", seen;
    }
    seen.bytes += static_cast<size_t>(n);
    send(fd, buffer.data(), static_cast<size_t>(n), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
}

int Serve(int cycles, pid_t agent) {
  signal(SIGPIPE, SIG_IGN);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in address = Loopback(0);
  socklen_t length = sizeof address;
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(listener, 16) != 0) return 1;
  getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
  std::string port = std::to_string(ntohs(address.sin_port)), self = "/proc/self/exe";

  std::mt19937 random(std::random_device{}());
  Held mine, agents;
  int moved = 0, moved_lately = 0, failed = 0, reached = 0;
  unsigned window = kShortestLife;
  std::vector<pid_t> beside;
  for (int cycle = 1; cycle <= cycles && failed < 3; ++cycle) {
    if (cycle == std::min(kSettleCycles, cycles / 2)) mine = Count(getpid()), agents = Count(agent);
    char* argv[] = {self.data(), const_cast<char*>("--client"), port.data(), nullptr};
    pid_t client = -1;
    if (posix_spawn(&client, self.c_str(), nullptr, nullptr, argv, environ) != 0) return 1;
    std::thread killer([client, after = random() % window] {
      usleep(after);
      kill(client, SIGKILL);
      waitpid(client, nullptr, 0);
    });
    // A client that died before it connected is none to the server; one that was slow is not left for the next cycle,
    // which would then see the death of its own too late.
    bool killed = false;
    for (unsigned i = 0; !killed; ++i) {
      pollfd one{listener, POLLIN, 0};
      poll(&one, 1, 1);
      if (i >= window / 1000 + 5) killer.join(), killed = true;
      const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      Seen seen = ReadAll(fd, beside, mine.descriptors > 0 ? kBeside : 0);
      close(fd);
      ++reached;
      moved += seen.moved;
      moved_lately += seen.moved;
      if (seen.wrong) {
        std::printf("cycle %d, after %zu bytes: %s\n", cycle, seen.bytes, seen.wrong);
        ++failed;
      }
      if (!killed) killer.join(), killed = true;
    }
    if (cycle % kLately == 0) {
      // Some die before they move, some after, however slow the machine is.
      if (moved_lately < kLately / 4) window = std::min(window * 2, kLongestLife);
      if (moved_lately > kLately / 2) window = std::max(window / 2, kShortestLife);
      moved_lately = 0;
    }
  }
  if (std::count(beside.begin(), beside.end(), -1) != 0) ++failed;
  if (Grew("server", mine, getpid())) ++failed;
  if (agent > 0 && Grew("agent", agents, agent)) ++failed;
  if (agent > 0 && moved == 0) {
    std::printf("no connection moved: nothing was tried\n");
    ++failed;
  }
  for (pid_t each : beside) {
    if (each <= 0) continue;
    kill(each, SIGKILL);
    waitpid(each, nullptr, 0);
  }
  std::printf("# %d cycles, %d connected, %d on shared memory: %s\n", cycles, reached, moved, failed ? "FAILED" : "ok");
  std::fflush(stdout);
  return failed != 0;
}

int Main(int argc, char** argv) {
  if (argc == 3 && !std::strcmp(argv[1], "--client")) Client(std::atoi(argv[2]));
  if (argc == 4 && !std::strcmp(argv[1], "--server")) return Serve(std::atoi(argv[2]), std::atoi(argv[3]));
  std::string library = BesideThisProgram("../libheterosock.so"), cycles = "400";
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--library" && i + 1 < argc)
      library = argv[++i];
    else if (word == "--cycles" && i + 1 < argc)
      cycles = argv[++i];
    else
      return 2;
  }
  Agent agent;
  if (!library.empty() && agent.Start()) setenv("HETEROSOCK_AGENT", agent.path().c_str(), 1);
  if (!library.empty()) setenv("LD_PRELOAD", library.c_str(), 1);
  std::string pid = std::to_string(agent.pid());
  char* words[] = {argv[0], const_cast<char*>("--server"), cycles.data(), pid.data(), nullptr};
  pid_t server = -1;
  if (posix_spawn(&server, "/proc/self/exe", nullptr, nullptr, words, environ) != 0) return 1;
  int status = -1;
  waitpid(server, &status, 0);
  if (status != 0) std::printf("the server ended with %#x\n", static_cast<unsigned>(status));
  return status != 0;
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) { return heterok8s::heterosock::behaviour::Main(argc, argv); }
