// behaviour_test [--list] [--only TEXT] [--names FILE] [--library FILE] [--client-library FILE] [--agent FILE]
//                [--may-stay] [--repeat N] [--faults] [--strict] [-v]: TCP under the library beside TCP on plain libc.
//
// Every case is run on plain libc, then with the library in both ends, in one, and in the other, over IPv4 and IPv6,
// from a fresh connection (cold: it may move to shared memory in the middle) and from one that has moved before (warm),
// with ends of mixed versions, and with a fault at one step of the hand-over: each case meets another; with --faults
// each meets all. Cases that hand a socket on meet all faults of that, cases that poll a set every FENCE.
// Prints one line per case and mode, and where the two differ what each end said. Exit 1 when anything differs.
// --only: cases whose name has the text; --names: those that FILE names, one a line.
//
// --library, --client-library (of the client alone) and --agent are other builds than this one's. What is of different
// versions may stay on TCP with --may-stay.
//
// Linux may allow more than one outcome. One that plain libc shows in any of several runs is right.
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "heterosock/tests/agent.h"
#include "heterosock/tests/case.h"
#include "heterosock/tests/limits.h"
#include "heterosock/tests/meddler.h"
#include "heterosock/tests/one_end.h"
#include "heterosock/tests/outcome.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kPlainRuns = 5;  // how often plain libc is asked before a difference counts
constexpr int kAgain = 3;      // how often a difference is looked for again, unless --strict

constexpr Mode kModes[] = {
    {.name = "both, cold", .preload_server = true, .preload_client = true},
    {.name = "both, warm", .warm = true, .preload_server = true, .preload_client = true},
    {.name = "both, warm, v6", .family = 6, .warm = true, .preload_server = true, .preload_client = true},
    {.name = "both, no agent", .preload_server = true, .preload_client = true, .without_agent = true},
    {.name = "client only", .warm = true, .preload_client = true},
    {.name = "server only", .warm = true, .preload_server = true},
};

struct Options {
  std::string only;
  std::optional<std::set<std::string>> names;
  int repeat = 1;
  bool faults = false;
  bool strict = false;
  bool verbose = false;
  bool may_stay = false;
  Preload preload;
  std::string agent_program;
  bool agent = false;
};

struct Totals {
  std::mutex lock;
  std::atomic<int> same{0}, different{0}, once{0}, limits{0}, moved{0}, could_move{0}, faults{0}, faults_tried{0};
};

Mode PlainOf(const Mode& mode) {
  return {.name = mode.warm ? "plain, warm" : "plain", .family = mode.family, .warm = mode.warm};
}

void Print(const char* who, const Outcome& outcome) {
  for (int role : {0, 1}) {
    std::printf("    %s, %s:\n", who, role == 0 ? "server" : "client");
    std::string line;
    for (char c : outcome.said[role]) {
      line += c;
      if (c == '\n') {
        std::printf("      %s", line.c_str());
        line.clear();
      }
    }
    if (!line.empty()) std::printf("      %s\n", line.c_str());
  }
  if (!outcome.output.empty()) std::printf("    output: %s\n", outcome.output.c_str());
}

// What Linux may do, found out as often as needed.
class Linux {
 public:
  Linux(const Case& which, const Options& options) : which_(which), options_(options) {}

  const Outcome& First(const Mode& plain) { return Ask(plain, 1)[0]; }

  bool Allows(const Mode& plain, const Outcome& outcome) {
    for (int runs = 1; runs <= kPlainRuns; ++runs) {
      for (const Outcome& seen : Ask(plain, runs)) {
        if (seen == outcome) return true;
      }
    }
    return false;
  }

 private:
  const std::vector<Outcome>& Ask(const Mode& plain, int runs) {
    std::vector<Outcome>& seen = seen_[plain.family * 2 + plain.warm];
    while (static_cast<int>(seen.size()) < runs) seen.push_back(RunOnce(which_.name, plain, options_.preload));
    return seen;
  }

  const Case& which_;
  const Options& options_;
  std::map<int, std::vector<Outcome>> seen_;
};

bool Complained(const Outcome& outcome) {
  for (const std::string& said : outcome.said) {
    for (const char* word : {"cannot ", "nothing came", "did not come", "failed after", "sending failed", "HUNG",
                             "did not start", "exec failed"}) {
      if (said.find(word) != std::string::npos) return true;
    }
  }
  return false;
}

// Whether plain libc does the same twice: a case that varies says less.
bool PlainAgain(const Case& which, const Options& options, const Mode& mode) {
  Outcome a = RunOnce(which.name, mode, options.preload), b = RunOnce(which.name, mode, options.preload);
  if (a == b) return true;
  if (options.verbose) Print("plain", a), Print("plain again", b);
  return false;
}

