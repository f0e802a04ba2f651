// kill_sweep_test [--cycles N] [--library FILE]: kill -9 of a peer at any instruction, and nothing is left.
//
// One process, the server, lives through all cycles. In each it starts another one, the peer, which streams a pattern
// and reads back what the server echoes, and is killed after a random time, so that peers die in every step of
// connecting, moving, filling and publishing. The peer is the end that connects or the one that accepts, and either end
// waits by poll or by epoll, level- or edge-triggered: cycles take turns with all of these. The server must see a
// beginning of the pattern and then an end or a reset. Afterwards the server's and the agent's descriptors, mappings
// and memfds are as many as after the first cycles, and the agent knows of no channel and no offer, although programs
// still run that the server has started beside some of its connections.
#include <arpa/inet.h>
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
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "heterosock/ctl/admin_client.h"
#include "heterosock/tests/agent.h"
#include "heterosock/tests/kill_sweep.h"

extern char** environ;

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr unsigned kShortestLife = 10'000, kLongestLife = 320'000;  // of a peer, in microseconds, at most
constexpr size_t kBeside = 20;  // programs that the server starts: a connection that each kept would be seen
constexpr int kLately = 16;     // cycles after which that is thought over

struct Kind {
  bool accepts;  // the peer
  Way peer, server;
};
constexpr int kKinds = 2 * kWays * kWays;
constexpr Kind KindOf(int cycle) {
  return {cycle % 2 == 1, static_cast<Way>(cycle / 2 % kWays), static_cast<Way>(cycle / 2 / kWays % kWays)};
}
constexpr int kSettleCycles = 2 * kKinds;  // until pools have their size
constexpr int kTriedCycles = 10 * kKinds;  // in so many each kind of peer moves at least once

struct Listener {
  int fd = -1;
  int port = 0;
};

Listener Listen(int flags) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  const int fd = socket(AF_INET, SOCK_STREAM | flags, 0);
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(fd, 16) != 0) std::abort();
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  return {fd, ntohs(address.sin_port)};
}

int Connect(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0) return fd;
  close(fd);
  return -1;
}

// WAY PORT, or WAY PORT LISTENER
[[noreturn]] void Peer(int argc, char** words) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int fd =
      argc == 2 ? Connect(std::atoi(words[1])) : accept4(std::atoi(words[2]), nullptr, nullptr, SOCK_CLOEXEC);
  if (fd < 0) _exit(1);
  Stream(fd, static_cast<Way>(std::atoi(words[0])));
}

class Killer {
 public:
  Killer(pid_t pid, unsigned after)
      : thread_([this, pid, after] {
          usleep(after);
          kill(pid, SIGKILL);
          waitpid(pid, nullptr, 0);
          dead_ = true;
        }) {}
  ~Killer() { thread_.join(); }
  bool dead() const { return dead_; }

 private:
  std::atomic<bool> dead_ = false;
  std::thread thread_;
};

// One that died before it connected is none to the server; one that was slow is not left for the next cycle, which
// would then see the death of its own too late.
int Accept(int listener, const Killer& killer) {
  while (true) {
    pollfd one{listener, POLLIN, 0};
    poll(&one, 1, 1);
    const bool dead = killer.dead();
    const int fd = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd >= 0 || dead) return fd;
  }
}

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

