// Every state of a lease with everything that it can hear, against the table in docs/protocols/README.md.

#include <functional>
#include <vector>

#include "common/sys/file.h"
#include "common/testing/matchers.h"
#include "common/testing/state_table.h"
#include "node-agent/peer/lease.h"

namespace heterok8s::peer {
namespace {

constexpr std::chrono::seconds kDuration{5};
const Lease::Clock::time_point kStart = Lease::Clock::now();

struct Watcher final : attach::PeerWatcher {
  void PeerReturned() override { ++returned; }
  void PeerHas(const std::vector<attach::PodGeneration>&) override {}
  int returned = 0;
};

struct Case {
  Watcher watcher;
  Lease lease{{.duration = kDuration}, kStart};
  Lease::Clock::time_point now = kStart + std::chrono::seconds(1);

  void Heartbeat(uint64_t epoch, bool ready) { lease.Good({.epoch = epoch, .ready = ready}, now); }
  std::string State() const {
    const attach::LeaseState state = lease.StateAt(now);
    if (!state.valid) return state.age.has_value() ? "expired" : "never";
    return state.peer_ready ? "ready" : "not ready";
  }
};

struct Step {
  const char* name;
  std::function<void(Case&)> run;
};

const std::vector<Step>& States() {
  static const std::vector<Step> states = {
      {"never", [](Case&) {}},
      {"not ready", [](Case& c) { c.Heartbeat(1, false); }},
      {"ready", [](Case& c) { c.Heartbeat(1, true); }},
      {"expired",
       [](Case& c) {
         c.Heartbeat(1, true);
         c.now += kDuration;
       }},
  };
  return states;
}

const std::vector<Step>& Events() {
  static const std::vector<Step> events = {
      {"a heartbeat, ready", [](Case& c) { c.Heartbeat(1, true); }},
      {"a heartbeat, not ready", [](Case& c) { c.Heartbeat(1, false); }},
      {"one of another epoch, ready", [](Case& c) { c.Heartbeat(2, true); }},
      {"one of another epoch, not ready", [](Case& c) { c.Heartbeat(2, false); }},
      {"no answer", [](Case& c) { c.lease.Bad(absl::UnavailableError("connection refused")); }},
      {"nothing for its duration", [](Case& c) { c.now += kDuration; }},
  };
  return events;
}

// "–": the same state. "!": the engine is told that the peer is back.
std::string Cell(const Step& state, const Step& event) {
  Case c;
  state.run(c);
  c.lease.SetWatcher(&c.watcher);
  event.run(c);
  const std::string then = c.State();
  return (then == state.name ? "–" : then) + (c.watcher.returned > 0 ? " !" : "");
}

}  // namespace

TEST_CASE("a lease does in every state what the table says") {
  const std::string table = testing::StateTable(States(), Events(), Cell);

  const std::string document = *sys::ReadFile("docs/protocols/README.md");
  INFO("the table is now\n" << table);
  CHECK(document.find(table) != std::string::npos);
}

}  // namespace heterok8s::peer
