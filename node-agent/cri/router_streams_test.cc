// Events and streamed Lists through heterocri, between runtimes that have them and runtimes that do not.
#include <filesystem>
#include <fstream>
#include <set>

#include "common/testing/matchers.h"
#include "node-agent/cri/annotations.h"
#include "node-agent/cri/lab/two_fakes.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;
using testing::Eventually;
using Types = std::vector<rt::ContainerEventType>;

// Answers with `parts` and ends.
FakeRuntime::Handler InParts(std::vector<std::string> parts) {
  return [parts](std::shared_ptr<Call> call) {
    auto out = std::make_shared<OutStream>(call);
    for (const std::string& part : parts) out->Push(ToBuffer(part));
    out->End(grpc::Status::OK);
  };
}

template <typename Message>
Message Joined(const TwoFakes::Streamed& streamed) {
  Message all;
  for (const std::string& part : streamed.messages) REQUIRE(all.MergeFromString(part));
  return all;
}

std::set<std::string> ContainersOf(const rt::ContainerEventResponse& event) {
  std::set<std::string> ids;
  for (const rt::ContainerStatus& status : event.containers_statuses()) ids.insert(status.id());
  return ids;
}

// What containerd says of one container of a Pod, and of the Pod's others on that PU.
rt::ContainerEventResponse HostEvent(const std::string& sandbox, const std::string& container) {
  rt::ContainerEventResponse event;
  event.set_container_id(container);
  event.set_container_event_type(rt::CONTAINER_STARTED_EVENT);
  event.mutable_pod_sandbox_status()->set_id(sandbox);
  event.mutable_pod_sandbox_status()->mutable_metadata()->set_name("web");
  event.add_containers_statuses()->set_id(container);
  return event;
}

TEST_CASE("StreamContainers is the host's parts as they came, and then the DPU's containers") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  std::string side = node.Create(sandbox, pod, "side");
  rt::ListContainersResponse one, two;
  one.add_containers()->set_id("one");
  two.add_containers()->set_id("two");
  node.host().On("StreamContainers", InParts({one.SerializeAsString(), two.SerializeAsString()}));

  TwoFakes::Streamed streamed = node.ReadAll(kStreamContainers);

  CHECK(streamed.status.error_message() == "");
  REQUIRE(streamed.messages.size() == 3);
  CHECK(streamed.messages[0] == one.SerializeAsString());
  auto all = Joined<rt::ListContainersResponse>(streamed);
  CHECK(all.containers(2).id() == side);
  CHECK(all.containers(2).pod_sandbox_id() == sandbox);
}

TEST_CASE("the other streamed Lists: what is the host's is unread, stats have the DPU's part") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  std::string side = node.Create(sandbox, pod, "side");
  rt::ListContainerStatsResponse host_stats, dpu_stats;
  host_stats.add_stats()->mutable_attributes()->set_id("app");
  dpu_stats.add_stats()->mutable_attributes()->set_id(side);
  node.dpu().On("ListContainerStats", [&](std::shared_ptr<Call> call) {
    call->Finish(grpc::Status::OK, ToBuffer(dpu_stats.SerializeAsString()));
  });
  node.host().On("StreamContainerStats", InParts({host_stats.SerializeAsString()}));
  for (const char* name : {"StreamPodSandboxes", "StreamImages"})
    node.host().On(name, InParts({"\x0a\x01x", "\x0a\x01y"}));

  auto stats = Joined<rt::ListContainerStatsResponse>(node.ReadAll(kStreamContainerStats));
  REQUIRE(stats.stats_size() == 2);
  CHECK(stats.stats(0).attributes().id() == "app");
  CHECK(stats.stats(1).attributes().id() == side);
  CHECK(node.ReadAll("/runtime.v1.RuntimeService/StreamPodSandboxes").messages ==
        std::vector<std::string>{"\x0a\x01x", "\x0a\x01y"});
  CHECK(node.ReadAll("/runtime.v1.ImageService/StreamImages").messages.size() == 2);
}

