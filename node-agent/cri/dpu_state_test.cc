// Here, runtime-down or lost: heterocri between two runtimes in memory, with heterod's heartbeats beside them.
#include <atomic>
#include <future>

#include "common/fault/fault.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/lab/two_fakes.h"
#include "node-agent/cri/relay.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;
using testing::Eventually;

bool Becomes(TwoFakes& node, const std::string& reason) {
  return Eventually([&] { return node.DpuCondition().reason() == reason; });
}

bool IsThereAgain(TwoFakes& node) {
  return Eventually([&] { return node.DpuCondition().status(); });
}

// A Pod with a container that runs on the DPU; its id.
std::string Running(TwoFakes& node) {
  const rt::PodSandboxConfig pod = node.PodConfig("web");
  const std::string side = node.Create(node.RunPod(pod), pod, "side");
  node.Start(side);
  REQUIRE(node.StatusOf(side).state() == rt::CONTAINER_RUNNING);
  return side;
}

int Twins(TwoFakes& node) {
  CriClient dpu(UnixChannel(node.dpu().socket()));
  auto list =
      dpu.Call<rt::ListPodSandboxResponse>(kListPodSandbox, rt::ListPodSandboxRequest(), In(testing::kPatience));
  REQUIRE_OK(list);
  return list->items_size();
}

}  // namespace

TEST_CASE("a twin whose call ended before its sandbox was made does not stand in the way of the next call") {
  TwoFakes node;
  {
    fault::ScopedAction died("cri.pod.after-twin", [] { return absl::InternalError("as if we had died"); });
    REQUIRE(!node.TryRunPod(node.PodConfig("web")).ok());
  }

  REQUIRE_OK(node.TryRunPod(node.PodConfig("web")));

  CHECK(Twins(node) == 1);
}

TEST_CASE("a DPU that is alive while its runtime does not answer is not lost: its containers go on") {
  TwoFakes node;
  const std::string side = Running(node);

  node.dpu().Stop();

  REQUIRE(Becomes(node, "DPURuntimeDown"));
  CHECK(node.StatusOf(side).state() == rt::CONTAINER_RUNNING);
  CHECK_THAT(node.TryRunPod(node.PodConfig("next")).status(), testing::Says("the DPU's runtime is away"));
  node.dpu().Start();
  CHECK(IsThereAgain(node));
  CHECK(node.StatusOf(side).state() == rt::CONTAINER_RUNNING);
  CHECK(node.dpu().Asked("StopContainer").empty());
}

TEST_CASE("a DPU without heartbeats is lost although its runtime answers, and fenced when they return") {
  TwoFakes node;
  const std::string side = Running(node);

  node.heterod().SetDpuAlive(false);

  REQUIRE(Becomes(node, "DPULost"));
  CHECK(Eventually([&] { return node.StatusOf(side).state() == rt::CONTAINER_EXITED; }));
  CHECK(node.StatusOf(side).reason() == "DPULost");
  CHECK(node.dpu().Asked("StopContainer").empty());
  node.heterod().SetDpuAlive(true);
  CHECK(IsThereAgain(node));
  CHECK(node.dpu().Asked("StopContainer").size() == 1);
  CHECK(node.StatusOf(side).reason() == "DPULost");
}

TEST_CASE("a DPU whose heartbeats return while it is being told lost is not there before it is fenced") {
  TwoFakes node;
  const std::string side = Running(node);
  std::promise<void> go_on;
  std::atomic<bool> losing = false;
  fault::ScopedAction slow("cri.lose.after-table", [&, gate = go_on.get_future().share()] {
    losing = true;
    gate.wait_for(testing::kPatience);
    return absl::OkStatus();
  });
  node.heterod().SetDpuAlive(false);
  REQUIRE(Eventually([&] { return losing.load(); }));

  node.heterod().SetDpuAlive(true);

  HeterodLease heard(node.heterod().socket(), [] {});
  REQUIRE(Eventually([&] { return heard.state().word == HeterodLease::Word::kAlive; }));
  CHECK_FALSE(Eventually([&] { return node.DpuCondition().status(); }, std::chrono::milliseconds(300)));
  go_on.set_value();
  CHECK(IsThereAgain(node));
  CHECK(node.dpu().Asked("StopContainer").size() == 1);
}

TEST_CASE("while heterod on the host is away the DPU's own answers count, and its restart loses nothing") {
  constexpr std::chrono::milliseconds kLongLease{10000};
  TwoFakes node(true, kLongLease);
  const std::string side = Running(node);

  node.heterod().Stop();
  const size_t asked = node.dpu().Asked("ListContainers").size();
  // Longer than a lease of heterocri's.
  const auto end = std::chrono::steady_clock::now() + kLongLease + std::chrono::seconds(1);
  CHECK(Eventually([&] { return std::chrono::steady_clock::now() > end; }));
  CHECK(Eventually([&] { return node.dpu().Asked("ListContainers").size() > asked; }));
  CHECK(node.StatusOf(side).state() == rt::CONTAINER_RUNNING);
  node.heterod().Start();

  CHECK(IsThereAgain(node));
  CHECK(node.StatusOf(side).state() == rt::CONTAINER_RUNNING);
}

