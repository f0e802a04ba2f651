// stall_test [--library FILE] [--only TEXT] [-v]: a peer that keeps calls of the library waiting which on TCP wait for
// nobody.
//
// Victim (server) and attacker (client) are processes with the library whose connections have moved. The victim makes
// many such calls; one that waited in each for as long as the library waits at all would not be done when the run is
// over, and is HUNG. What honest ends have sent must be there, every byte of it.
//
// All waits for one address may take a second in half a minute, and 0.2 ms each (stream/patience.h, whose test counts
// by a clock of its own). A waiting thread runs, so its processor time is no more than that, whatever else the machine
// does: it is what is checked here.
#include <dlfcn.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "heterosock/tests/agent.h"
#include "heterosock/tests/channels.h"
#include "heterosock/tests/outcome.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr char kLeft[] = "lies in the ring", kLater[] = "follows";

struct Stall {
  const char* name;
  void (*victim)(End&);
  void (*attacker)(End&);
};

constexpr int kCalls = 50;

double CpuMs() {
  timespec used{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) * 1e3 + static_cast<double>(used.tv_nsec) / 1e6;
}

// The processor time of a thread's waits.
class Waits {
 public:
  // A second, what comes back of it until the run would be HUNG, the free moments, and as much again for the calls.
  bool Bounded() const { return CpuMs() - began_ < 2500; }

 private:
  const double began_ = CpuMs();
};

// Each of these calls brings the connection back to TCP first.
void CallsManyTimes(End& e) {
  e.sock = e.Accept();
  e.Warm(e.sock);
  e.Meet();
  e.AwaitBytes(e.sock, sizeof kLeft - 1);
  e.Meet();
  char byte;
  const Waits waits;
  for (int i = 0; i < kCalls; ++i) recv(e.sock, &byte, 1, MSG_OOB);
  if (!waits.Bounded()) e.Say("waited too long");
  e.Meet();
  e.Say("whole %d", e.RecvAll(e.sock, sizeof kLeft + sizeof kLater - 2) == std::string(kLeft) + kLater);
}

// It has bytes in the ring and says that it is bringing them back, but only when the victim has asked.
void ComesBackLate(End& e) {
  e.sock = e.Connect();
  e.Warm(e.sock);
  const std::vector<Mapping> channels = Channels();
  e.Say("channels %zu", channels.size());
  if (channels.size() != 1) return;
  e.Meet();
  e.SendAll(e.sock, kLeft);
  e.Meet();
  layout::SideLines &own = Mine(channels[0]), &its = Mine(channels[0], false);
  while ((its.wait.flags.load() & layout::kFlagWantTcp) == 0) {
  }
  uint32_t nobody = 0;
  const bool first = own.control.returning.compare_exchange_strong(nobody, layout::kSenderReturns);
  e.Meet();
  if (first) own.control.returning.store(0);
  e.SendAll(e.sock, kLater);
}

constexpr int kAttacked = 60;
constexpr size_t kMuch = 100'000;

// Half of them are closed, the others brought back to TCP, beside two that are honest: one of this process with itself,
// and one with the attacker's process, whose address has nothing left by then.
void EndsMany(End& e) {
  std::vector<int> attacked;
  for (int i = 0; i < kAttacked; ++i) e.Warm(attacked.emplace_back(e.Accept()));
  e.Meet();
  e.Meet();
  e.sock = e.Accept();
  e.Warm(e.sock);
  e.Meet();
  e.AwaitBytes(e.sock, kMuch);
  const int inner = e.Listen(), left = e.Connect(), right = e.Accept(inner), one = 1;
  bool good = true;
  const Waits waits;
  for (int i = 0; i < kAttacked; ++i) {
    const int fd = attacked[static_cast<size_t>(i)];
    char byte;
    if (i % 2 == 0) {
      setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &one, sizeof one);
      good = good && recv(fd, &byte, 1, MSG_DONTWAIT) == -1 && errno == ECONNRESET;
    }
    close(fd);
    e.SendAll(left, Pattern(500, static_cast<uint32_t>(i)));
    good = good && e.RecvAll(right, 500) == Pattern(500, static_cast<uint32_t>(i));
  }
  setsockopt(e.sock, SOL_SOCKET, SO_OOBINLINE, &one, sizeof one);
  if (!waits.Bounded()) e.Say("waited too long");
  e.Meet();
  good = good && e.RecvAll(e.sock, 2 * kMuch) == Pattern(2 * kMuch);
  e.SendAll(e.sock, Pattern(kMuch));
  e.Say("whole %d", good);
  e.Meet();
}

