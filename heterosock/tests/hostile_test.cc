// hostile_test [--library FILE] [--rounds N] [--only TEXT] [-v]: a peer that writes whatever it can into the shared
// memory.
//
// The victim (server) and the attacker (client) are processes with the library and one connection that has moved. The
// attacker, of the same user and the same Pod, finds the channel in its own mappings and forges, floods, freezes, maps
// anew, truncates and dies. Meanwhile the victim sends, receives and polls, and uses another connection of its own. The
// victim must not crash and not hang, must never receive a byte that it sent itself, and its other connection must not
// notice. What becomes of the attacked connection is the attacker's affair: data, an end or a reset.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <sstream>
#include <thread>

#include "heterosock/tests/agent.h"
#include "heterosock/tests/channels.h"
#include "heterosock/tests/outcome.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr char kVictims = 'V';  // every byte the victim sends to the attacker; the attacker never sends one
constexpr auto kAttackTime = std::chrono::milliseconds(150);

using Attack = std::function<void(End&, const Mapping&, std::mt19937_64&)>;

uint64_t Evil(std::mt19937_64& random) {
  static constexpr uint64_t kValues[] = {
      0,          1,          2,          127,   4096,         1 << 17,   1 << 20, (1 << 20) + 1,
      1ull << 31, 1ull << 32, 1ull << 62, ~0ull, ~0ull - 4096, ~0ull >> 1};
  return random() % 3 ? kValues[random() % std::size(kValues)] : random();
}

// Writes to `field` again and again until the time is over.
template <typename T>
void Forge(std::atomic<T>& field, std::mt19937_64& random) {
  auto end = std::chrono::steady_clock::now() + kAttackTime;
  while (std::chrono::steady_clock::now() < end) {
    T value = static_cast<T>(random() % 2 ? Evil(random) : field.load() + Evil(random) % (4 << 20));
    field.store(value);
    if (random() % 4 == 0) usleep(100);
  }
}

struct Named {
  const char* name;
  Attack attack;
  bool before = false;  // the victim begins when it is over; what it sends then is taken
  bool slow = false;    // and it is no attack, but an agent that takes its time
  bool blocks = false;  // and the victim's calls may block
};

constexpr size_t kSent = 3000;

void SayAgentReturns(End&, const Mapping& mapping, std::mt19937_64&) {
  layout::SideLines &its = Mine(mapping, false), &own = Mine(mapping);
  its.control.returning.store(layout::kAgentReturns);
  own.control.recall_at.store(own.receiver.head.load() + 1);
  own.wait.flags.fetch_or(layout::kFlagWantTcp);
}