TEST_CASE(
    "while heterod on the host and the DPU's runtime are away, the DPU's heterod alone keeps it from being lost") {
  constexpr std::chrono::milliseconds kLongLease{15000};
  TwoFakes node(true, kLongLease);
  const std::string side = Running(node);

  node.heterod().Stop();
  node.dpu().SetAway(true);
  const auto end = std::chrono::steady_clock::now() + kLongLease + std::chrono::seconds(3);
  CHECK(Eventually([&] { return std::chrono::steady_clock::now() > end; }));

  CHECK(node.DpuCondition().reason() == "DPURuntimeDown");
  CHECK(node.StatusOf(side).state() == rt::CONTAINER_RUNNING);
  node.dpu().SetAway(false);
  CHECK(IsThereAgain(node));
  node.heterod().Start();
  CHECK(IsThereAgain(node));
  CHECK(node.StatusOf(side).state() == rt::CONTAINER_RUNNING);
  CHECK(node.dpu().Asked("StopContainer").empty());
}

TEST_CASE("while heterod on the host is away, a runtime that is slow on a DPU whose heterod answers loses nothing") {
  constexpr std::chrono::milliseconds kLongLease{10000};
  TwoFakes node(true, kLongLease);
  const std::string side = Running(node);
  const rt::PodSandboxConfig next = node.PodConfig("next");
  const std::string other = node.Create(node.RunPod(next), next, "side");
  node.dpu().On("ContainerStatus", [](std::shared_ptr<Call> call) {
    call->Fail(grpc::StatusCode::UNAVAILABLE, "its disk does not answer");
  });

  node.heterod().Stop();
  // Two lists and one status, which each look at `other` then needs, are longer than the lease.
  node.dpu().SetSlow(kLongLease * 2 / 5);
  node.dpu().Exit(other, 3);
  const size_t asked = node.dpu().Asked("ListPodSandbox").size();
  bool lost = false;
  REQUIRE(Eventually([&] {
    lost |= node.DpuCondition().reason() == "DPULost";
    return node.dpu().Asked("ListPodSandbox").size() > asked + 1;
  }));

  CHECK_FALSE(lost);
  CHECK(node.StatusOf(side).state() == rt::CONTAINER_RUNNING);
}

TEST_CASE("a container whose start was in flight while the DPU was lost does not run again") {
  TwoFakes node;
  const rt::PodSandboxConfig pod = node.PodConfig("web");
  const std::string side = node.Create(node.RunPod(pod), pod, "side");
  {
    fault::ScopedAction loss("cri.container-start.after-dpu", [&] {
      node.heterod().SetDpuAlive(false);
      if (!Eventually([&] { return node.StatusOf(side).reason() == "DPULost"; }))
        return absl::DeadlineExceededError("waited in vain");
      return absl::OkStatus();
    });
    rt::StartContainerRequest start;
    start.set_container_id(side);
    auto started = node.cri().Call<rt::StartContainerResponse>(kStartContainer, start, In(testing::kPatience));
    CHECK_THAT(started.status(), testing::Says("has ended"));
  }

  CHECK(node.StatusOf(side).reason() == "DPULost");
  node.heterod().SetDpuAlive(true);
  REQUIRE(IsThereAgain(node));
  CHECK(node.StatusOf(side).reason() == "DPULost");
}

TEST_CASE("a container that was being made while the DPU was lost is refused, and not left on the DPU") {
  TwoFakes node;
  const std::string other = Running(node);
  const rt::PodSandboxConfig pod = node.PodConfig("next");
  const std::string sandbox = node.RunPod(pod);
  {
    fault::ScopedAction loss("cri.create.after-dpu", [&] {
      node.heterod().SetDpuAlive(false);
      if (!Eventually([&] { return node.StatusOf(other).reason() == "DPULost"; }))
        return absl::DeadlineExceededError("waited in vain");
      return absl::OkStatus();
    });
    CHECK_THAT(node.TryCreate(node.Request(sandbox, pod, "side")).status(), testing::Says("the DPU was lost while"));
  }

  node.heterod().SetDpuAlive(true);
  REQUIRE(IsThereAgain(node));
  CHECK(Eventually([&] { return node.dpu().Asked("RemoveContainer").size() == 2; }));
  const auto list = node.Call<rt::ListContainersResponse>(kListContainers, rt::ListContainersRequest());
  REQUIRE(list.containers_size() == 1);
  CHECK(list.containers(0).id() == other);
}

