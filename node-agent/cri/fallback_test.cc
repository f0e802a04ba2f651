// What becomes of containers that the DPU cannot take, by annotation heteropod.io/fallback: heterocri between two
// runtimes in memory.
#include <filesystem>

#include "common/testing/matchers.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/lab/two_fakes.h"
#include "node-agent/cri/relay.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;
using testing::Eventually;
using testing::Says;

// A Pod with this fallback, whose container "side" belongs on the DPU and "app" on the host.
struct Scene {
  explicit Scene(const std::string& fallback) : pod(node.PodConfig("web")) {
    (*pod.mutable_annotations())[kFallback] = fallback;
  }
  // Until heterocri knows of it.
  void SetDpuThere(bool there) {
    node.heterod().SetDpuAlive(there);
    REQUIRE(Eventually([&] { return node.DpuCondition().status() == there; }));
  }
  void RunPod() { sandbox = node.RunPod(pod); }
  rt::CreateContainerRequest Request(const std::string& name) {
    rt::CreateContainerRequest request = node.Request(sandbox, pod, name);
    (*request.mutable_config()->mutable_labels())["io.kubernetes.container.name"] = name;
    request.mutable_config()->set_log_path(name + "/0.log");
    return request;
  }
  absl::StatusOr<std::string> Create(const std::string& name) { return node.TryCreate(Request(name)); }
  absl::Status Start(const std::string& id) {
    rt::StartContainerRequest request;
    request.set_container_id(id);
    return node.cri().Call<rt::StartContainerResponse>(kStartContainer, request, In(testing::kPatience)).status();
  }
  std::vector<std::string> Listed() {
    const auto list = node.Call<rt::ListContainersResponse>(kListContainers, rt::ListContainersRequest());
    std::vector<std::string> ids;
    for (const rt::Container& each : list.containers()) ids.push_back(each.id());
    return ids;
  }
  // "side" is made and has ended, nothing can start it, and it goes when it is removed.
  void CheckEndsBeforeItBegins() {
    auto made = Create("side");
    REQUIRE_OK(made);
    CHECK(made->size() == 64);
    const rt::ContainerStatus status = node.StatusOf(*made);
    CHECK(status.state() == rt::CONTAINER_EXITED);
    CHECK(status.exit_code() == 128);
    CHECK(status.reason() == "DPUUnavailable");
    CHECK_THAT(status.message(), Catch::Contains("(fallback is 'fail')"));
    CHECK(status.labels().at("io.kubernetes.container.name") == "side");
    CHECK_THAT(Start(*made), Says("(fallback is 'fail')"));
    rt::UpdateContainerResourcesRequest update;
    update.set_container_id(*made);
    auto updated = node.cri().Call<rt::UpdateContainerResourcesResponse>(
        "/runtime.v1.RuntimeService/UpdateContainerResources", update, In(testing::kPatience));
    CHECK_THAT(updated.status(), Says("(fallback is 'fail')"));
    CHECK(Listed() == std::vector<std::string>{*made});
    CHECK(node.host().Asked("CreateContainer").empty());
    rt::RemoveContainerRequest remove;
    remove.set_container_id(*made);
    node.Call<rt::RemoveContainerResponse>(kRemoveContainer, remove);
    CHECK(Listed().empty());
  }

  TwoFakes node;
  rt::PodSandboxConfig pod;
  std::string sandbox;
};

}  // namespace

TEST_CASE("by 'pending' a Pod and its container wait for the DPU, and are made when it is back") {
  Scene scene("pending");
  scene.RunPod();
  const rt::PodSandboxConfig next = scene.node.PodConfig("next");

  scene.SetDpuThere(false);
  CHECK_THAT(scene.Create("side").status(), Says("(fallback is 'pending')"));
  CHECK_THAT(scene.node.TryRunPod(next).status(), Says("(fallback is 'pending')"));
  CHECK(scene.Listed().empty());

  scene.SetDpuThere(true);
  CHECK_OK(scene.node.TryRunPod(next));
  auto made = scene.Create("side");
  REQUIRE_OK(made);
  CHECK_OK(scene.Start(*made));
  CHECK(scene.node.dpu().Asked("CreateContainer").size() == 1);
}