// The attacker's part of such an agent: it writes nothing itself, so that the victim brings everything back.
void BeSlow(End& e, const Mapping& mapping) {
  layout::SideLines &its = Mine(mapping, false), &own = Mine(mapping);
  Sleep(100);
  its.control.returned_to.store(own.control.recall_at.load());
  // The victim only waits by now: it has to notice by itself.
  for (int i = 0; i < 60'000 && its.control.continue_at.load() == 0; ++i) Sleep(1);
  const std::string bytes = e.RecvAll(e.sock, 2 * kSent);
  e.Say("whole %d", bytes == std::string(2 * kSent, kVictims));
}

// Both sides' lines: the attacker may write the victim's too, since both are in one memory.
#define FORGE(line, field)                                                                        \
  Named{"forges " #line "." #field " of side 0",                                                  \
        [](End&, const Mapping& m, auto& random) { Forge(Page(m).side[0].line.field, random); }}, \
      Named {                                                                                     \
    "forges " #line "." #field " of side 1",                                                      \
        [](End&, const Mapping& m, auto& random) { Forge(Page(m).side[1].line.field, random); }   \
  }

const Named kAttacks[] = {
    FORGE(sender, tail),
    FORGE(sender, ring_base),
    FORGE(sender, ring_size),
    FORGE(receiver, head),
    FORGE(wait, rx_sleep),
    FORGE(wait, rx_patient),
    FORGE(wait, corks),
    FORGE(wait, tx_sleep),
    FORGE(wait, flags),
    FORGE(wait, cpu),
    FORGE(wait, rang_at),
    FORGE(control, switch_at),
    FORGE(control, continue_at),
    FORGE(control, armed_epoch),
    FORGE(counters, pid),
    {"floods the page with one value",
     [](End&, const Mapping& m, auto& random) {
       std::memset(m.at, static_cast<int>(random() % 256), sizeof(layout::ChannelPage));
     }},
    {"floods the lines with noise, over and over",
     [](End&, const Mapping& m, auto& random) {
       auto end = std::chrono::steady_clock::now() + kAttackTime;
       while (std::chrono::steady_clock::now() < end) {
         auto* words = reinterpret_cast<uint64_t*>(Page(m).side);
         words[random() % (sizeof Page(m).side / 8)] = Evil(random);
       }
     }},
    {"replays an old page",
     [](End& e, const Mapping& m, auto&) {
       layout::ChannelPage old;
       std::memcpy(static_cast<void*>(&old), m.at, sizeof old);
       char bytes[5000];
       std::memset(bytes, 'a', sizeof bytes);
       for (int i = 0; i < 20; ++i) {
         send(e.sock, bytes, sizeof bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
         recv(e.sock, bytes, sizeof bytes, MSG_DONTWAIT);
         std::memset(bytes, 'a', sizeof bytes);
         usleep(1000);
       }
       std::memcpy(m.at, static_cast<void*>(&old), sizeof old);
     }},
    {"truncates and punches the memory",
     [](End& e, const Mapping& m, auto&) {
       for (const std::string& folder : {std::string("/proc/self/fd/"), std::string("/proc/self/map_files/")}) {
         std::string name;
         if (folder.find("map_files") != std::string::npos) {
           std::ostringstream text;
           text << folder << std::hex << reinterpret_cast<uintptr_t>(m.at) << "-"
                << reinterpret_cast<uintptr_t>(m.at) + m.size;
           name = text.str();
           int fd = open(name.c_str(), O_RDWR);
           if (fd < 0) continue;
           e.Say("truncate %d", ftruncate(fd, 0));
           fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(m.size));
           close(fd);
           continue;
         }
         for (int fd = 3; fd < 4096; ++fd) {
           char target[256];
           ssize_t n = readlink((folder + std::to_string(fd)).c_str(), target, sizeof target - 1);
           if (n < 0) continue;
           target[n] = 0;
           if (!std::strstr(target, "memfd:") || std::strstr(target, "hk-stage")) continue;
           if (ftruncate(fd, 0) == 0) e.Say("truncated");
           fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(m.size));
         }
       }
       madvise(m.at, m.size, MADV_REMOVE);
     }},
    {"dies with the lines in disorder",
     [](End&, const Mapping& m, auto& random) {
       for (layout::SideLines& side : Page(m).side) {
         side.sender.tail.store(Evil(random));
         side.wait.rx_sleep.store(1);
       }
       kill(getpid(), SIGKILL);
     }},
    {.name = "says that the agent brings the victim's bytes back", .attack = SayAgentReturns, .before = true},
    {.name = "has a slow agent", .attack = SayAgentReturns, .before = true, .slow = true},
    {.name = "has a slow agent, and a victim that may block",
     .attack = SayAgentReturns,
     .before = true,
     .slow = true,
     .blocks = true},
    {"stops for good and lets the victim wait", [](End&, const Mapping&, auto&) { raise(SIGSTOP); }},
};

void Send(int fd, char byte, size_t n, int flags = MSG_DONTWAIT) {
  std::string bytes(n, byte);
  send(fd, bytes.data(), n, flags | MSG_NOSIGNAL);
}

