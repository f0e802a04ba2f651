// Every state of a DPU half with everything that can happen to it, against the table in docs/protocols/README.md.
//
//   test ── DpuHalf, CNI ──▶ DpuEngine (fake kernel, real ledger)      and then: what does it say and do?
#include <algorithm>
#include <functional>

#include "common/sys/file.h"
#include "common/testing/matchers.h"
#include "common/testing/state_table.h"
#include "node-agent/attach/details.h"
#include "node-agent/attach/testing/two_engines.h"

namespace heterok8s::attach {
namespace {

constexpr uint64_t kGeneration = 1000;  // of the half; older is one less, newer one more
const std::string kPod = "uid-1";

// One DPU. Its host says what the test says, and of its own only which addresses a twin has.
class Half {
 public:
  Half() {
    node_.to_dpu.SetDown(true);
    node_.to_dpu.SetDpu(nullptr);  // the Sync of the host's start has ended, or will not come
  }

  absl::Status Prepare(uint64_t generation) {
    HK_RETURN_IF_ERROR(node_.dpu().Prepare(Request(generation)).status());
    return MakeLink();  // as the host does when it has its answer
  }
  // One that fails when it was answered already, and of which nothing is left, or something is.
  absl::Status PrepareAndFail(bool leaves_something) {
    node_.dpu_podnet.FailNext("EnsureUplink", absl::ResourceExhaustedError("no buffer space"));
    if (leaves_something) node_.dpu_ports.FailNext("RemovePod", absl::ResourceExhaustedError("no memory"));
    HK_RETURN_IF_ERROR(Prepare(kGeneration));
    return AwaitPrepare();
  }
  absl::Status Commit(uint64_t generation) { return node_.dpu().Commit({kPod, generation}); }
  absl::Status Remove(uint64_t generation) { return node_.dpu().Remove({kPod, generation}); }
  absl::Status Sync(std::vector<PodGeneration> pods, uint64_t newest_generation) {
    return node_.dpu().Sync({.epoch = 1, .pods = std::move(pods), .newest_generation = newest_generation}).status();
  }
  absl::Status AddTwin() {
    HK_ASSIGN_OR_RETURN(cni::Result added, node_.dpu().Add(twin_));
    addresses_ = {added.ips.at(0).address.address};
    return absl::OkStatus();
  }
  absl::Status DelTwin() { return node_.dpu().Del(node_.Del(twin_)); }
  absl::Status Restart() {
    node_.CrashDpu();
    return absl::OkStatus();
  }

  // In the words of the table. Ends the case: what a half is shows in what can still be done with it.
  std::string State() {
    REQUIRE_OK(AwaitPrepare());
    std::vector<ledger::Attachment> rows = *node_.dpu_ledger->ListAttachments();
    REQUIRE(rows.size() <= 1);
    if (rows.empty()) {
      const bool failed = absl::IsResourceExhausted(Commit(kGeneration));
      if (!Prepare(kGeneration).ok()) return "removed";
      return failed ? "failed" : "none";
    }
    const Details details = *Details::Parse(rows[0].details);
    const std::string twin = rows[0].mode == ledger::Mode::kTwin ? "twin" : "";
    if (!details.join.has_value()) return twin;

    const PodGeneration half = {kPod, details.join->generation};
    std::string words = half.generation == kGeneration ? "" : half.generation > kGeneration ? "newer " : "older ";
    if (!twin.empty()) words += twin + " ";
    const bool committed = details.join->committed;
    if (committed) {
      const std::vector<PodGeneration> whole = node_.dpu().Halves();
      REQUIRE(std::count(whole.begin(), whole.end(), half) == 1);
    }
    const absl::Status commit = Commit(half.generation);
    if (absl::IsNotFound(commit)) return words + "not whole";
    REQUIRE_OK(commit);
    return words + (committed ? "joined" : "prepared");
  }

 private:
  // Removes nothing: no generation is older than 1. Waits for what a Prepare left to be done.
  absl::Status AwaitPrepare() { return Remove(0); }

  PrepareRequest Request(uint64_t generation) const {
    return {.pod_key = kPod,
            .generation = generation,
            .instance = "demo",
            .network = twin_.config.name,
            .container_id = "c1",
            .ifname = "eth0",
            .addresses = addresses_,
            .link = LinkBlock(*IpAddress::Parse("169.254.64.0")),
            .host_ephemeral = {32768, 47103},
            .dpu_ephemeral = {47104, 60999}};
  }
  absl::Status MakeLink() {
    node_.host_kernel.AddNetns("/run/netns/host-half");
    HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, node_.host_namespaces.Open("/run/netns/host-half"));
    const pu::OwnerTag tag{.instance = "demo", .pod_key = kPod, .ifname = "eth0"};
    return node_.host_fake_backend.AcquireLink(tag, {.netns = &ns, .ifname = "xpu0"}).status();
  }

