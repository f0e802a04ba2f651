// A DPU that has lost the sandboxes of its Pods: heterocri between two runtimes in memory.
#include <atomic>
#include <filesystem>

#include "common/fault/fault.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/lab/two_fakes.h"
#include "node-agent/cri/relay.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;
using testing::Eventually;

// A Pod whose container "side" is on the DPU; its fallback is 'pending'.
struct Scene {
  Scene() : dpu(UnixChannel(node.dpu().socket())), pod(node.PodConfig("web")) {
    pod.set_hostname("web");
    (*pod.mutable_labels())["app"] = "web";
    (*pod.mutable_annotations())[kVolumes] = "cache=side";
    sandbox = node.RunPod(pod);
    folder = node.folder() + "/pods/web-uid/volumes/kubernetes.io~empty-dir/cache";
    REQUIRE(std::filesystem::create_directories(folder));
  }
  rt::CreateContainerRequest Request(uint32_t attempt) {
    rt::CreateContainerRequest request = node.Request(sandbox, pod, "side");
    request.mutable_config()->mutable_metadata()->set_attempt(attempt);
    rt::Mount& mount = *request.mutable_config()->add_mounts();
    mount.set_host_path(folder);
    mount.set_container_path("/cache");
    return request;
  }
  std::string Running(uint32_t attempt) {
    auto made = node.TryCreate(Request(attempt));
    REQUIRE_OK(made);
    node.Start(*made);
    REQUIRE(node.StatusOf(*made).state() == rt::CONTAINER_RUNNING);
    return *made;
  }
  bool Ends(const std::string& id) {
    return Eventually([&] { return node.StatusOf(id).state() == rt::CONTAINER_EXITED; });
  }
  std::vector<rt::PodSandbox> Twins() {
    auto list =
        dpu.Call<rt::ListPodSandboxResponse>(kListPodSandbox, rt::ListPodSandboxRequest(), In(testing::kPatience));
    REQUIRE_OK(list);
    return {list->items().begin(), list->items().end()};
  }
  std::set<std::string> Listed(CriClient& runtime) {
    auto list =
        runtime.Call<rt::ListContainersResponse>(kListContainers, rt::ListContainersRequest(), In(testing::kPatience));
    REQUIRE_OK(list);
    std::set<std::string> ids;
    for (const rt::Container& each : list->containers()) ids.insert(each.id());
    return ids;
  }
  // Longer than one look of heterocri at the DPU, which has begun after this was called.
  void LooksAgain() {
    const size_t asked = node.dpu().Asked("ListContainers").size();
    REQUIRE(Eventually([&] { return node.dpu().Asked("ListContainers").size() > asked + 2; }));
  }

  TwoFakes node;
  CriClient dpu;
  rt::PodSandboxConfig pod;
  std::string sandbox, folder;
};

}  // namespace

TEST_CASE("a sandbox that was made without heterocri is the host's, whatever its annotations claim") {
  TwoFakes node;
  CriClient host(UnixChannel(node.host().socket()));
  rt::RunPodSandboxRequest request;
  *request.mutable_config() = node.PodConfig("web");
  auto& annotations = *request.mutable_config()->mutable_annotations();
  annotations[kFallback] = "fail";
  annotations[kLogDirectory] = "/etc";
  SECTION("to be split") { annotations[kPlacement] = "split"; }
  SECTION("to have been refused by the DPU") { annotations[kRefused] = "x"; }
  SECTION("to be marked") {
    annotations[kPlacement] = "split";
    annotations[kMark] = std::string(64, '0');
  }
  node.StopDaemon();
  auto made = host.Call<rt::RunPodSandboxResponse>(kRunPodSandbox, request, In(testing::kPatience));
  REQUIRE_OK(made);
  node.StartDaemon();

  const std::string id = node.Create(made->pod_sandbox_id(), request.config(), "side");

  CHECK(node.host().Asked("CreateContainer").size() == 1);
  CHECK(node.dpu().Asked("RunPodSandbox").empty());
  CHECK_THAT(node.StatusOf(id).log_path(), !Catch::StartsWith("/etc"));
}

