// oracle_test [--seconds N] [--seed N [--steps N]] [--fault TEXT] [--library FILE] [-v]: random socket programs, plain
// libc beside the library.
//
// Each program (program.h) runs on plain libc and then with the library, from fresh and from moved connections, in one
// end alone, with an agent that dies meanwhile, and with a fault at one step of the hand-over (meddler.h); both ends
// must say the same. A difference is cut to its shortest program and printed with what repeats it.
// Without options: the same few programs every time, as many as fit into a time that CI has; a difference that does not
// come again is shown and does not fail. With --seconds programs are new, and every difference fails.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "heterosock/tests/agent.h"
#include "heterosock/tests/meddler.h"
#include "heterosock/tests/outcome.h"
#include "heterosock/tests/program.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr size_t kSteps = 60;
constexpr int kPlainRuns = 5;  // how often plain libc is asked before a difference counts
// Without options.
constexpr uint64_t kSeeds[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
constexpr int kSeconds = 40;   // after which no further one of them is begun
constexpr size_t kFaults = 3;  // with which a program is run; in all of kSeeds each fault comes once
constexpr int kAgain = 3;      // how often a difference is looked for again; it counts when it comes more than once

constexpr Mode kModes[] = {
    {.name = "both, cold", .preload_server = true, .preload_client = true},
    {.name = "both, warm", .warm = true, .preload_server = true, .preload_client = true},
    {.name = "both, cold, the agent dies", .preload_server = true, .preload_client = true, .agent_dies = true},
    {.name = "client only", .warm = true, .preload_client = true},
    {.name = "server only, v6", .family = 6, .preload_server = true},
};

struct Options {
  std::optional<int> seconds;
  std::optional<uint64_t> seed;
  std::string fault;  // only such modes
  size_t steps = kSteps;
  bool verbose = false;
  Preload preload;
};

Mode FaultMode(const Fault& fault) {
  return {.name = fault.name, .warm = true, .preload_server = true, .preload_client = true, .fault = &fault};
}

std::string Name(uint64_t seed, size_t steps) { return std::to_string(seed) + " " + std::to_string(steps); }

Mode PlainOf(const Mode& mode) { return {.name = "plain", .family = mode.family, .warm = mode.warm}; }

void Print(const char* who, const Outcome& outcome) {
  for (int role : {0, 1})
    std::printf("--- %s, %s\n%s", who, role == 0 ? "server" : "client", outcome.said[role].c_str());
  if (!outcome.output.empty()) std::printf("--- output\n%s\n", outcome.output.c_str());
}

// As RunOnce, with an agent of its own that is killed meanwhile when the mode says so.
Outcome Run(const std::string& name, const Mode& mode, const Preload& preload) {
  if (!mode.agent_dies) return RunOnce(name, mode, preload);
  Agent agent;
  Preload with_agent{preload.library, {}, {}};
  if (agent.Start()) with_agent.agent = agent.path();
  std::thread killer([&agent, after = std::random_device{}() % 60'000] {
    usleep(after);
    agent.Kill();
  });
  Outcome outcome = RunOnce(name, mode, with_agent);
  killer.join();
  return outcome;
}

// True when plain libc does something that the library's outcome is not.
bool Differs(const std::string& name, const Mode& mode, const Preload& preload, Outcome* plain, Outcome* ours) {
  *ours = Run(name, mode, preload);
  for (int i = 0; i < kPlainRuns; ++i) {
    *plain = RunOnce(name, PlainOf(mode), preload);
    if (*plain == *ours) return false;
  }
  return true;
}

void Explain(uint64_t seed, const Mode& mode, const Options& options) {
  // The shortest program that still differs; a difference may need several tries to show.
  size_t low = 0, high = options.steps;
  Outcome plain, ours, shortest_plain, shortest_ours;
  bool found = false;
  while (low < high) {
    size_t middle = (low + high) / 2;
    bool differs = false;
    for (int i = 0; i < 3 && !differs; ++i) differs = Differs(Name(seed, middle), mode, options.preload, &plain, &ours);
    if (differs) {
      high = middle;
      found = true;
      shortest_plain = plain;
      shortest_ours = ours;
    } else {
      low = middle + 1;
    }
  }
  std::printf("again: oracle_test --seed %llu --steps %zu   (%s)\n", static_cast<unsigned long long>(seed), high,
              mode.name);
  if (!found && !Differs(Name(seed, high), mode, options.preload, &shortest_plain, &shortest_ours)) {
    std::printf("it did not differ again\n");
    return;
  }
  std::printf("%s", Difference(shortest_plain, shortest_ours).c_str());
  if (options.verbose) Print("plain", shortest_plain), Print(mode.name, shortest_ours);
}

// The modes of the n-th program: kModes, and some faults, one after the other or, in a long run, any.
std::vector<Mode> ModesOf(size_t n, const Options& options, bool fixed) {
  std::vector<Mode> modes;
  if (options.fault.empty()) modes.assign(std::begin(kModes), std::end(kModes));
  const std::vector<Fault>& faults = Faults();
  if (!options.fault.empty()) {
    for (const Fault& each : faults) {
      if (std::string(each.name).find(options.fault) != std::string::npos) modes.push_back(FaultMode(each));
    }
    return modes;
  }
  std::random_device device;
  for (size_t i = 0; i < kFaults; ++i)
    modes.push_back(FaultMode(faults[(fixed ? n * kFaults + i : size_t{device()}) % faults.size()]));
  return modes;
}

int RunAll(Options options) {
  Agent agent;
  bool library = !options.preload.library.empty();
  if (library && agent.Start()) options.preload.agent = agent.path();
  std::printf("# library %s, agent %s\n", library ? options.preload.library.c_str() : "none: plain libc against itself",
              agent.path().empty() ? "none" : agent.path().c_str());
  std::random_device device;
  const bool fixed = !options.seed && !options.seconds;
  uint64_t seed = options.seed ? *options.seed : fixed ? kSeeds[0] : (uint64_t{device()} << 32 | device());
  auto end = std::chrono::steady_clock::now() + std::chrono::seconds(options.seconds.value_or(kSeconds));
  int programs = 0, runs = 0, moved = 0, faulty = 0, differences = 0, once = 0;
  do {
    for (const Mode& each : ModesOf(static_cast<size_t>(programs++), options, fixed)) {
      Mode mode = library ? each : PlainOf(each);
      std::string name = Name(seed, options.steps);
      Outcome plain = RunOnce(name, PlainOf(mode), options.preload), ours = Run(name, mode, options.preload);
      ++runs;
      moved += ours.moved[0] == 3 && ours.moved[1] == 3;
      faulty += ours.faulty;
      if (options.verbose) Print(mode.name, ours);
      if (plain == ours || !Differs(name, mode, options.preload, &plain, &ours)) continue;
      Outcome plain_again, ours_again;
      int again = 0;
      for (int i = 0; fixed && i < kAgain; ++i)
        again += Differs(name, mode, options.preload, &plain_again, &ours_again);
      if (fixed && again < 2) {
        ++once;
        std::printf("once: seed %llu, %s (- plain, + ours)\n%s", static_cast<unsigned long long>(seed), mode.name,
                    Difference(plain, ours).c_str());
        continue;
      }
      ++differences;
      std::printf("DIFFERS seed %llu, %s (- plain, + ours)\n%s", static_cast<unsigned long long>(seed), mode.name,
                  Difference(plain, ours).c_str());
      Explain(seed, mode, options);
      std::fflush(stdout);
    }
    seed = fixed && programs < static_cast<int>(std::size(kSeeds)) ? kSeeds[static_cast<size_t>(programs)] : seed + 1;
  } while (!options.seed && differences < 3 && (!fixed || programs < static_cast<int>(std::size(kSeeds))) &&
           std::chrono::steady_clock::now() < end);
  std::printf(
      "# %d programs, %d runs, %d differences, %d that came once, %d ended on shared memory, %d reached their fault\n",
      programs, runs, differences, once, moved, faulty);
  return differences ? 1 : 0;
}

int Main(int argc, char** argv) {
  if (argc == 6 && !std::strcmp(argv[1], "--end")) {
    Meddler::Introduce();
    End end(argv[2][0] == 's' ? Role::kServer : Role::kClient, argv[3][0] == '4' ? AF_INET : AF_INET6,
            argv[4][0] == 'w');
    char* rest = nullptr;
    uint64_t seed = std::strtoull(argv[5], &rest, 10);
    RunProgram(end, seed, std::strtoul(rest, nullptr, 10));
    return 0;
  }
  Options options;
  options.preload.library = BesideThisProgram("../libheterosock.so");
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "-v")
      options.verbose = true;
    else if (word == "--seconds" && i + 1 < argc)
      options.seconds = std::atoi(argv[++i]);
    else if (word == "--seed" && i + 1 < argc)
      options.seed = std::strtoull(argv[++i], nullptr, 10);
    else if (word == "--steps" && i + 1 < argc)
      options.steps = std::strtoul(argv[++i], nullptr, 10);
    else if (word == "--fault" && i + 1 < argc)
      options.fault = argv[++i];
    else if (word == "--library" && i + 1 < argc)
      options.preload.library = argv[++i];
    else {
      std::fprintf(stderr,
                   "usage: oracle_test [--seconds N] [--seed N [--steps N]] [--fault TEXT] [--library FILE] [-v]\n");
      return 2;
    }
  }
  return RunAll(std::move(options));
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) { return heterok8s::heterosock::behaviour::Main(argc, argv); }
