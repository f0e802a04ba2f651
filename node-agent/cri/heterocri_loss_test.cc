// heterocri when the DPU, or its heterod, goes and returns; see lab/two_runtimes.h for the picture. Needs root.
#include <algorithm>
#include <filesystem>

#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/lab/kubelet.h"
#include "proto/heterok8s/v1/runtime.grpc.pb.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;
namespace rt = runtime::v1;
using testing::Eventually;

// As kubelet is told, the DPU included: from then on it takes containers.
bool IsReady(Lab& lab) {
  rt::StatusResponse now;
  if (!Ask(lab.cri(), &CriStub::Status, rt::StatusRequest(), &now).ok()) return false;
  const auto& conditions = now.status().conditions();
  return std::all_of(conditions.begin(), conditions.end(), [](const auto& condition) { return condition.status(); });
}

// Why kubelet is told that the DPU is not ready.
std::string DpuReason(Lab& lab) {
  rt::StatusResponse now;
  if (!Ask(lab.cri(), &CriStub::Status, rt::StatusRequest(), &now).ok()) return "";
  for (const rt::RuntimeCondition& condition : now.status().conditions()) {
    if (condition.type() == "HeteroK8sDPUReady") return condition.reason();
  }
  return "";
}

TEST_CASE("a lost DPU ends its containers for kubelet, blocks nothing, and is fenced when it returns") {
  Lab lab;
  Kubelet kubelet(lab);
  rt::PodSandboxConfig pod = lab.Pod("lost");
  (*pod.mutable_annotations())[kOffload] = "dpu";
  (*pod.mutable_annotations())[kOffloadContainers] = "side,other,unstarted";
  std::string sandbox = kubelet.Run(pod);
  std::string side = kubelet.Create(kubelet.Request(sandbox, pod, "side", kCount));
  std::string other = kubelet.Create(kubelet.Request(sandbox, pod, "other", kCount));
  std::string unstarted = kubelet.Create(kubelet.Request(sandbox, pod, "unstarted", kCount));
  kubelet.Start(side);
  kubelet.Start(other);

  const auto stopped = std::chrono::steady_clock::now();
  lab.dpu->Kill();
  lab.StopDpu();
  const rt::ContainerState soon = kubelet.List(lab.cri())["side"].state();
  CHECK((soon == rt::CONTAINER_RUNNING || std::chrono::steady_clock::now() - stopped > Lab::kLease));
  REQUIRE(Eventually([&] { return kubelet.List(lab.cri())["side"].state() == rt::CONTAINER_EXITED; }));
  CHECK(kubelet.Status(side).reason() == "DPULost");
  rt::StatusResponse status;
  REQUIRE(Ask(lab.cri(), &CriStub::Status, rt::StatusRequest(), &status).ok());
  for (const rt::RuntimeCondition& condition : status.status().conditions()) {
    INFO(condition.type());
    CHECK(condition.status() == (condition.type() != "HeteroK8sDPUReady"));
  }
  rt::ExecSyncRequest exec;
  exec.set_container_id(side);
  rt::ExecSyncResponse executed;
  CHECK(Ask(lab.cri(), &CriStub::ExecSync, exec, &executed).error_code() == grpc::StatusCode::UNAVAILABLE);

  // New Pods: by their own wish on the host, or not at all.
  rt::PodSandboxConfig next = lab.Pod("next");
  (*next.mutable_annotations())[kOffload] = "dpu";
  std::string next_sandbox = kubelet.Run(next);
  kubelet.Create(kubelet.Request(next_sandbox, next, "side", kCount));
  CHECK(kubelet.List(lab.host->cri())["side"].annotations().at(kPlacementReason).find("the DPU is away") !=
        std::string::npos);
  kubelet.End(next_sandbox);
  rt::RunPodSandboxRequest strict;
  *strict.mutable_config() = lab.Pod("strict");
  (*strict.mutable_config()->mutable_annotations())[kOffload] = "dpu";
  (*strict.mutable_config()->mutable_annotations())[kFallback] = "pending";
  rt::RunPodSandboxResponse response;
  CHECK(Ask(lab.cri(), &CriStub::RunPodSandbox, strict, &response).error_code() == grpc::StatusCode::UNAVAILABLE);

  // kubelet removes one of the lost; heterocri forgets nothing of it by a restart.
  CHECK(Text(kubelet.Remove(other)) == "OK");
  lab.KillHeterocri();
  lab.StartHeterocri();
  auto listed = kubelet.List(lab.cri());
  CHECK(listed.count("other") == 0);
  CHECK(listed["side"].state() == rt::CONTAINER_EXITED);

  lab.dpu->Start();
  lab.ServeDpu();
  REQUIRE(Eventually([&] { return kubelet.List(lab.dpu->cri()).empty(); }));
  CHECK(kubelet.Status(side).reason() == "DPULost");
  CHECK(kubelet.Status(unstarted).reason() == "DPULost");
  CHECK(Text(kubelet.Remove(side)) == "OK");
  // The DPU takes containers again, in the same Pod.
  REQUIRE(Eventually([&] { return IsReady(lab); }));
  rt::CreateContainerRequest again = kubelet.Request(sandbox, pod, "side", kCount);
  again.mutable_config()->mutable_metadata()->set_attempt(1);
  side = kubelet.Create(again);
  kubelet.Start(side);
  CHECK(kubelet.List(lab.dpu->cri())["side"].id() == side);
  kubelet.End(sandbox);
  CHECK(kubelet.Sandboxes(lab.dpu->cri()) == 0);
}

