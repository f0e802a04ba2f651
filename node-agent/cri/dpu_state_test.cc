// Here, runtime-down or lost: heterocri between two runtimes in memory, with heterod's heartbeats beside them.
#include "common/fault/fault.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/lab/two_fakes.h"
#include "node-agent/cri/relay.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr int kPatience = 60;  // seconds

rt::RuntimeCondition Condition(TwoFakes& node) {
  auto status = node.Call<rt::StatusResponse>(kStatus, rt::StatusRequest());
  for (const rt::RuntimeCondition& condition : status.status().conditions()) {
    if (condition.type() == "HeteroK8sDPUReady") return condition;
  }
  FAIL("no condition of the DPU");
  return {};
}

bool Here(TwoFakes& node) {
  return SoonTrue([&] { return Condition(node).status(); }, kPatience);
}

bool Becomes(TwoFakes& node, const std::string& reason) {
  return SoonTrue([&] { return Condition(node).reason() == reason; }, kPatience);
}

rt::ContainerStatus StatusOf(TwoFakes& node, const std::string& id) {
  rt::ContainerStatusRequest request;
  request.set_container_id(id);
  return node.Call<rt::ContainerStatusResponse>(kContainerStatus, request).status();
}

// A Pod with a container that runs on the DPU; its id.
std::string Running(TwoFakes& node) {
  REQUIRE(Here(node));
  const rt::PodSandboxConfig pod = node.PodConfig("web");
  const std::string side = node.Create(node.RunPod(pod), pod, "side");
  node.Start(side);
  REQUIRE(StatusOf(node, side).state() == rt::CONTAINER_RUNNING);
  return side;
}

int Twins(TwoFakes& node) {
  CriClient dpu(UnixChannel(node.dpu().socket()));
  auto list = dpu.Call<rt::ListPodSandboxResponse>(kListPodSandbox, rt::ListPodSandboxRequest(),
                                                   In(std::chrono::seconds(kPatience)));
  REQUIRE_OK(list);
  return list->items_size();
}

}  // namespace

TEST_CASE("a twin whose call ended before its sandbox was made does not stand in the way of the next call") {
  TwoFakes node;
  REQUIRE(Here(node));
  rt::RunPodSandboxRequest request;
  *request.mutable_config() = node.PodConfig("web");
  {
    fault::ScopedAction died("cri.pod.after-twin", [] { return absl::InternalError("as if we had died"); });
    auto failed =
        node.cri().Call<rt::RunPodSandboxResponse>(kRunPodSandbox, request, In(std::chrono::seconds(kPatience)));
    REQUIRE(!failed.ok());
  }

  auto made = node.cri().Call<rt::RunPodSandboxResponse>(kRunPodSandbox, request, In(std::chrono::seconds(kPatience)));

  REQUIRE_OK(made);
  CHECK(Twins(node) == 1);
}

TEST_CASE("a DPU that is alive while its runtime does not answer is not lost: its containers go on") {
  TwoFakes node;
  const std::string side = Running(node);

  node.dpu().Stop();

  REQUIRE(Becomes(node, "DPURuntimeDown"));
  CHECK(StatusOf(node, side).state() == rt::CONTAINER_RUNNING);
  rt::RunPodSandboxRequest strict;  // fallback: pending
  *strict.mutable_config() = node.PodConfig("next");
  auto refused =
      node.cri().Call<rt::RunPodSandboxResponse>(kRunPodSandbox, strict, In(std::chrono::seconds(kPatience)));
  CHECK_THAT(refused.status(), testing::Says("the DPU's runtime is away"));
  node.dpu().Start();
  CHECK(Here(node));
  CHECK(StatusOf(node, side).state() == rt::CONTAINER_RUNNING);
  CHECK(node.dpu().Asked("StopContainer").empty());
}

TEST_CASE("a DPU without heartbeats is lost although its runtime answers, and fenced when they return") {
  TwoFakes node;
  const std::string side = Running(node);

  node.heterod().SetDpuAlive(false);

  REQUIRE(Becomes(node, "DPULost"));
  CHECK(SoonTrue([&] { return StatusOf(node, side).state() == rt::CONTAINER_EXITED; }, kPatience));
  CHECK(StatusOf(node, side).reason() == "DPULost");
  CHECK(node.dpu().Asked("StopContainer").empty());
  node.heterod().SetDpuAlive(true);
  CHECK(Here(node));
  CHECK(node.dpu().Asked("StopContainer").size() == 1);
  CHECK(StatusOf(node, side).reason() == "DPULost");
}

TEST_CASE("while heterod on the host is away the DPU's own answers count, and its restart loses nothing") {
  TwoFakes node;
  const std::string side = Running(node);

  node.heterod().Stop();
  const size_t asked = node.dpu().Asked("ListContainers").size();
  // Longer than a lease of heterocri's.
  const auto end = std::chrono::steady_clock::now() + TwoFakes::kLease + std::chrono::seconds(1);
  CHECK(SoonTrue([&] { return std::chrono::steady_clock::now() > end; }, kPatience));
  CHECK(SoonTrue([&] { return node.dpu().Asked("ListContainers").size() > asked; }, kPatience));
  CHECK(StatusOf(node, side).state() == rt::CONTAINER_RUNNING);
  node.heterod().Start();

  CHECK(Here(node));
  CHECK(StatusOf(node, side).state() == rt::CONTAINER_RUNNING);
}

TEST_CASE("without a heterod and without an answer the DPU is lost") {
  TwoFakes node;
  const std::string side = Running(node);

  node.heterod().Stop();
  node.dpu().Stop();

  CHECK(Becomes(node, "DPULost"));
  CHECK(SoonTrue([&] { return StatusOf(node, side).reason() == "DPULost"; }, kPatience));
}

}  // namespace heterok8s::cri