TEST_CASE("a container whose image came over a loss of the DPU is of the epoch in which it was made") {
  TwoFakes node;
  const std::string other = Running(node);
  const rt::PodSandboxConfig pod = node.PodConfig("next");
  const std::string sandbox = node.RunPod(pod);
  std::string side;
  {
    fault::ScopedAction loss("cri.create.after-volumes", [&] {
      node.heterod().SetDpuAlive(false);
      if (!Eventually([&] { return node.StatusOf(other).reason() == "DPULost"; }))
        return absl::DeadlineExceededError("waited in vain");
      node.heterod().SetDpuAlive(true);
      if (!IsThereAgain(node)) return absl::DeadlineExceededError("waited in vain");
      return absl::OkStatus();
    });
    side = node.Create(sandbox, pod, "side");
  }
  node.Start(side);
  const size_t fenced = node.dpu().Asked("StopContainer").size();

  node.StopDaemon();
  node.StartDaemon();

  CHECK(node.StatusOf(side).state() == rt::CONTAINER_RUNNING);
  CHECK(node.dpu().Asked("StopContainer").size() == fenced);
}

TEST_CASE("a container that cannot be removed stays hidden, is tried again, and keeps nobody else from the DPU") {
  TwoFakes node;
  const std::string side = Running(node);
  node.dpu().On("RemoveContainer",
                [](std::shared_ptr<Call> call) { call->Fail(grpc::StatusCode::UNKNOWN, "device or resource busy"); });
  node.dpu().Stop();
  REQUIRE(Becomes(node, "DPURuntimeDown"));
  rt::RemoveContainerRequest remove;
  remove.set_container_id(side);
  node.Call<rt::RemoveContainerResponse>(kRemoveContainer, remove);

  node.dpu().Start();

  REQUIRE(IsThereAgain(node));
  CHECK(Eventually([&] { return node.dpu().Asked("RemoveContainer").size() > 2; }));
  CHECK(node.Call<rt::ListContainersResponse>(kListContainers, rt::ListContainersRequest()).containers().empty());
  CHECK_OK(node.TryRunPod(node.PodConfig("next")));
}

TEST_CASE("a container of an older epoch that cannot be stopped keeps only its own Pod from the DPU") {
  TwoFakes node;
  const rt::PodSandboxConfig pod = node.PodConfig("web"), next = node.PodConfig("next");
  const std::string sandbox = node.RunPod(pod), other = node.RunPod(next);
  const std::string side = node.Create(sandbox, pod, "side");
  node.Start(side);
  for (const char* method : {"StopContainer", "RemoveContainer"}) {
    node.dpu().On(
        method, [](std::shared_ptr<Call> call) { call->Fail(grpc::StatusCode::UNKNOWN, "the process does not die"); });
  }
  node.heterod().SetDpuAlive(false);
  REQUIRE(Eventually([&] { return node.StatusOf(side).reason() == "DPULost"; }));

  node.heterod().SetDpuAlive(true);

  REQUIRE(IsThereAgain(node));
  CHECK_THAT(node.TryCreate(node.Request(sandbox, pod, "side")).status(), testing::Says("of an older epoch"));
  CHECK_OK(node.TryCreate(node.Request(other, next, "side")));
  CHECK(node.StatusOf(side).reason() == "DPULost");
}

TEST_CASE("a state file that cannot be written says nothing of the DPU, and is written when it can be") {
  TwoFakes node;
  std::string side;
  {
    fault::ScopedAction full("cri.state.before-write", [] { return absl::ResourceExhaustedError("disk full"); });
    side = Running(node);
    const size_t asked = node.dpu().Asked("ListContainers").size();
    const auto end = std::chrono::steady_clock::now() + TwoFakes::kLease + std::chrono::seconds(1);
    REQUIRE(Eventually([&] { return std::chrono::steady_clock::now() > end; }));
    CHECK(Eventually([&] { return node.dpu().Asked("ListContainers").size() > asked; }));
    CHECK(node.DpuCondition().status());
    node.dpu().Exit(side, 3);
    CHECK(Eventually([&] { return node.StatusOf(side).state() == rt::CONTAINER_EXITED; }));
  }

  CHECK(Eventually([&] {
    PodTable written(node.folder() + "/state/cri.state");
    if (!written.Load().ok()) return false;
    auto found = written.FindContainer(side);
    return found && found->status.exit_code() == 3;
  }));
}

TEST_CASE("without a heterod and without an answer the DPU is lost") {
  TwoFakes node;
  const std::string side = Running(node);

  node.heterod().Stop();
  node.dpu().Stop();

  CHECK(Becomes(node, "DPULost"));
  CHECK(Eventually([&] { return node.StatusOf(side).reason() == "DPULost"; }));
}

}  // namespace heterok8s::cri