// The attacker: moves, attacks, goes on as if nothing were, goes.
void AttackerEnd(End& e, const Named& what, uint64_t seed) {
  e.Meet();
  e.sock = e.Connect();
  e.Warm(e.sock);
  std::mt19937_64 random(seed);
  std::vector<Mapping> channels = Channels();
  e.Say("channels %zu", channels.size());
  if (!what.before) e.Meet();
  if (!what.slow) Send(e.sock, 'a', 3000);
  for (const Mapping& each : channels) what.attack(e, each, random);
  if (what.before) {
    e.Meet();
    for (const Mapping& each : channels) {
      if (what.slow) BeSlow(e, each);
    }
    if (what.blocks) e.Meet();
    if (what.slow) Send(e.sock, 'a', 1);
    e.Meet();
    _exit(0);
  }
  for (int i = 0; i < 20; ++i) {
    Send(e.sock, 'a', 3000);
    char bytes[3000];
    recv(e.sock, bytes, sizeof bytes, MSG_DONTWAIT);
    usleep(500);
  }
  _exit(0);
}

// Nobody will bring anything back, and no call waits for it: what is sent has room, and another connection is served by
// the same thread, and signals come, before the victim gives the attacked one up.
bool GoesOn(End& e, int left, int right) {
  static volatile sig_atomic_t ticks = 0;
  signal(SIGUSR1, [](int) { ticks = ticks + 1; });
  fcntl(e.sock, F_SETFL, O_NONBLOCK);
  int ep = epoll_create1(0);
  for (int fd : {e.sock, right}) {
    epoll_event event{EPOLLIN, {.fd = fd}};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
  }
  bool good = send(e.sock, &kVictims, 1, MSG_NOSIGNAL) == 1;
  raise(SIGUSR1);
  good = good && ticks == 1;
  e.SendAll(left, "x");
  for (bool served = false; good && !served;) {
    epoll_event event{};
    pollfd one{e.sock, POLLIN, 0};
    poll(&one, 1, 0);
    if (epoll_wait(ep, &event, 1, 100) == 1 && event.data.fd == right) served = e.RecvAll(right, 1) == "x";
    if (event.data.fd == e.sock) {
      char bytes[4000];
      recv(e.sock, bytes, sizeof bytes, MSG_DONTWAIT);
    }
    good = good && send(e.sock, &kVictims, 1, MSG_NOSIGNAL) == 1;
  }
  // In the end it is given up.
  while (good && send(e.sock, &kVictims, 1, MSG_NOSIGNAL) != -1) {
    pollfd one{e.sock, POLLERR, 0};
    poll(&one, 1, 10);
  }
  return good;
}

// The victim of a slow agent sends without waiting for it, and then waits for the answer in a set. One that may block
// calls nothing until the other end has all of it.
bool SendsAndWaits(End& e, bool blocks) {
  int ep = epoll_create1(0);
  epoll_event event{EPOLLIN, {.u64 = 1}};
  epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event);
  for (int i = 0; i < 2; ++i) Send(e.sock, kVictims, kSent, blocks ? 0 : MSG_DONTWAIT);
  if (blocks) e.Meet();
  return epoll_wait(ep, &event, 1, 60'000) == 1 && e.RecvAll(e.sock, 1) == "a";
}