  TwoEngines node_;
  const cni::Request twin_ = node_.TwinAdd("t1", kPod);
  std::vector<IpAddress> addresses_ = {*IpAddress::Parse("10.88.0.2")};
};

struct Step {
  const char* name;
  std::function<absl::Status(Half&)> run;
};

absl::Status MakePrepared(Half& half) { return half.Prepare(kGeneration); }
absl::Status MakeJoined(Half& half) {
  HK_RETURN_IF_ERROR(half.Prepare(kGeneration));
  return half.Commit(kGeneration);
}
Step OnTwin(const char* name, absl::Status (*make)(Half&)) {
  return {name, [make](Half& half) {
            HK_RETURN_IF_ERROR(half.AddTwin());
            return make(half);
          }};
}

const std::vector<Step>& States() {
  static const std::vector<Step> states = {
      {"none", [](Half&) { return absl::OkStatus(); }},
      {"removed", [](Half& half) { return half.Remove(kGeneration); }},
      {"prepared", MakePrepared},
      {"failed", [](Half& half) { return half.PrepareAndFail(false); }},
      {"not whole",
       [](Half& half) {
         HK_RETURN_IF_ERROR(half.PrepareAndFail(true));
         CHECK_THAT(half.Commit(kGeneration), testing::HasCode(absl::StatusCode::kResourceExhausted));
         return absl::OkStatus();
       }},
      {"joined", MakeJoined},
      {"twin", [](Half& half) { return half.AddTwin(); }},
      OnTwin("twin prepared", MakePrepared),
      OnTwin("twin joined", MakeJoined),
  };
  return states;
}

const std::vector<Step>& Events() {
  static const std::vector<Step> events = {
      {"`Prepare`, older", [](Half& half) { return half.Prepare(kGeneration - 1); }},
      {"`Prepare`", [](Half& half) { return half.Prepare(kGeneration); }},
      {"`Prepare`, newer", [](Half& half) { return half.Prepare(kGeneration + 1); }},
      {"`Commit`, older", [](Half& half) { return half.Commit(kGeneration - 1); }},
      {"`Commit`", [](Half& half) { return half.Commit(kGeneration); }},
      {"`Commit`, newer", [](Half& half) { return half.Commit(kGeneration + 1); }},
      {"`Remove`, older", [](Half& half) { return half.Remove(kGeneration - 1); }},
      {"`Remove`", [](Half& half) { return half.Remove(kGeneration); }},
      {"`Remove`, newer", [](Half& half) { return half.Remove(kGeneration + 1); }},
      {"`Sync` that has it",
       [](Half& half) {
         return half.Sync({{kPod, kGeneration}}, kGeneration);
       }},
      {"`Sync` without it", [](Half& half) { return half.Sync({}, kGeneration); }},
      {"`Sync`, listed before it", [](Half& half) { return half.Sync({}, kGeneration - 1); }},
      {"ADD of the twin", [](Half& half) { return half.AddTwin(); }},
      {"DEL of the twin", [](Half& half) { return half.DelTwin(); }},
      {"heterod restarts", [](Half& half) { return half.Restart(); }},
  };
  return events;
}

// Why an event was not done; null for what this table does not know.
const char* Refusal(const absl::Status& answer) {
  if (absl::IsFailedPrecondition(answer)) return "*stale*";
  if (absl::IsNotFound(answer)) return "*not found*";
  if (absl::IsResourceExhausted(answer)) return "*why*";
  return cni::CodeOf(answer) == cni::kInterfaceExists ? "*exists*" : nullptr;
}

// What the event makes of the state ("–": the same), or how it is refused.
std::string Cell(const Step& state, const Step& event) {
  INFO(state.name << ", " << event.name);
  Half half;
  REQUIRE_OK(state.run(half));

  const absl::Status answer = event.run(half);
  const std::string then = half.State();

  const std::string change = then == state.name ? "–" : then;
  if (answer.ok()) return change;
  INFO(answer);
  REQUIRE(Refusal(answer) != nullptr);
  return Refusal(answer) + (change == "–" ? "" : ", " + change);
}

}  // namespace

TEST_CASE("a DPU half does in every state what the table says") {
  const std::string table = testing::StateTable(States(), Events(), Cell);

  const std::string document = *sys::ReadFile("docs/protocols/README.md");
  INFO("the table is now\n" << table);
  CHECK(document.find(table) != std::string::npos);
}

}  // namespace heterok8s::attach
