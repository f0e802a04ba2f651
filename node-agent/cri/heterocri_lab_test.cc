// heterocri between two real containerds; see lab/two_runtimes.h for the picture. Needs root, containerd and runc.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <future>

#include "common/sys/file.h"
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

rt::Mount Mount(const std::string& host, const std::string& container, bool readonly) {
  rt::Mount mount;
  mount.set_host_path(host);
  mount.set_container_path(container);
  mount.set_readonly(readonly);
  return mount;
}

TEST_CASE("a split Pod lives its life through one socket") {
  Lab lab;
  Kubelet kubelet(lab);
  rt::PodSandboxConfig pod = lab.Pod("web");
  (*pod.mutable_annotations())[kOffload] = "dpu";
  (*pod.mutable_annotations())[kPlacement] = "forged";
  const std::string folder = lab.PodFolder(pod.metadata().uid());
  const std::string conf = folder + "/volumes/kubernetes.io~configmap/conf";
  fs::create_directories(conf + "/..v1");
  std::ofstream(conf + "/..v1/greeting") << "hello from the host";
  fs::create_symlink("..v1", conf + "/..data");
  fs::create_symlink("..data/greeting", conf + "/greeting");
  fs::create_directories(folder + "/containers/side");
  std::ofstream(folder + "/containers/side/abcd") << "";

  std::string sandbox = kubelet.Run(pod);
  CHECK(kubelet.Sandboxes(lab.cri()) == 1);
  CHECK(kubelet.Sandboxes(*&lab.dpu->cri()) == 1);
  std::string app = kubelet.Create(kubelet.Request(sandbox, pod, "app", kCount));
  rt::CreateContainerRequest request = kubelet.Request(
      sandbox, pod, "side", std::string("trap 'echo the end >/dev/termination-log; exit 7' TERM; ") + kCount);
  *request.mutable_config()->add_mounts() = Mount(conf, "/etc/side", true);
  *request.mutable_config()->add_mounts() = Mount(folder + "/containers/side/abcd", "/dev/termination-log", false);
  std::string side = kubelet.Create(request);
  kubelet.Start(app);
  kubelet.Start(side);

  // Where they are, and that one list shows both as of one Pod.
  auto all = kubelet.List(lab.cri()), on_host = kubelet.List(lab.host->cri()), on_dpu = kubelet.List(lab.dpu->cri());
  REQUIRE(all.size() == 2);
  CHECK(all["app"].id() == app);
  CHECK(all["side"].id() == side);
  CHECK(all["side"].pod_sandbox_id() == sandbox);
  CHECK(all["side"].state() == rt::CONTAINER_RUNNING);
  CHECK((on_host.size() == 1 && on_host.count("app") == 1));
  CHECK((on_dpu.size() == 1 && on_dpu["side"].id() == side));
  CHECK(kubelet.Exec(side, "cat /etc/side/greeting") == "hello from the host");
  CHECK(kubelet.Exec(app, "echo here") == "here\n");
  rt::PodSandboxStatusRequest ask;
  ask.set_pod_sandbox_id(sandbox);
  rt::PodSandboxStatusResponse status;
  REQUIRE(Ask(lab.cri(), &CriStub::PodSandboxStatus, ask, &status).ok());
  CHECK(status.status().annotations().at(kPlacement) == "split");

  // Why.
  auto router = v1::Router::NewStub(lab.channel());
  grpc::ClientContext context;
  v1::PlacementsReply placements;
  REQUIRE(router->Placements(&context, v1::PlacementsRequest(), &placements).ok());
  for (const v1::Placement& placement : placements.placements()) {
    CHECK(placement.pu() == (placement.container() == "app" ? "host" : "dpu"));
    CHECK(!placement.reason().empty());
  }
  CHECK(placements.placements_size() == 2);

  // The log is on the host, over a rotation and over the death of heterocri.
  const std::string log = pod.log_directory() + "/side/0.log";
  CHECK(kubelet.Status(side).log_path() == log);
  REQUIRE(Eventually([&] { return Numbers(log).size() > 5; }));
  fs::rename(log, log + ".1");
  rt::ReopenContainerLogRequest reopen;
  reopen.set_container_id(side);
  rt::ReopenContainerLogResponse reopened;
  CHECK(Text(Ask(lab.cri(), &CriStub::ReopenContainerLog, reopen, &reopened)) == "OK");
  REQUIRE(Eventually([&] { return Numbers(log).size() > 5; }));
  lab.KillHeterocri();
  lab.StartHeterocri();
  CHECK(kubelet.List(lab.cri()).size() == 2);
  size_t lines = Numbers(log).size();
  REQUIRE(Eventually([&] { return Numbers(log).size() > lines + 50; }));

  // The end.
  CHECK(Text(kubelet.Stop(side)) == "OK");
  rt::ContainerStatus ended = kubelet.Status(side);
  CHECK(ended.state() == rt::CONTAINER_EXITED);
  CHECK(ended.exit_code() == 7);
  CHECK(*sys::ReadFile(folder + "/containers/side/abcd") == "the end\n");
  // kubelet looks for the message where the status says that the file is.
  auto message = std::find_if(ended.mounts().begin(), ended.mounts().end(),
                              [](const rt::Mount& mount) { return mount.container_path() == "/dev/termination-log"; });
  REQUIRE(message != ended.mounts().end());
  CHECK(message->host_path() == folder + "/containers/side/abcd");
  std::vector<int> numbers = Numbers(log + ".1"), rest = Numbers(log);
  numbers.insert(numbers.end(), rest.begin(), rest.end());
  CHECK(Consecutive(numbers));
  CHECK(Text(kubelet.Remove(side)) == "OK");
  CHECK(Text(kubelet.Remove(side)) == "OK");
  CHECK(kubelet.List(lab.cri()).count("side") == 0);
  kubelet.End(sandbox);
  CHECK(kubelet.List(lab.cri()).empty());
  CHECK(kubelet.Sandboxes(lab.cri()) == 0);
  CHECK(kubelet.Sandboxes(lab.dpu->cri()) == 0);
  CHECK(fs::is_empty(lab.folder() + "/dpu/volumes"));
  CHECK(fs::is_empty(lab.folder() + "/dpu/logs"));
}

