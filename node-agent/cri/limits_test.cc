// The cgroup that a Pod's containers on the DPU have in common: heterocri between two runtimes in memory, the DPU's
// cgroup files in a folder.
#include <fmt/format.h>

#include <filesystem>
#include <fstream>

#include "common/sys/file.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/lab/two_fakes.h"
#include "node-agent/cri/relay.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;
namespace rt = runtime::v1;
using testing::HasCode;

constexpr int64_t kMi = 1 << 20;

void Fill(rt::LinuxContainerResources* resources, int64_t memory, int64_t quota = 0) {
  resources->set_memory_limit_in_bytes(memory);
  resources->set_cpu_quota(quota);
  resources->set_cpu_period(100000);
}

// A Pod whose container "side" and "second" belong on the DPU.
struct Scene {
  explicit Scene(bool cgroup_v2 = true) : node(cgroup_v2), pod(node.PodConfig("web")) {
    (*pod.mutable_annotations())[kOffloadContainers] = "side,second";
    pod.mutable_linux()->set_cgroup_parent("/kubepods/podweb-uid");
    fs::create_directories(folder());
    for (const char* file : {"cpu.weight", "cpu.max", "memory.max"}) std::ofstream(folder() + "/" + file) << "";
    node.dpu().On("UpdateContainerResources", [this](std::shared_ptr<Call> call) {
      at_update.push_back(Memory());
      call->Finish(update_answer, ToBuffer(""));
    });
  }
  std::string folder() const { return node.folder() + "/dpu/cgroup/kubepods/podweb-uid"; }
  std::string File(const std::string& name) const {
    // What a kernel's file takes whole is here written over what was longer.
    auto text = sys::ReadFile(folder() + "/" + name);
    std::ofstream(folder() + "/" + name, std::ios::trunc) << "";
    return text.ok() ? *text : "no such file";
  }
  std::string Memory() const { return File("memory.max"); }
  absl::StatusOr<std::string> Create(const std::string& name, int64_t memory, int64_t quota = 0, uint32_t attempt = 0) {
    rt::CreateContainerRequest request = node.Request(sandbox, pod, name);
    request.mutable_config()->mutable_metadata()->set_attempt(attempt);
    Fill(request.mutable_config()->mutable_linux()->mutable_resources(), memory, quota);
    return node.TryCreate(request);
  }
  absl::Status Update(const std::string& id, int64_t memory) {
    rt::UpdateContainerResourcesRequest request;
    request.set_container_id(id);
    request.mutable_linux()->set_memory_limit_in_bytes(memory);
    return node.cri()
        .Call<rt::UpdateContainerResourcesResponse>(kUpdateContainerResources, request, In(testing::kPatience))
        .status();
  }
  absl::Status UpdatePod(int64_t memory) {
    rt::UpdatePodSandboxResourcesRequest request;
    request.set_pod_sandbox_id(sandbox);
    Fill(request.mutable_resources(), memory);
    return node.cri()
        .Call<rt::UpdatePodSandboxResourcesResponse>(kUpdatePodSandboxResources, request, In(testing::kPatience))
        .status();
  }

  TwoFakes node;
  rt::PodSandboxConfig pod;
  std::string sandbox;
  std::vector<std::string> at_update;  // the Pod's limit when a container's update came
  grpc::Status update_answer = grpc::Status::OK;
};

TEST_CASE("the limits are there when the runtime is asked for a container, and grow with the next one") {
  Scene scene;
  Fill(scene.pod.mutable_linux()->mutable_resources(), 512 * kMi, 100000);
  scene.sandbox = scene.node.RunPod(scene.pod);
  scene.Memory();

  REQUIRE_OK(scene.Create("side", 64 * kMi, 20000));
  CHECK(scene.Memory() == std::to_string(64 * kMi));
  CHECK(scene.File("cpu.max") == "20000 100000");
  REQUIRE_OK(scene.Create("second", 32 * kMi, 10000));
  CHECK(scene.Memory() == std::to_string(96 * kMi));
  CHECK(scene.File("cpu.max") == "30000 100000");
}

TEST_CASE("a container that is made again counts once, with its newest limits") {
  Scene scene;
  scene.sandbox = scene.node.RunPod(scene.pod);
  REQUIRE_OK(scene.Create("side", 64 * kMi));
  scene.Memory();

  REQUIRE_OK(scene.Create("side", 48 * kMi, 0, 1));
  CHECK(scene.Memory() == std::to_string(48 * kMi));
}

TEST_CASE("limits of the Pod itself: both containers have them together, and a resize of the Pod moves them") {
  Scene scene;
  Fill(scene.pod.mutable_linux()->mutable_resources(), 64 * kMi);
  scene.sandbox = scene.node.RunPod(scene.pod);
  REQUIRE_OK(scene.Create("side", 64 * kMi));
  scene.Memory();
  REQUIRE_OK(scene.Create("second", 64 * kMi));
  CHECK(scene.Memory() == std::to_string(64 * kMi));

  CHECK_THAT(scene.UpdatePod(80 * kMi), HasCode(absl::StatusCode::kUnimplemented));  // as the host's runtime says
  CHECK(scene.Memory() == std::to_string(80 * kMi));
}