// It says of each other connection that the agent brings the victim's bytes back, of the rest that it brings its own.
void NeverComesBack(End& e) {
  for (int i = 0; i < kAttacked; ++i) e.Warm(e.Connect());
  const std::vector<Mapping> channels = Channels();
  e.Say("channels %zu", channels.size());
  e.Meet();
  for (size_t i = 0; i < channels.size(); ++i) {
    layout::SideLines &own = Mine(channels[i]), &its = Mine(channels[i], false);
    if (i % 2 != 0) {
      own.control.returning.store(layout::kSenderReturns);
      continue;
    }
    its.control.returning.store(layout::kAgentReturns);
    own.control.recall_at.store(own.receiver.head.load() + 1);
    own.wait.flags.fetch_or(layout::kFlagWantTcp);
  }
  e.Meet();
  e.sock = e.Connect();
  e.Warm(e.sock);
  e.SendAll(e.sock, Pattern(2 * kMuch).substr(0, kMuch));
  e.Meet();
  e.Meet();
  e.SendAll(e.sock, Pattern(2 * kMuch).substr(kMuch));
  e.Say("answer %d", e.RecvAll(e.sock, kMuch) == Pattern(kMuch));
  e.Meet();
}

// What the sender writes while it comes back to TCP.
void SendCopies(End& e, const std::vector<Mapping>& channels) {
  Mine(channels[0]).control.returning.store(layout::kSenderReturns);
  using SendCall = ssize_t (*)(int, const void*, size_t, int);
  const auto libcs = reinterpret_cast<SendCall>(dlsym(dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD), "send"));
  e.Say("copies %zd", libcs(e.sock, kLeft, 3, 0));
}

// For more than is there: on TCP the end of the stream ends the wait.
void PeeksForAll(End& e) {
  e.sock = e.Accept();
  e.Warm(e.sock);
  e.Meet();
  e.Meet();
  std::string bytes(2 * sizeof kLeft, '\0');
  const ssize_t n = recv(e.sock, bytes.data(), bytes.size(), MSG_PEEK | MSG_WAITALL);
  e.Say("whole %d", n > 0 && bytes.substr(0, static_cast<size_t>(n)) == kLeft);
}

// Bytes lie in the ring, a part of them on TCP too; where TCP goes on it never says.
void DiesOnItsWayBack(End& e) {
  e.sock = e.Connect();
  e.Warm(e.sock);
  const std::vector<Mapping> channels = Channels();
  e.Say("channels %zu", channels.size());
  if (channels.size() != 1) return;
  e.Meet();
  e.SendAll(e.sock, kLeft);
  SendCopies(e, channels);
  e.Meet();
  _exit(0);
}

constexpr int kWaitMs = 300;
constexpr double kIdleMs = 20;  // of the CPU: looking before a sleep takes far less

// As on TCP, nothing that the program may read: it sleeps in poll, and then in recv until the other end closes.
void WaitsIdle(End& e) {
  e.sock = e.Accept();
  e.Warm(e.sock);
  e.Meet();
  const std::string left = e.RecvAll(e.sock, sizeof kLeft - 1);
  e.Meet();
  e.Meet();
  pollfd one{e.sock, POLLIN, 0};
  double before = CpuMs();
  const int polled = poll(&one, 1, kWaitMs);
  const double in_poll = CpuMs() - before;
  e.Meet();
  char byte;
  before = CpuMs();
  const ssize_t n = recv(e.sock, &byte, 1, 0);
  const double in_recv = CpuMs() - before;
  e.Say("whole %d", left == kLeft && polled == 0 && n == 0 && in_poll < kIdleMs && in_recv < kIdleMs);
}

// Copies lie on TCP, and it does not say where TCP goes on.
void IsLongOnItsWayBack(End& e) {
  e.sock = e.Connect();
  e.Warm(e.sock);
  const std::vector<Mapping> channels = Channels();
  e.Say("channels %zu", channels.size());
  if (channels.size() != 1) return;
  e.Meet();
  e.SendAll(e.sock, kLeft);
  e.Meet();
  SendCopies(e, channels);
  e.Meet();
  e.Meet();
  Sleep(kWaitMs);
  _exit(0);
}