TEST_CASE(
    "every call goes where its container is; what is not there yet is refused by name, what is unknown is unknown") {
  Lab lab;
  Kubelet kubelet(lab);
  rt::PodSandboxConfig pod = lab.Pod("refuse");
  (*pod.mutable_annotations())[kOffload] = "dpu";
  std::string sandbox = kubelet.Run(pod);
  std::string side = kubelet.Create(kubelet.Request(sandbox, pod, "side", kCount));
  std::string app = kubelet.Create(kubelet.Request(sandbox, pod, "app", kCount));
  kubelet.Start(app);
  kubelet.Start(side);
  grpc::GenericStub generic(lab.channel());
  auto call = [&](const std::string& method, const std::string& id) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + testing::kPatience);
    rt::StartContainerRequest request;  // any message whose field 1 is an id
    request.set_container_id(id);
    grpc::ByteBuffer bytes = ToBuffer(request.SerializeAsString()), response;
    std::promise<grpc::Status> done;
    generic.UnaryCall(&context, method, {}, &bytes, &response, [&](grpc::Status status) { done.set_value(status); });
    return done.get_future().get();
  };

  CHECK(call("/runtime.v1.RuntimeService/CheckpointContainer", side).error_message() ==
        "CheckpointContainer for containers on the DPU is not supported yet");
  for (const std::string& id : {app, side}) {
    CHECK(Text(call("/runtime.v1.RuntimeService/ContainerStats", id)) == "OK");
    // The runtime's own words, of either PU.
    CHECK(call("/runtime.v1.RuntimeService/Exec", id)
              .error_message()
              .find("one of stdin, stdout, or stderr must be set") != std::string::npos);
  }
  // containerd's own answer, which tells kubelet to ask the old way.
  CHECK(call("/runtime.v1.RuntimeService/StreamContainers", "").error_code() == grpc::StatusCode::UNIMPLEMENTED);
  CHECK(call("/runtime.v1.RuntimeService/StreamNothing", "").error_message() ==
        "method '/runtime.v1.RuntimeService/StreamNothing' is not known to heterocri");
  CHECK(Text(call("/runtime.v1.RuntimeService/RuntimeConfig", "")) == "OK");  // also over a containerd that has none
  kubelet.End(sandbox);
}

