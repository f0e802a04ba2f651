// Every state of a DPU container's record with everything that can happen to it, against the table in
// docs/protocols/README.md: what kubelet is shown, and which events it is told.
#include <fmt/format.h>
#include <unistd.h>

#include <functional>
#include <vector>

#include "common/sys/file.h"
#include "common/testing/matchers.h"
#include "common/testing/state_table.h"
#include "node-agent/cri/pod_table.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

const std::string kId = "0123456789abcdef", kTwin = "twin-1";

DpuContainer Container(rt::ContainerState state) {
  DpuContainer container;
  container.listed.set_id(kId);
  container.listed.set_pod_sandbox_id("sandbox-1");
  container.listed.set_state(state);
  container.twin_id = kTwin;
  container.status.set_id(kId);
  container.status.set_state(state);
  return container;
}

struct Case {
  Case() {
    SplitPod pod;
    pod.sandbox_id = "sandbox-1";
    table.PutPod(pod);
  }
  void Put(rt::ContainerState state) { table.PutContainer(Container(state)); }
  // A poll of the DPU.
  void Sees(std::vector<DpuContainer> containers) { CHECK(table.Replace(table.version(), std::move(containers))); }
  void Sees(rt::ContainerState state) { Sees({Container(state)}); }
  std::string State() const {
    std::optional<DpuContainer> found = table.FindContainer(kId);
    if (!found) return table.Removed().contains(kId) ? "removed" : "none";
    if (found->lost) return "lost";
    if (found->kept) return "kept";
    if (found->listed.state() == rt::CONTAINER_CREATED) return "created";
    return found->running() ? "running" : "exited";
  }

  PodTable table{""};
};

struct Step {
  const char* name;
  std::function<void(Case&)> run;
};

const std::vector<Step>& States() {
  static const std::vector<Step> states = {
      {"none", [](Case&) {}},
      {"created", [](Case& c) { c.Put(rt::CONTAINER_CREATED); }},
      {"running", [](Case& c) { c.Put(rt::CONTAINER_RUNNING); }},
      {"exited", [](Case& c) { c.Put(rt::CONTAINER_EXITED); }},
      {"kept",
       [](Case& c) {
         c.Put(rt::CONTAINER_EXITED);
         c.table.KeepEnded(kTwin);
       }},
      {"lost",
       [](Case& c) {
         c.Put(rt::CONTAINER_RUNNING);
         c.table.LoseAll(1);
       }},
      {"removed",
       [](Case& c) {
         c.Put(rt::CONTAINER_EXITED);
         c.table.AddRemoved(kId);
       }},
  };
  return states;
}

const std::vector<Step>& Events() {
  static const std::vector<Step> events = {
      {"the DPU has it, created", [](Case& c) { c.Sees(rt::CONTAINER_CREATED); }},
      {"the DPU has it, running", [](Case& c) { c.Sees(rt::CONTAINER_RUNNING); }},
      {"the DPU has it, exited", [](Case& c) { c.Sees(rt::CONTAINER_EXITED); }},
      {"the DPU has it no more", [](Case& c) { c.Sees(std::vector<DpuContainer>()); }},
      {"its twin is removed, to be made anew", [](Case& c) { c.table.KeepEnded(kTwin); }},
      {"the DPU is lost", [](Case& c) { c.table.LoseAll(1); }},
      {"removed, the DPU there", [](Case& c) { c.table.EraseContainer(kId); }},
      {"removed, the DPU away", [](Case& c) { c.table.AddRemoved(kId); }},
      {"its Pod is removed", [](Case& c) { c.table.ErasePod("sandbox-1"); }},
  };
  return events;
}

const char* Word(rt::ContainerEventType type) {
  switch (type) {
    case rt::CONTAINER_CREATED_EVENT:
      return "c";
    case rt::CONTAINER_STARTED_EVENT:
      return "s";
    case rt::CONTAINER_STOPPED_EVENT:
      return "e";
    default:
      return "d";
  }
}

// "–": the same state. Behind it the events: c(reated), s(tarted), e(nded), d(eleted).
std::string Cell(const Step& state, const Step& event) {
  Case c;
  state.run(c);
  std::string told;
  c.table.Observe([&](const ContainerChange& change) { told += Word(change.type); });
  event.run(c);
  const std::string then = c.State();
  return (then == state.name ? "–" : then) + (told.empty() ? "" : fmt::format(" `{}`", told));
}

}  // namespace

TEST_CASE("a container's record does in every state what the table says") {
  const std::string table = testing::StateTable(States(), Events(), Cell);

  const std::string document = *sys::ReadFile("docs/protocols/README.md");
  INFO("the table is now\n" << table);
  CHECK(document.find(table) != std::string::npos);
}

}  // namespace heterok8s::cri