TEST_CASE("what an emptyDir on the DPU holds is in a Pod's figures, in the list, in its parts and alone") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  const std::string sandbox = node.RunPod(pod);
  const std::string side = node.Create(sandbox, pod, "side");
  const std::string cache = node.folder() + "/dpu/volumes/" + pod.metadata().uid() + "/cache/data";
  std::filesystem::create_directories(cache);
  std::ofstream(cache + "/file") << std::string(1 << 20, 'x');
  rt::CreateContainerRequest made;
  REQUIRE(made.ParseFromString(node.dpu().Asked("CreateContainer").at(0)));
  rt::ListPodSandboxStatsResponse of_host, of_dpu;
  of_host.add_stats()->mutable_attributes()->set_id(sandbox);
  of_dpu.add_stats()->mutable_attributes()->set_id(made.pod_sandbox_id());
  rt::ContainerAttributes& of_side = *of_dpu.mutable_stats(0)->mutable_linux()->add_containers()->mutable_attributes();
  of_side.set_id(side);
  (*of_side.mutable_labels())["io.kubernetes.pod.uid"] = pod.metadata().uid();
  (*of_side.mutable_annotations())[kDpuVolumes] = "cache";
  node.host().On("StreamPodSandboxStats", InParts({of_host.SerializeAsString()}));
  for (auto [runtime, list] : {std::pair(&node.host(), &of_host), std::pair(&node.dpu(), &of_dpu)}) {
    runtime->On("ListPodSandboxStats", InParts({list->SerializeAsString()}));
    rt::PodSandboxStatsResponse alone;
    *alone.mutable_stats() = list->stats(0);
    runtime->On("PodSandboxStats", InParts({alone.SerializeAsString()}));
  }
  auto held = [&](const rt::PodSandboxStats& stats) {
    return stats.linux().containers_size() == 1 ? stats.linux().containers(0).writable_layer().used_bytes().value() : 0;
  };

  rt::PodSandboxStatsRequest alone;
  alone.set_pod_sandbox_id(sandbox);
  // A walk that takes longer than its reader waits is in a later answer.
  CHECK(Eventually(
      [&] { return held(node.Call<rt::PodSandboxStatsResponse>(kPodSandboxStats, alone).stats()) >= 1 << 20; }));
  rt::ListPodSandboxStatsRequest list;
  CHECK(held(node.Call<rt::ListPodSandboxStatsResponse>(kListPodSandboxStats, list).stats(0)) >= 1 << 20);
  CHECK(held(Joined<rt::ListPodSandboxStatsResponse>(node.ReadAll(kStreamPodSandboxStats)).stats(0)) >= 1 << 20);
}

TEST_CASE("a host's runtime that breaks off in the middle is a failure, not a shorter list") {
  TwoFakes node;
  node.host().On("StreamContainers", [](std::shared_ptr<Call> call) {
    auto out = std::make_shared<OutStream>(call);
    out->Push(ToBuffer("\x0a\x01x"));
    out->End({grpc::StatusCode::UNAVAILABLE, "gone"});
  });

  TwoFakes::Streamed streamed = node.ReadAll(kStreamContainers);

  CHECK(streamed.status.error_code() == grpc::StatusCode::UNAVAILABLE);
  CHECK(streamed.status.error_message() == "gone");
}

TEST_CASE("over a runtime that has no streams all of them are UNIMPLEMENTED, for kubelet to ask the old way") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  node.Create(node.RunPod(pod), pod, "side");
  for (const char* name :
       {"RuntimeService/StreamPodSandboxes", "RuntimeService/StreamContainers", "RuntimeService/StreamContainerStats",
        "RuntimeService/StreamPodSandboxStats", "RuntimeService/StreamPodSandboxMetrics",
        "RuntimeService/GetContainerEvents", "ImageService/StreamImages"}) {
    INFO(name);
    TwoFakes::Streamed streamed = node.ReadAll(std::string("/runtime.v1.") + name);
    CHECK(streamed.status.error_code() == grpc::StatusCode::UNIMPLEMENTED);
    CHECK(streamed.messages.empty());
  }
}

TEST_CASE("events tell of a DPU container from its making to its removal, each with both halves of the Pod") {
  TwoFakes node;
  node.host().ServeEvents();
  EventReader reader(node);
  REQUIRE(Eventually([&] { return node.host().event_readers() == 1; }));
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  std::string app = node.Create(sandbox, pod, "app");

  std::string side = node.Create(sandbox, pod, "side");
  node.Start(side);
  CHECK(reader.Has([&](const auto& event) {
    return event.container_event_type() == rt::CONTAINER_STARTED_EVENT && event.container_id() == side &&
           event.pod_sandbox_status().id() == sandbox && event.created_at() > 0 &&
           ContainersOf(event) == std::set<std::string>{app, side};
  }));
  node.dpu().Exit(side, 3);  // nobody calls: the DPU is looked at
  CHECK(reader.Has([&](const auto& event) {
    if (event.container_event_type() != rt::CONTAINER_STOPPED_EVENT) return false;
    for (const rt::ContainerStatus& status : event.containers_statuses()) {
      if (status.id() == side) return status.state() == rt::CONTAINER_EXITED && status.exit_code() == 3;
    }
    return false;
  }));
  rt::RemoveContainerRequest remove;
  remove.set_container_id(side);
  node.Call<rt::RemoveContainerResponse>(kRemoveContainer, remove);
  CHECK(reader.Has([&](const auto& event) {
    return event.container_event_type() == rt::CONTAINER_DELETED_EVENT && event.container_id() == side &&
           ContainersOf(event) == std::set<std::string>{app};
  }));
  CHECK(reader.TypesOf(side) == Types{rt::CONTAINER_CREATED_EVENT, rt::CONTAINER_STARTED_EVENT,
                                      rt::CONTAINER_STOPPED_EVENT, rt::CONTAINER_DELETED_EVENT});
}