// The agent learns of what is said to it when it gets to that.
bool NothingLeft(const std::string& admin) {
  nlohmann::json totals;
  for (int waited = 0; waited < kPatience; waited += 100) {
    absl::StatusOr<nlohmann::json> status = ctl::Ask(admin, {{"command", "status"}});
    if (status.ok()) totals = (*status)["totals"];
    if (status.ok() && totals["channels"] == 0 && totals["waiting_offers"] == 0) return true;
    usleep(100'000);
  }
  std::printf("the agent knows of something still: %s\n", totals.dump().c_str());
  return false;
}

struct Sweep {
  int reached = 0, moved = 0, failed = 0;
  int kinds[2] = {}, peers[kWays] = {}, servers[kWays] = {};  // that moved
  std::vector<pid_t> beside;

  void Add(int cycle, const Kind& kind, const Seen& seen) {
    ++reached;
    if (seen.moved) ++moved, ++kinds[kind.accepts], ++peers[int(kind.peer)], ++servers[int(kind.server)];
    if (seen.wrong == nullptr) return;
    std::printf("cycle %d (peer %s, %d; server %d), after %zu bytes: %s\n", cycle,
                kind.accepts ? "accepts" : "connects", int(kind.peer), int(kind.server), seen.bytes, seen.wrong);
    ++failed;
  }
  bool TriedAll() const {
    const auto none = [](int n) { return n == 0; };
    return std::none_of(kinds, std::end(kinds), none) && std::none_of(peers, std::end(peers), none) &&
           std::none_of(servers, std::end(servers), none);
  }
};

// The connection with a peer of this kind, and how it ended.
void RunCycle(int cycle, const Listener& own, unsigned life, size_t most_beside, Sweep& sweep) {
  const Kind kind = KindOf(cycle);
  const Listener listener = kind.accepts ? Listen(0) : own;
  std::string self = "/proc/self/exe", way = std::to_string(int(kind.peer)), port = std::to_string(listener.port),
              inherited = std::to_string(listener.fd);
  char* argv[] = {
      self.data(), const_cast<char*>("--peer"), way.data(), port.data(), kind.accepts ? inherited.data() : nullptr,
      nullptr};
  pid_t peer = -1;
  if (posix_spawn(&peer, self.c_str(), nullptr, nullptr, argv, environ) != 0) std::abort();
  if (kind.accepts) close(listener.fd);
  const Killer killer(peer, life);
  const int fd = kind.accepts ? Connect(listener.port) : Accept(listener.fd, killer);
  if (fd < 0) return;
  sweep.Add(cycle, kind, ReadAll(fd, kind.server, [&] {
              if (sweep.beside.size() < most_beside) sweep.beside.push_back(StartBeside());
            }));
  close(fd);
}

int Serve(int cycles, pid_t agent, const std::string& admin) {
  signal(SIGPIPE, SIG_IGN);
  const Listener listener = Listen(SOCK_CLOEXEC | SOCK_NONBLOCK);
  std::mt19937 random(std::random_device{}());
  Held mine, agents;
  Sweep sweep;
  int moved_before = 0;
  unsigned window = kShortestLife;
  for (int cycle = 1; cycle <= cycles && sweep.failed < 3; ++cycle) {
    if (cycle == std::min(kSettleCycles, cycles / 2)) mine = Count(getpid()), agents = Count(agent);
    RunCycle(cycle, listener, random() % window, mine.descriptors > 0 ? kBeside : 0, sweep);
    if (cycle % kLately == 0) {
      // Some die before they move, some after, however slow the machine is.
      const int lately = sweep.moved - moved_before;
      if (lately < kLately / 4) window = std::min(window * 2, kLongestLife);
      if (lately > kLately / 2) window = std::max(window / 2, kShortestLife);
      moved_before = sweep.moved;
    }
  }
  if (std::count(sweep.beside.begin(), sweep.beside.end(), -1) != 0) ++sweep.failed;
  if (Grew("server", mine, getpid())) ++sweep.failed;
  if (agent > 0) {
    if (Grew("agent", agents, agent)) ++sweep.failed;
    if (!NothingLeft(admin)) ++sweep.failed;
    if (sweep.moved == 0 || (cycles >= kTriedCycles && !sweep.TriedAll())) {
      std::printf("of some kind no connection moved: it was not tried\n");
      ++sweep.failed;
    }
  }
  for (pid_t each : sweep.beside) {
    if (each <= 0) continue;
    kill(each, SIGKILL);
    waitpid(each, nullptr, 0);
  }
  std::printf(
      "# moved: %d from peers that connected, %d that accepted; by poll, epoll and its edges %d, %d, %d peers, "
      "%d, %d, %d here\n",
      sweep.kinds[0], sweep.kinds[1], sweep.peers[0], sweep.peers[1], sweep.peers[2], sweep.servers[0],
      sweep.servers[1], sweep.servers[2]);
  std::printf("# %d cycles, %d connected, %d on shared memory: %s\n", cycles, sweep.reached, sweep.moved,
              sweep.failed ? "FAILED" : "ok");
  std::fflush(stdout);
  return sweep.failed != 0;
}

int Main(int argc, char** argv) {
  if (argc >= 4 && !std::strcmp(argv[1], "--peer")) Peer(argc - 2, argv + 2);
  if (argc == 5 && !std::strcmp(argv[1], "--server")) return Serve(std::atoi(argv[2]), std::atoi(argv[3]), argv[4]);
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
  std::string pid = std::to_string(agent.pid()), admin = agent.admin();
  char* words[] = {argv[0], const_cast<char*>("--server"), cycles.data(), pid.data(), admin.data(), nullptr};
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