TEST_CASE("a Pod that heterocri made is split after its restart, also without the state file") {
  TwoFakes node;
  const rt::PodSandboxConfig pod = node.PodConfig("web");
  const std::string sandbox = node.RunPod(pod);
  node.StopDaemon();
  std::filesystem::remove(node.folder() + "/state/cri.state");
  node.StartDaemon();

  node.Create(sandbox, pod, "side");

  CHECK(node.dpu().Asked("CreateContainer").size() == 1);
}

TEST_CASE("a Pod of a heterocri that made no marks is split for one that does, by the state file") {
  TwoFakes node;
  const rt::PodSandboxConfig pod = node.PodConfig("web");
  const std::string sandbox = node.RunPod(pod);
  node.Create(sandbox, pod, "side");
  REQUIRE(Eventually([&] {
    PodTable written(node.folder() + "/state/cri.state");
    return written.Load().ok() && written.KnowsTwinOf(sandbox);
  }));
  node.StopDaemon();
  std::filesystem::remove(node.folder() + "/state/cri.key");
  node.StartDaemon();

  node.Create(sandbox, pod, "side");

  CHECK(node.dpu().Asked("CreateContainer").size() == 2);
}

TEST_CASE("a Pod of which nothing says that heterocri made it is the host's, but its twin lives as long as it does") {
  Scene scene;
  const std::string first = scene.Running(0);
  scene.node.StopDaemon();
  std::filesystem::remove(scene.node.folder() + "/state/cri.key");
  std::filesystem::remove(scene.node.folder() + "/state/cri.state");
  scene.node.StartDaemon();
  scene.LooksAgain();

  REQUIRE(scene.node.dpu().Asked("StopPodSandbox").empty());
  CHECK(scene.Listed(scene.dpu) == std::set<std::string>{first});
  const std::string second = scene.node.Create(scene.sandbox, scene.pod, "side");
  CHECK(scene.node.host().Asked("CreateContainer").size() == 1);
  CHECK(scene.Listed(scene.node.cri()) == std::set<std::string>{second});

  rt::StopPodSandboxRequest stop;
  stop.set_pod_sandbox_id(scene.sandbox);
  scene.node.Call<rt::StopPodSandboxResponse>(kStopPodSandbox, stop);
  CHECK(Eventually([&] { return scene.Twins().at(0).state() == rt::SANDBOX_NOTREADY; }));
  rt::RemovePodSandboxRequest remove;
  remove.set_pod_sandbox_id(scene.sandbox);
  scene.node.Call<rt::RemovePodSandboxResponse>(kRemovePodSandbox, remove);
  CHECK(Eventually([&] { return scene.Twins().empty(); }));
}

TEST_CASE("a twin that a reboot of the DPU has ended is made anew for the Pod's next container") {
  Scene scene;
  const std::string first = scene.Running(0);
  const rt::PodSandbox before = scene.Twins().front();

  scene.node.dpu().Reboot();
  REQUIRE(scene.Ends(first));
  const std::string second = scene.Running(1);

  REQUIRE(scene.Twins().size() == 1);
  const rt::PodSandbox after = scene.Twins().front();
  CHECK(after.id() != before.id());
  CHECK(after.state() == rt::SANDBOX_READY);
  CHECK(after.metadata().SerializeAsString() == before.metadata().SerializeAsString());
  CHECK(std::map(after.annotations().begin(), after.annotations().end()) ==
        std::map(before.annotations().begin(), before.annotations().end()));
  CHECK(after.labels().at("app") == "web");
  rt::RunPodSandboxRequest asked;
  REQUIRE(asked.ParseFromString(scene.node.dpu().Asked("RunPodSandbox").back()));
  CHECK(asked.config().hostname() == "web");
  CHECK(scene.Listed(scene.dpu) == std::set<std::string>{second});
  // Its emptyDir is the one that it had.
  rt::CreateContainerRequest made;
  REQUIRE(made.ParseFromString(scene.node.dpu().Asked("CreateContainer").back()));
  CHECK(std::filesystem::exists(made.config().mounts(0).host_path()));
  CHECK(made.pod_sandbox_id() == after.id());
}