TEST_CASE("an event of the host's runtime has the DPU's containers of its Pod, and is unread for other Pods") {
  TwoFakes node;
  node.host().ServeEvents();
  EventReader reader(node);
  REQUIRE(Eventually([&] { return node.host().event_readers() == 1; }));
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  std::string side = node.Create(sandbox, pod, "side");

  node.host().Emit(HostEvent(sandbox, "app"));
  node.host().Emit(HostEvent("other-sandbox", "alone"));

  CHECK(reader.Has([&](const auto& event) { return ContainersOf(event) == std::set<std::string>{"app", side}; }));
  CHECK(reader.Has([&](const auto& event) { return ContainersOf(event) == std::set<std::string>{"alone"}; }));
}

TEST_CASE("a dead DPU is told of once, holds up no event of the host, and is heard again when it returns") {
  TwoFakes node;
  node.host().ServeEvents();
  EventReader reader(node);
  REQUIRE(Eventually([&] { return node.host().event_readers() == 1; }));
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  std::string side = node.Create(sandbox, pod, "side");
  node.Start(side);

  node.dpu().Stop();
  node.heterod().SetDpuAlive(false);
  node.host().Emit(HostEvent(sandbox, "while-away"));
  CHECK(reader.Has([&](const auto& event) { return event.container_id() == "while-away"; }));
  CHECK(reader.Has([&](const auto& event) {  // the lease is over
    return event.container_id() == side && event.container_event_type() == rt::CONTAINER_STOPPED_EVENT;
  }));

  node.dpu().Start();
  node.heterod().SetDpuAlive(true);
  // First what was lost ends there, then the DPU counts as there.
  REQUIRE(Eventually([&] { return node.DpuCondition().status(); }));
  std::string again = node.Create(sandbox, pod, "side");
  CHECK(reader.Has([&](const auto& event) { return event.container_id() == again; }));
  CHECK(reader.TypesOf(side) ==
        Types{rt::CONTAINER_CREATED_EVENT, rt::CONTAINER_STARTED_EVENT, rt::CONTAINER_STOPPED_EVENT});
}

TEST_CASE("a reader that goes is given up at the host's runtime, and heterocri ends with one still there") {
  TwoFakes node;
  node.host().ServeEvents();
  {
    EventReader reader(node);
    REQUIRE(Eventually([&] { return node.host().event_readers() == 1; }));
  }
  CHECK(Eventually([&] { return node.host().event_readers() == 0; }));

  EventReader other(node);
  REQUIRE(Eventually([&] { return node.host().event_readers() == 1; }));
  node.StopDaemon();
  grpc::Status end;
  REQUIRE(other.Ended(&end));
  CHECK(end.error_code() == grpc::StatusCode::UNAVAILABLE);
}

TEST_CASE("PodSandboxStatus that lists containers lists those of the DPU") {
  TwoFakes node;
  rt::PodSandboxConfig pod = node.PodConfig("web");
  std::string sandbox = node.RunPod(pod);
  std::string side = node.Create(sandbox, pod, "side");
  int64_t time = GENERATE(0, 5);
  node.host().On("PodSandboxStatus", [&](std::shared_ptr<Call> call) {
    rt::PodSandboxStatusResponse response;
    response.mutable_status()->set_id(sandbox);
    response.set_timestamp(time);
    call->Finish(grpc::Status::OK, ToBuffer(response.SerializeAsString()));
  });
  rt::PodSandboxStatusRequest request;
  request.set_pod_sandbox_id(sandbox);

  auto status = node.Call<rt::PodSandboxStatusResponse>(kPodSandboxStatus, request);

  REQUIRE(status.containers_statuses_size() == (time == 0 ? 0 : 1));
  if (time != 0) CHECK(status.containers_statuses(0).id() == side);
}

}  // namespace
}  // namespace heterok8s::cri
