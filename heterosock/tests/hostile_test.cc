// hostile_test [--library FILE] [--rounds N] [--only TEXT] [-v]: a peer that writes whatever it can into the shared
// memory.
//
// The victim and the attacker are processes with the library and one connection that has moved; each attack is made by
// the end that accepted and by the end that connected. The attacker, of the same user and the same Pod, finds the
// channel in its own mappings and forges, floods, freezes, maps anew, truncates and dies. Meanwhile the victim sends,
// receives, polls and sleeps, and uses another connection of its own. The victim must not crash, hang or spin, must
// never receive a byte that the attacker did not have, and its other connection must not notice. What becomes of the
// attacked connection is the attacker's affair: data, an end or a reset, with the errno that Linux has for it; and
// where the attacker lies of nothing that says which bytes there are, the data are a beginning of what it sent.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "heterosock/tests/agent.h"
#include "heterosock/tests/hostile.h"
#include "heterosock/tests/outcome.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kAtOnce = 4;   // they sleep most of the time
constexpr size_t kEnds = 2;  // each attack is made by either

// One attack, from one of the ends.
struct Run {
  Run(size_t number, uint64_t seed)
      : attack(number / kEnds), attacker(number % kEnds), seed(seed), name(Attacks()[attack].name) {
    name += attacker == static_cast<size_t>(Role::kServer) ? " (accepting)" : " (connecting)";
  }
  Outcome Do(const Preload& preload) const {
    return RunOnce(std::to_string(attack) + " " + std::to_string(attacker) + " " + std::to_string(seed),
                   {.name = "hostile", .warm = true, .preload_server = true, .preload_client = true}, preload);
  }
  bool Attacked(const Outcome& outcome) const { return Said(outcome, attacker, "channels 1"); }
  bool Unharmed(const Outcome& outcome) const {
    const bool sealed = !Said(outcome, attacker, "truncated") && !Said(outcome, attacker, "truncate 0");
    return sealed && !Said(outcome, attacker, "whole 0") && !Said(outcome, 1 - attacker, "stopped 1") &&
           Said(outcome, 1 - attacker,
                "astray 0, spun 0, errno as of a reset, other connection disturbed 0\nexit 0\n") &&
           Said(outcome, 1 - attacker, "foreign bytes 0");
  }
  void Print(const Outcome& outcome) const {
    std::printf("  seed %llu\n  victim: %s\n  attacker: %s\n%s\n", static_cast<unsigned long long>(seed),
                outcome.said[1 - attacker].c_str(), outcome.said[attacker].c_str(), outcome.output.c_str());
  }
  static bool Said(const Outcome& outcome, size_t who, const char* words) {
    return outcome.said[who].find(words) != std::string::npos;
  }

  size_t attack, attacker;  // the latter by role
  uint64_t seed;
  std::string name;
};

int Main(int argc, char** argv) {
  if (argc == 6 && !std::strcmp(argv[1], "--end")) {
    End end(argv[2][0] == 's' ? Role::kServer : Role::kClient, AF_INET, true);
    const Attack& what = Attacks()[static_cast<size_t>(std::atoi(argv[5]))];
    char* next = std::strchr(argv[5], ' ');
    const Role attacker = std::strtoul(next, &next, 10) == 0 ? Role::kServer : Role::kClient;
    if (end.role == attacker) AttackerEnd(end, what, std::strtoull(next, nullptr, 10));
    VictimEnd(end, what);
  }
  Preload preload{BesideThisProgram("../libheterosock.so"), {}};
  size_t rounds = 1;
  int failed = 0, moved = 0, runs = 0;
  std::string only;
  bool verbose = false;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--library" && i + 1 < argc)
      preload.library = argv[++i];
    else if (word == "--rounds" && i + 1 < argc)
      rounds = std::strtoul(argv[++i], nullptr, 10);
    else if (word == "--only" && i + 1 < argc)
      only = argv[++i];
    else if (word == "-v")
      verbose = true, preload.extra = {"HETEROSOCK_TRACE=1"};
    else
      return 2;
  }
  Agent agent;
  if (preload.library.empty() || !agent.Start()) {
    std::printf("no library or no agent: nothing is shared\n");
    return 77;
  }
  preload.agent = agent.path();
  std::atomic<size_t> next = 0;
  std::mutex printing;
  std::vector<std::thread> lanes;
  for (int lane = 0; lane < kAtOnce; ++lane) {
    lanes.emplace_back([&] {
      std::random_device device;
      for (size_t i; (i = next++) < rounds * kEnds * Attacks().size();) {
        const Run run(i % (kEnds * Attacks().size()), device());
        if (run.name.find(only) == std::string::npos) continue;
        const Outcome outcome = run.Do(preload);
        const bool attacked = run.Attacked(outcome), right = attacked && run.Unharmed(outcome);
        const std::lock_guard lock(printing);
        ++runs;
        moved += attacked;
        failed += !right;
        std::printf("%-5s a peer that %s%s\n", right ? "ok" : "FAIL", run.name.c_str(),
                    attacked ? "" : ": the connection stayed on TCP");
        if (!right || verbose) run.Print(outcome);
        std::fflush(stdout);
      }
    });
  }
  for (std::thread& lane : lanes) lane.join();
  std::printf("# %d attacks, %d on shared memory, %d harmed the victim or did not happen\n", runs, moved, failed);
  return failed ? 1 : 0;
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) { return heterok8s::heterosock::behaviour::Main(argc, argv); }