TEST_CASE("the host's processors, by which kubelet places containers, place none of the DPU") {
  constexpr const char* kNowhere = "8191";  // more than a kernel may have
  Lab lab;
  Kubelet kubelet(lab);
  rt::PodSandboxConfig pod = lab.Pod("places");
  (*pod.mutable_annotations())[kOffload] = "dpu";
  const std::string sandbox = kubelet.Run(pod);
  auto placed = [&](const std::string& name) {
    rt::CreateContainerRequest request = kubelet.Request(sandbox, pod, name, kCount);
    rt::LinuxContainerResources& resources = *request.mutable_config()->mutable_linux()->mutable_resources();
    resources.set_memory_limit_in_bytes(64 << 20);
    resources.set_cpuset_cpus(kNowhere);
    return kubelet.Create(request);
  };
  auto update = [&](const std::string& id, int64_t memory) {
    rt::UpdateContainerResourcesRequest request;
    request.set_container_id(id);
    request.mutable_linux()->set_cpuset_cpus(kNowhere);
    request.mutable_linux()->set_memory_limit_in_bytes(memory);
    rt::UpdateContainerResourcesResponse response;
    return Text(Ask(lab.cri(), &CriStub::UpdateContainerResources, request, &response));
  };
  auto limit = [&](const std::string& id) {
    return kubelet.Exec(id, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null");
  };

  const std::string app = kubelet.Create(kubelet.Request(sandbox, pod, "app", kCount)), side = placed("side");
  kubelet.Start(app);
  kubelet.Start(side);

  CHECK(limit(side) == std::to_string(64 << 20) + "\n");
  CHECK(update(app, 0) != "OK");
  CHECK(update(side, 0) == "OK");
  CHECK(update(side, 96 << 20) == "OK");
  CHECK(limit(side) == std::to_string(96 << 20) + "\n");
  kubelet.End(sandbox);
}

TEST_CASE("what cannot be split runs on the host, and says why") {
  Lab lab;
  Kubelet kubelet(lab);
  rt::PodSandboxConfig whole = lab.Pod("whole");
  (*whole.mutable_annotations())[kOffload] = "dpu";
  whole.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(rt::POD);
  std::string sandbox = kubelet.Run(whole);
  CHECK(kubelet.Sandboxes(lab.dpu->cri()) == 0);
  std::string side = kubelet.Create(kubelet.Request(sandbox, whole, "side", kCount));
  auto on_host = kubelet.List(lab.host->cri());
  REQUIRE(on_host.count("side") == 1);
  CHECK(on_host["side"].annotations().at(kPlacementReason).find("shareProcessNamespace") == 0);
  kubelet.End(sandbox);

  rt::PodSandboxConfig pod = lab.Pod("volume");
  (*pod.mutable_annotations())[kOffload] = "dpu";
  (*pod.mutable_annotations())[kVolumes] = "own=side;both=side,app";
  sandbox = kubelet.Run(pod);
  std::string volumes = lab.PodFolder(pod.metadata().uid()) + "/volumes/kubernetes.io~empty-dir/";
  fs::create_directories(volumes + "own");
  fs::create_directories(volumes + "both");
  rt::CreateContainerRequest request = kubelet.Request(sandbox, pod, "side", kCount);
  *request.mutable_config()->add_mounts() = Mount(volumes + "own", "/own", false);
  side = kubelet.Create(request);
  CHECK(kubelet.List(lab.dpu->cri())["side"].id() == side);
  // A container that would see another folder under the same name is refused, not fooled.
  rt::CreateContainerRequest other = kubelet.Request(sandbox, pod, "app", kCount);
  *other.mutable_config()->add_mounts() = Mount(volumes + "own", "/own", false);
  rt::CreateContainerResponse response;
  grpc::Status refused = Ask(lab.cri(), &CriStub::CreateContainer, other, &response);
  CHECK(refused.error_code() == grpc::StatusCode::FAILED_PRECONDITION);
  CHECK(refused.error_message().find("volume 'own' is on the DPU with side") != std::string::npos);
  CHECK(Text(kubelet.Remove(side)) == "OK");
  request.mutable_config()->mutable_mounts(0)->set_host_path(volumes + "both");
  side = kubelet.Create(request);
  CHECK(kubelet.List(lab.host->cri())["side"].annotations().at(kPlacementReason) ==
        "shared volume 'both' with app on the host");
  kubelet.End(sandbox);
}

}  // namespace
}  // namespace heterok8s::cri