TEST_CASE("by 'fail' a container ends before it begins when the DPU goes after its Pod was made") {
  Scene scene("fail");
  scene.RunPod();

  scene.SetDpuThere(false);
  scene.CheckEndsBeforeItBegins();

  scene.SetDpuThere(true);
  auto again = scene.Create("side");
  REQUIRE_OK(again);
  CHECK_OK(scene.Start(*again));
  CHECK(scene.node.StatusOf(*again).state() == rt::CONTAINER_RUNNING);
}

TEST_CASE("by 'fail' a Pod that is made without the DPU fails by its containers, and does so until it is made anew") {
  Scene scene("fail");
  scene.SetDpuThere(false);
  scene.RunPod();

  scene.CheckEndsBeforeItBegins();

  scene.SetDpuThere(true);
  auto again = scene.Create("side");
  REQUIRE_OK(again);
  CHECK(scene.node.StatusOf(*again).reason() == "DPUUnavailable");
  CHECK_OK(scene.Create("app"));
  CHECK(scene.node.host().Asked("CreateContainer").size() == 1);
}

TEST_CASE("by 'fail' what a DPU that is there refuses is refused, as a runtime would") {
  Scene scene("fail");
  scene.RunPod();
  scene.node.dpu().On("CreateContainer", [](std::shared_ptr<Call> call) {
    call->Fail(grpc::StatusCode::INVALID_ARGUMENT, "no such user");
  });

  CHECK_THAT(scene.Create("side").status(), Says("no such user"));
  CHECK(scene.Listed().empty());
}

TEST_CASE("by 'fail' a DPU that is there and cannot do it in time is no DPU that is away: kubelet asks again") {
  Scene scene("fail");
  auto late = [](std::shared_ptr<Call> call) {
    call->Fail(grpc::StatusCode::DEADLINE_EXCEEDED, "the registry does not answer");
  };
  if (GENERATE(true, false)) {
    scene.RunPod();
    scene.node.dpu().On("CreateContainer", late);
    CHECK_THAT(scene.Create("side").status(), Says("the registry does not answer"));
  } else {
    scene.node.dpu().On("RunPodSandbox", late);
    CHECK_THAT(scene.node.TryRunPod(scene.pod).status(), Says("the registry does not answer"));
  }

  CHECK(scene.Listed().empty());
}

TEST_CASE("by 'host' a container that was lost with its emptyDir runs on the host, with the host's folder") {
  Scene scene("host");
  (*scene.pod.mutable_annotations())[kVolumes] = "cache=side";
  scene.RunPod();
  const std::string folder = scene.node.folder() + "/pods/web-uid/volumes/kubernetes.io~empty-dir/cache";
  REQUIRE(std::filesystem::create_directories(folder));
  rt::CreateContainerRequest request = scene.Request("side");
  rt::Mount& mount = *request.mutable_config()->add_mounts();
  mount.set_host_path(folder);
  mount.set_container_path("/cache");
  auto lost = scene.node.TryCreate(request);
  REQUIRE_OK(lost);
  REQUIRE_OK(scene.Start(*lost));
  scene.node.heterod().SetDpuAlive(false);
  REQUIRE(Eventually([&] { return scene.node.StatusOf(*lost).reason() == "DPULost"; }));

  request.mutable_config()->mutable_metadata()->set_attempt(1);
  auto made = scene.node.TryCreate(request);

  REQUIRE_OK(made);
  rt::CreateContainerRequest asked;
  REQUIRE(scene.node.host().Asked("CreateContainer").size() == 1);
  REQUIRE(asked.ParseFromString(scene.node.host().Asked("CreateContainer").front()));
  CHECK(asked.config().mounts(0).host_path() == folder);
}

}  // namespace heterok8s::cri
