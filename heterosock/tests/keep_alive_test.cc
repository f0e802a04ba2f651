// keep_alive_test [-v]: a stateful firewall between the two ends forgets connections that are idle for two seconds. One
// that has moved is busy in shared memory for longer than that, and then ends: the other end hears of it, because the
// library keeps the TCP connection alive beneath. With HETEROSOCK_KEEP_ALIVE=0 it does not hear, which shows that the
// firewall is what it should be.
//
//   client ── lo ── nft: what conntrack does not know is dropped ── lo ── server      (a network namespace of the test)
//
// Needs root, nft and conntrack.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "heterosock/tests/agent.h"
#include "heterosock/tests/outcome.h"

namespace heterok8s::heterosock::behaviour {
namespace {

using Clock = std::chrono::steady_clock;
constexpr auto kBusy = std::chrono::seconds(6);
constexpr int kUnheard = 3, kHeard = 10;  // seconds to wait for an end that does not come, and for one that does

// A drop in `output` of lo would tell the sender (EPERM); one in `input` is as on a wire.
constexpr char kFirewall[] =
    "ip link set lo up && sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0"
    " net.netfilter.nf_conntrack_tcp_timeout_established=2 net.ipv4.tcp_keepalive_intvl=1 && nft 'add table ip f;"
    " add chain ip f i { type filter hook input priority 0; policy drop; };"
    " add rule ip f i ct state established accept;"
    " add rule ip f i ct state new tcp flags & (syn | ack) == syn accept'";

// `close` or `kill`; the client or the server.
struct Ending {
  const char* name;
  Role by;
  bool kills;
  bool kept;  // alive
};
constexpr Ending kEndings[] = {
    {"a server that closes", Role::kServer, false, true},
    {"a client that closes", Role::kClient, false, true},
    {"a server that is killed", Role::kServer, true, true},
    {"a client that is killed", Role::kClient, true, true},
    {"a server that closes, without keepalive", Role::kServer, false, false},
    {"a client that closes, without keepalive", Role::kClient, false, false},
};

void RunEnd(End& e, const Ending& how) {
  if (e.role == Role::kServer) {
    e.listener = e.Listen();
    e.Meet();
    e.sock = e.Accept();
  } else {
    e.Meet();
    e.sock = e.Connect();
  }
  e.Warm(e.sock);
  e.NoteMoved(e.sock);
  const auto end = Clock::now() + kBusy;
  char byte = 'b';
  while (byte == 'b') {
    if (e.role == Role::kClient) {
      byte = Clock::now() < end ? 'b' : 'e';
      e.SendAll(e.sock, std::string(1, byte));
      if (e.RecvAll(e.sock, 1).empty()) _exit(4);
      usleep(10'000);
    } else {
      const std::string got = e.RecvAll(e.sock, 1);
      if (got.empty()) _exit(4);
      byte = got[0];
      e.SendAll(e.sock, got);
    }
  }
  if (e.role == how.by) {
    if (how.kills) kill(getpid(), SIGKILL);
    close(e.sock);
    _exit(0);
  }
  const timeval limit{how.kept ? kHeard : kUnheard, 0};
  setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  const ssize_t n = recv(e.sock, &byte, 1, 0);
  e.Say("heard %s", n == 0 ? "the end" : n > 0 ? "a byte" : strerrorname_np(errno));
  _exit(0);
}

int Main(int argc, char** argv) {
  if (argc == 6 && !std::strcmp(argv[1], "--end")) {
    End end(argv[2][0] == 's' ? Role::kServer : Role::kClient, AF_INET, true);
    RunEnd(end, kEndings[std::atoi(argv[5])]);
  }
  const bool verbose = argc == 2 && !std::strcmp(argv[1], "-v");
  if (geteuid() != 0 || unshare(CLONE_NEWNET) != 0) {
    std::printf("no right to make a network namespace\n");
    return 77;
  }
  if (std::system(kFirewall) != 0) {
    std::printf("FAIL  the firewall cannot be made\n");
    return 1;
  }
  Agent agent;
  Preload preload{BesideThisProgram("../libheterosock.so"), {}};
  if (preload.library.empty() || !agent.Start()) {
    std::printf("no library or no agent: nothing is shared\n");
    return 77;
  }
  preload.agent = agent.path();
  std::vector<Outcome> outcomes(std::size(kEndings));
  std::vector<std::thread> runs;
  for (size_t i = 0; i < std::size(kEndings); ++i) {
    Preload its = preload;
    its.extra = {std::string("HETEROSOCK_KEEP_ALIVE=") + (kEndings[i].kept ? "1" : "0")};
    runs.emplace_back([&outcomes, i, its] {
      outcomes[i] = RunOnce(std::to_string(i),
                            {.name = "busy", .warm = true, .preload_server = true, .preload_client = true}, its);
    });
  }
  int failed = 0;
  for (size_t i = 0; i < std::size(kEndings); ++i) {
    runs[i].join();
    const size_t other = 1 - static_cast<size_t>(kEndings[i].by);
    const std::string& said = outcomes[i].said[other];
    const bool right = said == (kEndings[i].kept ? "heard the end\nexit 0\n" : "heard EAGAIN\nexit 0\n") &&
                       outcomes[i].moved[0] == 3 && outcomes[i].moved[1] == 3;
    failed += !right;
    std::printf("%-5s %s, after a busy while\n", right ? "ok" : "FAIL", kEndings[i].name);
    if (!right || verbose)
      std::printf("  %s  %s  %s\n", said.c_str(), outcomes[i].said[1 - other].c_str(), outcomes[i].output.c_str());
  }
  return failed != 0;
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) { return heterok8s::heterosock::behaviour::Main(argc, argv); }