TEST_CASE("what ended in a twin that has died stays listed, also over a restart, until kubelet removes it") {
  Scene scene;
  const std::string first = scene.Running(0);
  scene.node.dpu().Exit(first, 3);
  REQUIRE(scene.Ends(first));
  scene.node.dpu().Reboot();

  const std::string second = scene.Running(1);

  scene.LooksAgain();
  CHECK(scene.Listed(scene.node.cri()) == std::set<std::string>{first, second});
  CHECK(scene.node.StatusOf(first).exit_code() == 3);
  scene.node.StopDaemon();
  scene.node.StartDaemon();
  CHECK(scene.Listed(scene.node.cri()) == std::set<std::string>{first, second});
  rt::RemoveContainerRequest remove;
  remove.set_container_id(first);
  scene.node.Call<rt::RemoveContainerResponse>(kRemoveContainer, remove);
  scene.LooksAgain();
  CHECK(scene.Listed(scene.node.cri()) == std::set<std::string>{second});
}

TEST_CASE("what stays listed of a twin that has died is written down once, and not at each look") {
  Scene scene;
  const std::string first = scene.Running(0);
  scene.node.dpu().Reboot();
  REQUIRE(scene.Ends(first));
  scene.Running(1);
  scene.LooksAgain();
  std::atomic<int> written = 0;
  fault::ScopedAction counts("cri.state.before-write", [&] {
    ++written;
    return absl::OkStatus();
  });
  scene.LooksAgain();

  CHECK(written == 0);
}

TEST_CASE("a twin that has died goes when all that its containers said is on the host, and not before") {
  Scene scene;
  const std::string first = scene.Running(0);
  scene.node.dpu().Reboot();
  REQUIRE(scene.Ends(first));
  {
    fault::ScopedAction slow("cri.end.after-log", [] { return absl::InternalError("not all of it came"); });
    CHECK(scene.node.TryCreate(scene.Request(1)).status().code() == absl::StatusCode::kAborted);
    CHECK(scene.Listed(scene.dpu) == std::set<std::string>{first});
  }

  const std::string second = scene.Running(2);

  CHECK(scene.Listed(scene.dpu) == std::set<std::string>{second});
}

TEST_CASE("a twin that the DPU's runtime does not even know any more is made anew") {
  Scene scene;
  rt::RemovePodSandboxRequest remove;
  remove.set_pod_sandbox_id(scene.Twins().front().id());
  REQUIRE_OK(scene.dpu.Call<rt::RemovePodSandboxResponse>(kRemovePodSandbox, remove, In(testing::kPatience)));

  scene.Running(0);

  CHECK(scene.Twins().size() == 1);
}

TEST_CASE("a heterocri that dies between any two steps of making a twin anew goes on where it was") {
  const std::string point =
      GENERATE("cri.remake.after-stop", "cri.remake.after-keep", "cri.remake.after-removal", "cri.pod.after-twin");
  CAPTURE(point);
  Scene scene;
  const std::string first = scene.Running(0);
  scene.node.dpu().Reboot();
  REQUIRE(scene.Ends(first));
  {
    fault::ScopedAction died(point, [] { return absl::InternalError("as if we had died"); });
    REQUIRE_FALSE(scene.node.TryCreate(scene.Request(1)).ok());
  }
  if (GENERATE(false, true)) {
    scene.node.StopDaemon();
    scene.node.StartDaemon();
  }

  const std::string second = scene.Running(2);

  REQUIRE(scene.Twins().size() == 1);
  CHECK(scene.Twins().front().state() == rt::SANDBOX_READY);
  CHECK(scene.Listed(scene.dpu) == std::set<std::string>{second});
  CHECK(scene.Listed(scene.node.cri()) == std::set<std::string>{first, second});
  rt::StopPodSandboxRequest stop;
  stop.set_pod_sandbox_id(scene.sandbox);
  scene.node.Call<rt::StopPodSandboxResponse>(kStopPodSandbox, stop);
  rt::RemovePodSandboxRequest remove;
  remove.set_pod_sandbox_id(scene.sandbox);
  scene.node.Call<rt::RemovePodSandboxResponse>(kRemovePodSandbox, remove);
  CHECK(scene.Twins().empty());
  CHECK(scene.Listed(scene.node.cri()).empty());
  CHECK_FALSE(std::filesystem::exists(scene.node.folder() + "/dpu/volumes/web-uid"));
}

}  // namespace heterok8s::cri