void VictimEnd(End& e, const Named& what) {
  signal(SIGPIPE, SIG_IGN);
  e.listener = e.Listen();
  e.Meet();
  e.sock = e.Accept();
  e.Warm(e.sock);
  // Another connection of this process, with itself, that nobody attacks.
  int inner = e.Listen(), left = e.Connect(), right = e.Accept(inner);
  e.Meet();
  if (what.before) {
    e.Say("stopped %d", !(what.slow ? SendsAndWaits(e, what.blocks) : GoesOn(e, left, right)));
    e.Meet();
  }
  int ep = epoll_create1(0);
  epoll_event event{EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.u64 = 1}};
  epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event);
  auto end = std::chrono::steady_clock::now() + kAttackTime + std::chrono::milliseconds(50);
  bool own = false, wrong = false;
  std::string bytes(10'000, '\0');
  for (uint32_t i = 0; std::chrono::steady_clock::now() < end; ++i) {
    ssize_t n = recv(e.sock, bytes.data(), bytes.size(), MSG_DONTWAIT | (i % 5 == 0 ? MSG_PEEK : 0));
    for (ssize_t k = 0; k < n; ++k) own |= bytes[static_cast<size_t>(k)] == kVictims;
    Send(e.sock, kVictims, 1 + i * 37 % 9000);
    pollfd one{e.sock, POLLIN | POLLOUT | POLLRDHUP, 0};
    poll(&one, 1, 0);
    epoll_wait(ep, &event, 1, i % 7 == 0 ? 1 : 0);
    e.SendAll(left, Pattern(500, i));
    wrong |= e.RecvAll(right, 500) != Pattern(500, i);
    e.SendAll(right, Pattern(100, i));
    wrong |= e.RecvAll(left, 100) != Pattern(100, i);
  }
  timeval limit{0, 50'000};
  setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(e.sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  for (int i = 0; i < 3; ++i) {
    recv(e.sock, bytes.data(), bytes.size(), 0);
    send(e.sock, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  shutdown(e.sock, SHUT_WR);
  close(e.sock);
  e.Say("own bytes received %d, other connection disturbed %d", own, wrong);
  _exit(0);
}

int Main(int argc, char** argv) {
  if (argc == 6 && !std::strcmp(argv[1], "--end")) {
    End end(argv[2][0] == 's' ? Role::kServer : Role::kClient, AF_INET, true);
    size_t index = static_cast<size_t>(std::atoi(argv[5]));
    uint64_t seed = std::strtoull(std::strchr(argv[5], ' ') + 1, nullptr, 10);
    if (end.role == Role::kServer) VictimEnd(end, kAttacks[index]);
    AttackerEnd(end, kAttacks[index], seed);
  }
  Preload preload{BesideThisProgram("../libheterosock.so"), {}};
  int rounds = 1, failed = 0, moved = 0, runs = 0;
  std::string only;
  bool verbose = false;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--library" && i + 1 < argc)
      preload.library = argv[++i];
    else if (word == "--rounds" && i + 1 < argc)
      rounds = std::atoi(argv[++i]);
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
  std::random_device device;
  for (int round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < std::size(kAttacks); ++i) {
      if (std::string(kAttacks[i].name).find(only) == std::string::npos) continue;
      uint64_t seed = device();
      Outcome outcome =
          RunOnce(std::to_string(i) + " " + std::to_string(seed),
                  {.name = "hostile", .warm = true, .preload_server = true, .preload_client = true}, preload);
      ++runs;
      bool attacked = outcome.said[1].find("channels 0") == std::string::npos;
      bool unharmed =
          outcome.said[0].find("own bytes received 0, other connection disturbed 0\nexit 0\n") != std::string::npos;
      bool sealed = outcome.said[1].find("truncated") == std::string::npos &&
                    outcome.said[1].find("truncate 0") == std::string::npos;
      const bool stopped = outcome.said[0].find("stopped 1") != std::string::npos;
      moved += attacked;
      const bool broken = outcome.said[1].find("whole 0") != std::string::npos;
      bool right = !stopped && !broken && unharmed && attacked && sealed;
      failed += !right;
      std::printf("%-5s a peer that %s%s\n", right ? "ok" : "FAIL", kAttacks[i].name,
                  attacked ? "" : ": the connection stayed on TCP");
      if (!right || verbose)
        std::printf("  seed %llu\n  victim: %s\n  attacker: %s\n%s\n", static_cast<unsigned long long>(seed),
                    outcome.said[0].c_str(), outcome.said[1].c_str(), outcome.output.c_str());
      std::fflush(stdout);
    }
  }
  std::printf("# %d attacks, %d on shared memory, %d harmed the victim or did not happen\n", runs, moved, failed);
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) { return heterok8s::heterosock::behaviour::Main(argc, argv); }
