// hostile_test [--library FILE] [--rounds N] [--only TEXT] [-v]: a peer that writes whatever it can into the shared
// memory.
//
// The victim (server) and the attacker (client) are processes with the library and one connection that has moved. The
// attacker, of the same user and the same Pod, finds the channel in its own mappings and forges, floods, freezes, maps
// anew, truncates and dies. Meanwhile the victim sends, receives and polls, and uses another connection of its own. The
// victim must not crash and not hang, must never receive a byte that it sent itself, and its other connection must not
// notice. What becomes of the attacked connection is the attacker's affair: data, an end or a reset.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "heterosock/tests/agent.h"
#include "heterosock/tests/hostile.h"
#include "heterosock/tests/outcome.h"

namespace heterok8s::heterosock::behaviour {
namespace {

int Main(int argc, char** argv) {
  if (argc == 6 && !std::strcmp(argv[1], "--end")) {
    End end(argv[2][0] == 's' ? Role::kServer : Role::kClient, AF_INET, true);
    size_t index = static_cast<size_t>(std::atoi(argv[5]));
    uint64_t seed = std::strtoull(std::strchr(argv[5], ' ') + 1, nullptr, 10);
    if (end.role == Role::kServer) VictimEnd(end, Attacks()[index]);
    AttackerEnd(end, Attacks()[index], seed);
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
    for (size_t i = 0; i < Attacks().size(); ++i) {
      if (std::string(Attacks()[i].name).find(only) == std::string::npos) continue;
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
      std::printf("%-5s a peer that %s%s\n", right ? "ok" : "FAIL", Attacks()[i].name,
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