TEST_CASE("what ran on while the DPU's agent was away for longer than the lease has ended when it is back") {
  Lab lab;
  Kubelet kubelet(lab);
  rt::PodSandboxConfig pod = lab.Pod("fenced");
  (*pod.mutable_annotations())[kOffload] = "dpu";
  std::string sandbox = kubelet.Run(pod);
  const std::string first = kubelet.Create(kubelet.Request(sandbox, pod, "side", kCount));
  kubelet.Start(first);
  lab.StopDpu();
  REQUIRE(Eventually([&] { return kubelet.List(lab.cri())["side"].state() == rt::CONTAINER_EXITED; }));
  CHECK(kubelet.List(lab.dpu->cri())["side"].state() == rt::CONTAINER_RUNNING);

  lab.ServeDpu();

  REQUIRE(Eventually([&] { return kubelet.List(lab.dpu->cri()).empty(); }));
  CHECK(kubelet.List(lab.cri())["side"].state() == rt::CONTAINER_EXITED);
  CHECK(kubelet.Status(first).reason() == "DPULost");
  CHECK(Consecutive(Numbers(pod.log_directory() + "/side/0.log")));
  auto router = v1::Router::NewStub(lab.channel());
  grpc::ClientContext context;
  v1::PlacementsReply placements;
  REQUIRE(router->Placements(&context, v1::PlacementsRequest(), &placements).ok());
  REQUIRE(placements.placements_size() == 1);
  CHECK(placements.placements(0).reason().find("the DPU did not answer for longer than the lease") == 0);
  // kubelet makes the next one beside it, when the DPU is there again, and removes the old one later: the new one is
  // the only one on the DPU.
  REQUIRE(Eventually([&] { return IsReady(lab); }));
  rt::CreateContainerRequest next = kubelet.Request(sandbox, pod, "side", kCount);
  next.mutable_config()->mutable_metadata()->set_attempt(1);
  const std::string second = kubelet.Create(next);
  kubelet.Start(second);
  CHECK(Text(kubelet.Remove(first)) == "OK");
  auto on_dpu = kubelet.List(lab.dpu->cri());
  CHECK(on_dpu.size() == 1);
  CHECK(on_dpu["side"].id() == second);
  CHECK(kubelet.List(lab.cri())["side"].id() == second);
  kubelet.End(sandbox);
  CHECK(kubelet.List(lab.cri()).empty());
  CHECK(kubelet.Sandboxes(lab.dpu->cri()) == 0);
  CHECK(fs::is_empty(lab.folder() + "/dpu/logs"));
}