Mode FaultMode(const Fault& fault, bool warm = false) {
  return {.name = fault.name, .warm = warm, .preload_server = true, .preload_client = true, .fault = &fault};
}

bool HandsOn(const Fault& fault) {
  return fault.at == protocol::Type::kResume || fault.at == protocol::Type::kHandBack;
}

// The modes of the n-th case.
std::vector<Mode> ModesOf(const Case& which, size_t n, const Options& options) {
  std::vector<Mode> modes;
  const std::vector<Fault>& faults = Faults();
  if (options.agent && which.body.hands_on) {
    for (const Fault& each : HandOnFaults()) modes.push_back(FaultMode(each, true));
  }
  if (options.agent && !options.faults) {
    for (const Fault& each : faults) {
      const bool fence = each.misdeed == Misdeed::kFence || each.misdeed == Misdeed::kFenceLate;
      const bool death = each.misdeed == Misdeed::kCut || each.misdeed == Misdeed::kCutAfter;
      const bool half =
          each.at == protocol::Type::kPaired && (each.misdeed == Misdeed::kLose || each.misdeed == Misdeed::kLate);
      if ((which.body.fenced && fence) || (which.body.orphaned && death) || (which.body.halfway && half))
        modes.push_back(FaultMode(each, true));
    }
  }
  if (options.faults) {
    for (const Fault& each : faults) modes.push_back(FaultMode(each, true));
    return modes;
  }
  modes.insert(modes.end(), std::begin(kModes), std::end(kModes));
  if (!options.agent) return modes;
  // Some faults fall into the case itself, if it lasts that long; most into what was said just before.
  const bool warm = n / faults.size() % 3 != 0;
  modes.push_back(FaultMode(faults[n % kVersionFaults], warm));
  modes.push_back(FaultMode(faults[kVersionFaults + n % (faults.size() - kVersionFaults)], warm));
  return modes;
}

void RunCase(const Case& which, size_t n, const Options& options, Totals& totals) {
  Linux plain(which, options);
  auto line = [&](const char* verdict, const char* mode, const char* note) {
    std::printf("%-5s %-34s %s%s\n", verdict, mode, which.name, note);
  };
  // A case must work where nothing is preloaded, else it compares one failure with another.
  const Outcome& reference = plain.First({.name = "plain"});
  if (Complained(reference)) {
    std::lock_guard hold(totals.lock);
    ++totals.different;
    line("FAIL", "plain", ": the case itself is wrong");
    Print("plain", reference);
    return;
  }
  if (options.verbose) {
    std::lock_guard hold(totals.lock);
    Print("plain", reference);
  }
  if (options.preload.library.empty()) {
    bool warm = PlainAgain(which, options, {.name = "plain"}),
         cold = PlainAgain(which, options, {.name = "plain, warm", .warm = true});
    std::lock_guard hold(totals.lock);
    ++totals.same;
    line("ok", "plain", warm && cold ? "" : " (varies)");
    return;
  }
  for (const Mode& mode : ModesOf(which, n, options)) {
    Outcome outcome = RunOnce(which.name, mode, options.preload);
    bool right = plain.Allows(PlainOf(mode), outcome);
    if (!right && !options.strict && LimitOf(which.name) == nullptr) {
      // A machine with more to do than it can makes rare orders of events; what is wrong comes again.
      Outcome again;
      for (int i = 0; i < kAgain && !right; ++i) {
        again = RunOnce(which.name, mode, options.preload);
        right = plain.Allows(PlainOf(mode), again);
      }
      if (right) {
        std::lock_guard hold(totals.lock);
        ++totals.once;
        line("once", mode.name, ": differed from Linux once (- plain, + ours)");
        std::printf("%s", Difference(plain.First(PlainOf(mode)), outcome).c_str());
        outcome = again;
      }
    }
    bool both = mode.preload_server && mode.preload_client;
    bool faults_before_move = mode.fault && !HandsOn(*mode.fault);
    bool can_move = options.agent && both && mode.warm && !which.body.bare && !faults_before_move;
    bool moved = outcome.moved[0] == 3 && outcome.moved[1] == 3;
    bool stayed = can_move && !moved && !which.body.stays && !options.may_stay;
    const char* limit = right ? nullptr : LimitOf(which.name);
    std::lock_guard hold(totals.lock);
    if (can_move) ++totals.could_move;
    if (can_move && moved) ++totals.moved;
    if (mode.fault) ++totals.faults_tried;
    if (outcome.faulty) ++totals.faults;
    if (limit) {
      ++totals.limits;
      std::printf("limit %-34s %s: %s\n", mode.name, which.name, limit);
      if (options.verbose) std::printf("%s", Difference(plain.First(PlainOf(mode)), outcome).c_str());
      continue;
    }
    ++(right && !stayed ? totals.same : totals.different);
    line(right && !stayed ? "ok" : "FAIL", mode.name,
         !right                          ? ": differs from Linux (- plain, + ours)"
         : stayed                        ? ": stayed on TCP"
         : moved                         ? " (moved)"
         : mode.fault && !outcome.faulty ? " (ended before)"
                                         : "");
    if (!right) std::printf("%s", Difference(plain.First(PlainOf(mode)), outcome).c_str());
    std::fflush(stdout);
  }
}