// As on TCP, the end of the stream, wherever it is asked for.
void ReadsNoMore(End& e) {
  e.sock = e.Accept();
  e.Warm(e.sock);
  e.Meet();
  const std::string left = e.RecvAll(e.sock, sizeof kLeft - 1);
  e.Meet();
  e.Meet();
  const double before = CpuMs();
  shutdown(e.sock, SHUT_RD);
  pollfd one{e.sock, POLLIN, 0};
  const bool polled = poll(&one, 1, -1) == 1 && one.revents == POLLIN;
  epoll_event event{EPOLLIN, {}};
  const int ep = epoll_create1(0);
  epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event);
  const bool told = epoll_wait(ep, &event, 1, -1) == 1 && event.events == EPOLLIN;
  char byte;
  const ssize_t looked = recv(e.sock, &byte, 1, MSG_DONTWAIT), peeked = recv(e.sock, &byte, 1, MSG_PEEK | MSG_WAITALL),
                n = recv(e.sock, &byte, 1, 0);
  const bool idle = CpuMs() - before < kIdleMs;
  e.Say("whole %d", left == kLeft && polled && told && looked == 0 && peeked == 0 && n == 0 && idle);
  e.Meet();
}

// It says that it is coming back, and does not.
void NeverArrives(End& e) {
  e.sock = e.Connect();
  e.Warm(e.sock);
  const std::vector<Mapping> channels = Channels();
  e.Say("channels %zu", channels.size());
  if (channels.size() != 1) return;
  e.Meet();
  e.SendAll(e.sock, kLeft);
  e.Meet();
  SendCopies(e, channels);
  e.Meet();
  e.Meet();
}

constexpr Stall kStalls[] = {
    {"does not come back while the victim calls and calls", CallsManyTimes, ComesBackLate},
    {"comes back on none of many connections", EndsMany, NeverComesBack},
    {"dies on its way back while the victim peeks for more", PeeksForAll, DiesOnItsWayBack},
    {"is on its way back for long while the victim waits", WaitsIdle, IsLongOnItsWayBack},
    {"is on its way back for ever while the victim has shut its reading", ReadsNoMore, NeverArrives},
};

int Main(int argc, char** argv) {
  if (argc == 6 && !std::strcmp(argv[1], "--end")) {
    End e(argv[2][0] == 's' ? Role::kServer : Role::kClient, AF_INET, true);
    const Stall& stall = kStalls[std::atoi(argv[5])];
    if (e.role == Role::kServer) e.listener = e.Listen();
    e.Meet();
    (e.role == Role::kServer ? stall.victim : stall.attacker)(e);
    return 0;
  }
  Preload preload{BesideThisProgram("../libheterosock.so"), {}};
  std::string only;
  bool verbose = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--library" && i + 1 < argc)
      preload.library = argv[++i];
    else if (word == "--only" && i + 1 < argc)
      only = argv[++i];
    else if (word == "-v")
      verbose = true;
    else
      return 2;
  }
  Agent agent;
  if (preload.library.empty() || !agent.Start()) {
    std::printf("no library or no agent: nothing is shared\n");
    return 77;
  }
  preload.agent = agent.path();
  int failed = 0, runs = 0;
  for (size_t i = 0; i < std::size(kStalls); ++i) {
    if (std::string(kStalls[i].name).find(only) == std::string::npos) continue;
    const Outcome outcome = RunOnce(
        std::to_string(i), {.name = "stall", .warm = true, .preload_server = true, .preload_client = true}, preload);
    const bool moved = outcome.said[1].find("channels 0") == std::string::npos;
    const bool right =
        moved && outcome.said[0] == "whole 1\nexit 0\n" && outcome.said[1].find("exit 0\n") != std::string::npos;
    ++runs;
    failed += !right;
    std::printf("%-5s a peer that %s%s\n", right ? "ok" : "FAIL", kStalls[i].name,
                moved ? "" : ": the connection stayed on TCP");
    if (!right || verbose)
      std::printf("  victim: %s\n  attacker: %s\n%s\n", outcome.said[0].c_str(), outcome.said[1].c_str(),
                  outcome.output.c_str());
    std::fflush(stdout);
  }
  std::printf("# %d peers, %d stopped the victim\n", runs, failed);
  return failed || runs == 0 ? 1 : 0;
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) { return heterok8s::heterosock::behaviour::Main(argc, argv); }