TEST_CASE("an outage of the DPU's agent that is shorter than the lease changes nothing") {
  Lab lab(std::chrono::minutes(2));  // no outage of this test is longer, however slow the machine
  Kubelet kubelet(lab);
  rt::PodSandboxConfig pod = lab.Pod("short");
  (*pod.mutable_annotations())[kOffload] = "dpu";
  std::string sandbox = kubelet.Run(pod);
  std::string side = kubelet.Create(kubelet.Request(sandbox, pod, "side", kCount));
  kubelet.Start(side);
  const int64_t started = kubelet.Status(side).started_at();
  rt::ExecSyncRequest exec;
  exec.set_container_id(side);
  exec.add_cmd("/bin/true");
  rt::ExecSyncResponse done;

  lab.StopDpu();
  CHECK(Ask(lab.cri(), &CriStub::ExecSync, exec, &done).error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(kubelet.List(lab.cri())["side"].state() == rt::CONTAINER_RUNNING);
  lab.ServeDpu();

  CHECK(Eventually([&] { return Ask(lab.cri(), &CriStub::ExecSync, exec, &done).ok(); }));
  CHECK(kubelet.List(lab.cri())["side"].state() == rt::CONTAINER_RUNNING);
  CHECK(kubelet.List(lab.dpu->cri())["side"].id() == side);
  CHECK(kubelet.Status(side).started_at() == started);
  const std::string log = pod.log_directory() + "/side/0.log";
  const size_t lines = Numbers(log).size();
  CHECK(Eventually([&] { return Numbers(log).size() > lines; }));
  CHECK(Consecutive(Numbers(log)));
  kubelet.End(sandbox);
}

TEST_CASE("heterod on the host and containerd on the DPU may be away together for longer than the lease") {
  Lab lab(std::chrono::seconds(15));  // also from the start of a heterocri to the first answer of the DPU's heterod
  Kubelet kubelet(lab);
  rt::PodSandboxConfig pod = lab.Pod("kept");
  (*pod.mutable_annotations())[kOffload] = "dpu";
  const std::string sandbox = kubelet.Run(pod);
  const std::string side = kubelet.Create(kubelet.Request(sandbox, pod, "side", kCount));
  kubelet.Start(side);
  const int64_t started = kubelet.Status(side).started_at();

  lab.heterod().Stop();
  lab.dpu->Kill();
  REQUIRE(Eventually([&] { return DpuReason(lab) == "DPURuntimeDown"; }));
  CHECK(kubelet.List(lab.cri())["side"].state() == rt::CONTAINER_RUNNING);
  lab.KillHeterocri();
  lab.StartHeterocri();
  CHECK(DpuReason(lab) == "DPURuntimeDown");
  CHECK(kubelet.List(lab.cri())["side"].state() == rt::CONTAINER_RUNNING);
  lab.dpu->Start();
  lab.heterod().Start();

  REQUIRE(Eventually([&] { return IsReady(lab); }));
  CHECK(kubelet.List(lab.dpu->cri())["side"].state() == rt::CONTAINER_RUNNING);
  CHECK(kubelet.Status(side).state() == rt::CONTAINER_RUNNING);
  CHECK(kubelet.Status(side).started_at() == started);
  kubelet.End(sandbox);
  CHECK(kubelet.Sandboxes(lab.dpu->cri()) == 0);
}

TEST_CASE("a Pod whose twin has died gets a new one with its next container, and what had ended stays listed") {
  Lab lab;
  Kubelet kubelet(lab);
  rt::PodSandboxConfig pod = lab.Pod("reborn");
  (*pod.mutable_annotations())[kOffload] = "dpu";
  (*pod.mutable_annotations())[kFallback] = "pending";
  const std::string sandbox = kubelet.Run(pod);
  const std::string first = kubelet.Create(kubelet.Request(sandbox, pod, "side", kCount));
  kubelet.Start(first);

  // A reboot would leave it so: known, and not running.
  rt::ListPodSandboxResponse twins;
  REQUIRE(Ask(lab.dpu->cri(), &CriStub::ListPodSandbox, rt::ListPodSandboxRequest(), &twins).ok());
  REQUIRE(twins.items_size() == 1);
  rt::StopPodSandboxRequest stop;
  stop.set_pod_sandbox_id(twins.items(0).id());
  rt::StopPodSandboxResponse stopped;
  REQUIRE(Ask(lab.dpu->cri(), &CriStub::StopPodSandbox, stop, &stopped).ok());
  REQUIRE(Eventually([&] { return kubelet.Status(first).state() == rt::CONTAINER_EXITED; }));
  CHECK(Consecutive(Numbers(pod.log_directory() + "/side/0.log")));  // the next one writes to the same file
  rt::CreateContainerRequest next = kubelet.Request(sandbox, pod, "side", kCount);
  next.mutable_config()->mutable_metadata()->set_attempt(1);
  const std::string second = kubelet.Create(next);
  kubelet.Start(second);

  CHECK(kubelet.Sandboxes(lab.dpu->cri()) == 1);
  CHECK(kubelet.List(lab.dpu->cri())["side"].id() == second);
  CHECK(kubelet.Status(second).state() == rt::CONTAINER_RUNNING);
  CHECK(kubelet.Status(first).state() == rt::CONTAINER_EXITED);
  kubelet.End(sandbox);
  CHECK(kubelet.List(lab.cri()).empty());
  CHECK(kubelet.Sandboxes(lab.dpu->cri()) == 0);
  CHECK(fs::is_empty(lab.folder() + "/dpu/logs"));
}

TEST_CASE("a Pod that ends while the DPU's agent is away leaves nothing on the DPU") {
  Lab lab;
  Kubelet kubelet(lab);
  rt::PodSandboxConfig pod = lab.Pod("gone");
  (*pod.mutable_annotations())[kOffload] = "dpu";
  std::string sandbox = kubelet.Run(pod);
  kubelet.Start(kubelet.Create(kubelet.Request(sandbox, pod, "side", kCount)));

  lab.StopDpu();
  REQUIRE(Eventually([&] { return kubelet.List(lab.cri())["side"].state() == rt::CONTAINER_EXITED; }));
  kubelet.End(sandbox);
  CHECK(kubelet.List(lab.cri()).empty());
  CHECK(kubelet.Sandboxes(lab.dpu->cri()) == 1);
  lab.ServeDpu();

  CHECK(Eventually([&] { return kubelet.Sandboxes(lab.dpu->cri()) == 0; }));
  CHECK(Eventually([&] { return fs::is_empty(lab.folder() + "/dpu/logs"); }));
}

}  // namespace
}  // namespace heterok8s::cri