int RunAll(Options options) {
  Agent agent;
  if (!options.preload.library.empty()) {
    std::printf("# library %s\n", options.preload.library.c_str());
    if (agent.Start(options.agent_program)) {
      options.agent = true;
      options.preload.agent = agent.path();
      std::printf("# agent %s\n", agent.path().c_str());
    } else if (!options.agent_program.empty()) {
      std::printf("# %s does not come up\n", options.agent_program.c_str());
      return 1;
    } else {
      std::printf("# no agent: everything stays on TCP\n");
    }
  } else {
    std::printf("# no library: cases are run on plain libc alone\n");
  }
  std::vector<const Case*> wanted;
  for (int i = 0; i < options.repeat; ++i) {
    for (const Case* each : Cases()) {
      if (std::string(each->name).find(options.only) == std::string::npos) continue;
      if (!options.names || options.names->contains(each->name)) wanted.push_back(each);
    }
  }
  Totals totals;
  std::atomic<size_t> next{0};
  std::vector<std::thread> workers;
  for (unsigned i = 0; i < 2 * std::max(2u, std::thread::hardware_concurrency()); ++i) {
    workers.emplace_back([&] {
      for (size_t at; (at = next.fetch_add(1)) < wanted.size();) RunCase(*wanted[at], at, options, totals);
    });
  }
  for (std::thread& worker : workers) worker.join();
  std::printf(
      "# %zu cases: %d runs as Linux (%d at the second try), %d not, %d at a known limit; %d of %d warm connections "
      "moved to shared memory; %d of %d runs reached their fault\n",
      wanted.size(), totals.same.load(), totals.once.load(), totals.different.load(), totals.limits.load(),
      totals.moved.load(), totals.could_move.load(), totals.faults.load(), totals.faults_tried.load());
  const bool vain = options.only.empty() && !options.names && totals.faults * 4 < totals.faults_tried;
  if (vain) std::printf("# most faults were not reached: nothing was tried\n");
  return totals.different || wanted.empty() || vain ? 1 : 0;
}

int Main(int argc, char** argv) {
  if (const std::optional<int> status = RunAsEnd(argc, argv)) return *status;
  Options options;
  options.preload.library = BesideThisProgram("../libheterosock.so");
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--list") {
      for (const Case* each : Cases()) std::printf("%s\n", each->name);
      return 0;
    }
    if (word == "--faults")
      options.faults = true;
    else if (word == "--strict")
      options.strict = true;
    else if (word == "-v")
      options.verbose = true;
    else if (word == "--only" && i + 1 < argc)
      options.only = argv[++i];
    else if (word == "--names" && i + 1 < argc) {
      std::ifstream file(argv[++i]);
      options.names.emplace();
      for (std::string name; std::getline(file, name);) options.names->insert(name);
    } else if (word == "--library" && i + 1 < argc)
      options.preload.library = argv[++i];
    else if (word == "--client-library" && i + 1 < argc)
      options.preload.client_library = argv[++i];
    else if (word == "--agent" && i + 1 < argc)
      options.agent_program = argv[++i];
    else if (word == "--may-stay")
      options.may_stay = true;
    else if (word == "--repeat" && i + 1 < argc)
      options.repeat = std::atoi(argv[++i]);
    else {
      std::fprintf(
          stderr,
          "usage: behaviour_test [--list] [--only TEXT] [--names FILE] [--library FILE] [--client-library FILE] "
          "[--agent FILE] [--may-stay] [--repeat N] [--faults] [--strict] [-v]\n");
      return 2;
    }
  }
  return RunAll(std::move(options));
}

}  // namespace
}  // namespace heterok8s::heterosock::behaviour

int main(int argc, char** argv) { return heterok8s::heterosock::behaviour::Main(argc, argv); }