TEST_CASE("an update: more for the Pod before the container has it, less after; a refused one leaves no less") {
  Scene scene;
  scene.sandbox = scene.node.RunPod(scene.pod);
  auto side = scene.Create("side", 64 * kMi);
  REQUIRE_OK(side);
  REQUIRE_OK(scene.Create("second", 32 * kMi));
  scene.Memory();

  REQUIRE_OK(scene.Update(*side, 128 * kMi));
  REQUIRE_OK(scene.Update(*side, 16 * kMi));
  CHECK(scene.at_update == std::vector<std::string>{std::to_string(160 * kMi), ""});
  CHECK(scene.Memory() == std::to_string(48 * kMi));

  rt::UpdateContainerResourcesRequest processors;  // of kubelet's CPU manager: the host's, and not ours to pass on
  processors.set_container_id(*side);
  processors.mutable_linux()->set_cpuset_cpus("0");
  scene.node.Call<rt::UpdateContainerResourcesResponse>(kUpdateContainerResources, processors);
  CHECK(scene.at_update.size() == 2);

  scene.update_answer = grpc::Status(grpc::StatusCode::INTERNAL, "no");
  CHECK(!scene.Update(*side, 8 * kMi).ok());
  CHECK(scene.Memory().empty());
}

TEST_CASE("what an update left counts after a restart of heterocri") {
  Scene scene;
  Fill(scene.pod.mutable_linux()->mutable_resources(), 512 * kMi);
  scene.sandbox = scene.node.RunPod(scene.pod);
  auto side = scene.Create("side", 64 * kMi);
  REQUIRE_OK(side);
  REQUIRE_OK(scene.Update(*side, 128 * kMi));

  scene.node.StopDaemon();
  scene.node.StartDaemon();
  scene.Memory();
  REQUIRE_OK(scene.Create("second", 32 * kMi));
  CHECK(scene.Memory() == std::to_string(160 * kMi));
  CHECK_THAT(scene.UpdatePod(100 * kMi), HasCode(absl::StatusCode::kUnimplemented));
  CHECK(scene.Memory() == std::to_string(128 * kMi));  // the largest container's
}

TEST_CASE("what kubelet says for the host's kernel alone is not said to a DPU that would refuse it") {
  const bool v2 = GENERATE(true, false);
  Scene scene(v2);
  scene.sandbox = scene.node.RunPod(scene.pod);
  rt::CreateContainerRequest request = scene.node.Request(scene.sandbox, scene.pod, "side");
  rt::LinuxContainerResources& resources = *request.mutable_config()->mutable_linux()->mutable_resources();
  Fill(&resources, 64 * kMi);
  (*resources.mutable_unified())["memory.oom.group"] = "1";
  resources.add_hugepage_limits()->set_page_size("1GB");

  auto side = scene.node.TryCreate(request);
  REQUIRE_OK(side);
  rt::UpdateContainerResourcesRequest update;
  update.set_container_id(*side);
  *update.mutable_linux() = resources;
  scene.node.Call<rt::UpdateContainerResourcesResponse>(kUpdateContainerResources, update);

  rt::CreateContainerRequest created;
  rt::UpdateContainerResourcesRequest updated;
  REQUIRE(created.ParseFromString(scene.node.dpu().Asked("CreateContainer").at(0)));
  REQUIRE(updated.ParseFromString(scene.node.dpu().Asked("UpdateContainerResources").at(0)));
  for (const rt::LinuxContainerResources& on_dpu : {created.config().linux().resources(), updated.linux()}) {
    CHECK(on_dpu.unified().contains("memory.oom.group") == v2);
    CHECK(on_dpu.hugepage_limits_size() == 0);
    CHECK(on_dpu.memory_limit_in_bytes() == 64 * kMi);
  }
}

TEST_CASE("a cgroup that is not the Pod's own is not limited") {
  Scene scene;
  scene.pod.mutable_linux()->set_cgroup_parent("/kubepods");
  scene.sandbox = scene.node.RunPod(scene.pod);

  REQUIRE_OK(scene.Create("side", 64 * kMi));
  CHECK(scene.Memory().empty());
  CHECK_FALSE(fs::exists(scene.node.folder() + "/dpu/cgroup/kubepods/memory.max"));
}

TEST_CASE("the cgroup goes with the Pod") {
  Scene scene;
  scene.sandbox = scene.node.RunPod(scene.pod);
  REQUIRE_OK(scene.Create("side", 64 * kMi));
  for (const char* file : {"cpu.weight", "cpu.max", "memory.max"})
    fs::remove(scene.folder() + "/" + file);  // no kernel
  rt::RemovePodSandboxRequest remove;
  remove.set_pod_sandbox_id(scene.sandbox);

  scene.node.Call<rt::RemovePodSandboxResponse>(kRemovePodSandbox, remove);
  CHECK_FALSE(fs::exists(scene.folder()));
}

}  // namespace
}  // namespace heterok8s::cri
