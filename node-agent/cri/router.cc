#include "node-agent/cri/router.h"

#include <fmt/format.h>

#include "node-agent/cri/annotation_of.h"
#include "node-agent/cri/grpc_status.h"
#include "node-agent/cri/wire.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr std::chrono::minutes kLongestCall{15};
constexpr std::chrono::seconds kHostList{30};

}  // namespace

Deadline LimitOf(const Call& call) { return std::min(call.deadline(), In(kLongestCall)); }

void Answer(Call& call, const absl::Status& status) { call.Finish(ToGrpc(status), ToBuffer("")); }

void Answer(Call& call, const absl::StatusOr<grpc::ByteBuffer>& response) {
  if (response.ok()) {
    call.Finish(grpc::Status::OK, *response);
  } else {
    Answer(call, response.status());
  }
}

absl::Status Router::RebuildFromHost() {
  HK_ASSIGN_OR_RETURN(auto list, parts_.host.Call<rt::ListPodSandboxResponse>(
                                     kListPodSandbox, rt::ListPodSandboxRequest(), In(kHostList)));
  for (const rt::PodSandbox& sandbox : list.items()) {
    SplitPod pod;
    pod.verdict = DecideByAnnotations(sandbox.annotations(), options_.rules);
    if (!pod.verdict.wanted) continue;
    pod.sandbox_id = sandbox.id();
    pod.metadata = sandbox.metadata();
    pod.stopped = sandbox.state() != rt::SANDBOX_READY;
    // An older heterocri left no mark, but a note of each twin that it had time to write down.
    if (!parts_.mark.Made(sandbox.metadata(), sandbox.annotations()) && !parts_.table.KnowsTwinOf(sandbox.id())) {
      pod.verdict.split = false;
      pod.verdict.reason = "its sandbox was made without heterocri, or by an older one";
      pod.unproved = true;
      parts_.table.PutPod(std::move(pod));
      continue;
    }
    pod.log_directory = AnnotationOf(sandbox.annotations(), kLogDirectory);
    // What was decided when it was made counts, not what today's configuration would say.
    pod.verdict.split = AnnotationOf(sandbox.annotations(), kPlacement) == "split";
    pod.verdict.reason = AnnotationOf(sandbox.annotations(), kPlacementReason);
    pod.verdict.refused = AnnotationOf(sandbox.annotations(), kRefused);
    parts_.table.PutPod(std::move(pod));
  }
  return absl::OkStatus();
}

void Router::Handle(CallPtr call) {
  const Method* method = FindMethod(call->method());
  if (method == nullptr) {
    call->Fail(grpc::StatusCode::UNIMPLEMENTED, fmt::format("method '{}' is not known to heterocri", call->method()));
    return;
  }
  switch (method->handling) {
    case Handling::kHost:
      ForwardToHost(call);
      return;
    case Handling::kHostStream:
      HostStream(call);
      return;
    case Handling::kByContainer:
    case Handling::kHostOnly:
      ByContainer(*method, call);
      return;
    case Handling::kRefused:
      call->Fail(grpc::StatusCode::UNIMPLEMENTED, std::string(method->refusal));
      return;
    case Handling::kSpecial:
      Special(*method, std::move(call));
      return;
  }
}

void Router::Special(const Method& method, CallPtr call) {
  struct Entry {
    std::string_view path;
    Handler handler;
    bool waits;  // gets a thread of its own
  };
  static constexpr Entry kEntries[] = {
      {kRunPodSandbox, &Router::RunPodSandbox, true},
      {kStopPodSandbox, &Router::StopPodSandbox, true},
      {kRemovePodSandbox, &Router::RemovePodSandbox, true},
      {kCreateContainer, &Router::CreateContainer, true},
      {kStartContainer, &Router::StartContainer, true},
      {kStopContainer, &Router::StopContainer, true},
      {kRemoveContainer, &Router::RemoveContainer, true},
      {kListContainers, &Router::ListContainers, false},
      {kContainerStatus, &Router::ContainerStatus, false},
      {kUpdateContainerResources, &Router::UpdateContainerResources, true},
      {kUpdatePodSandboxResources, &Router::UpdatePodSandboxResources, true},
      {kReopenContainerLog, &Router::ReopenContainerLog, true},
      {kExec, &Router::OpenStream, true},
      {kAttach, &Router::OpenStream, true},
      {kListContainerStats, &Router::ListContainerStats, true},
      {kPodSandboxStats, &Router::PodSandboxStats, true},
      {kListPodSandboxStats, &Router::ListPodSandboxStats, true},
      {kListMetricDescriptors, &Router::ListMetricDescriptors, true},
      {kListPodSandboxMetrics, &Router::ListPodSandboxMetrics, true},
      {kRuntimeConfig, &Router::RuntimeConfig, true},
      {kPodSandboxStatus, &Router::PodSandboxStatus, false},
      {kStreamContainers, &Router::StreamContainers, false},
      {kStreamContainerStats, &Router::StreamContainerStats, true},
      {kStreamPodSandboxStats, &Router::StreamPodSandboxStats, true},
      {kStreamPodSandboxMetrics, &Router::StreamPodSandboxMetrics, true},
      {kGetContainerEvents, &Router::GetContainerEvents, false},
      {kStatus, &Router::Status, false},
      {kImageStatus, &Router::ImageStatus, true},
      {kPullImage, &Router::PullImage, true},
  };
  for (const Entry& entry : kEntries) {
    if (entry.path != method.path) continue;
    if (entry.waits) {
      OnTask(std::move(call), entry.handler);
    } else {
      (this->*entry.handler)(call);
    }
    return;
  }
  call->Fail(grpc::StatusCode::INTERNAL, fmt::format("method '{}' has no handler", call->method()));
}

void Router::OnTask(CallPtr call, Handler handler) {
  if (!parts_.tasks.Run([this, call, handler] { (this->*handler)(call); })) {
    call->Fail(grpc::StatusCode::RESOURCE_EXHAUSTED, "too many calls at once");
  }
}

void Router::ForwardToHost(const CallPtr& call, Transform transform) {
  Forward(parts_.host.stub(), call, std::move(transform));
}

void Router::FailEnded(const CallPtr& call, grpc::StatusCode code, const DpuContainer& container) {
  call->Fail(code, fmt::format("container {} has ended: {}", container.id(), container.status.message()));
}

void Router::ByContainer(const Method& method, const CallPtr& call) {
  absl::StatusOr<std::string> id = FirstField(BytesOf(call->request()));
  if (!id.ok()) {
    Answer(*call, id.status());
    return;
  }
  std::optional<DpuContainer> container = parts_.table.FindContainer(*id);
  if (!container) {
    ForwardToHost(call);
  } else if (method.handling == Handling::kHostOnly) {
    call->Fail(grpc::StatusCode::UNIMPLEMENTED, std::string(method.refusal));
  } else if (container->lost) {
    FailEnded(call, grpc::StatusCode::UNAVAILABLE, *container);
  } else {
    Forward(parts_.dpu.stub(), call, {});
  }
}

void Router::ListContainers(const CallPtr& call) {
  if (!parts_.table.AnyContainer()) {
    ForwardToHost(call);
    return;
  }
  rt::ListContainersRequest request;
  if (!ParseRequest(*call, &request)) return;
  ForwardToHost(call, [this, filter = request.filter()](grpc::Status* status, grpc::ByteBuffer* response) {
    // Two encoded messages one after the other are one message with the lists of both.
    if (!status->ok()) return;
    std::vector<grpc::Slice> slices;
    if (response->Valid() && !response->Dump(&slices).ok()) {
      *status = grpc::Status(grpc::StatusCode::INTERNAL, "the host's list cannot be read");
      return;
    }
    slices.emplace_back(parts_.table.ListBytes(filter));
    *response = grpc::ByteBuffer(slices.data(), slices.size());
  });
}

void Router::Status(const CallPtr& call) {
  ForwardToHost(call, [this](grpc::Status* status, grpc::ByteBuffer* response) {
    if (!status->ok()) return;
    rt::StatusResponse more;
    rt::RuntimeCondition& condition = *more.mutable_status()->add_conditions();
    // One more condition, of a type of its own: kubelet's RuntimeReady and NetworkReady stay the host's, because a Node
    // whose DPU is away still runs Pods.
    condition.set_type("HeteroK8sDPUReady");
    const DpuState state = parts_.link.state();
    condition.set_status(state == DpuState::kHere);
    if (!condition.status()) {
      condition.set_reason(state == DpuState::kLost ? "DPULost" : "DPURuntimeDown");
      condition.set_message(parts_.link.LastError());
    }
    *response = ToBuffer(BytesOf(*response) + more.SerializeAsString());
  });
}

absl::StatusOr<v1::PlacementsReply> Router::Placements(const std::string& pod_uid) {
  HK_ASSIGN_OR_RETURN(auto sandboxes, parts_.host.Call<rt::ListPodSandboxResponse>(
                                          kListPodSandbox, rt::ListPodSandboxRequest(), In(kHostList)));
  HK_ASSIGN_OR_RETURN(auto list, parts_.host.Call<rt::ListContainersResponse>(
                                     kListContainers, rt::ListContainersRequest(), In(kHostList)));
  std::map<std::string, const rt::PodSandbox*> pods;
  for (const rt::PodSandbox& sandbox : sandboxes.items()) pods[sandbox.id()] = &sandbox;
  v1::PlacementsReply reply;
  auto add = [&](const rt::Container& container, const char* pu) {
    auto pod = pods.find(container.pod_sandbox_id());
    if (pod == pods.end() || (!pod_uid.empty() && pod->second->metadata().uid() != pod_uid)) return;
    v1::Placement& placement = *reply.add_placements();
    placement.set_pod_uid(pod->second->metadata().uid());
    placement.set_pod_namespace(pod->second->metadata().namespace_());
    placement.set_pod_name(pod->second->metadata().name());
    placement.set_container(container.metadata().name());
    placement.set_container_id(container.id());
    placement.set_pu(pu);
    std::string reason = AnnotationOf(container.annotations(), kPlacementReason);
    if (reason.empty()) reason = AnnotationOf(pod->second->annotations(), kPlacementReason);
    placement.set_reason(reason.empty() ? fmt::format("the Pod has no annotation {}", kOffload) : reason);
  };
  for (const rt::Container& container : list.containers()) add(container, "host");
  for (const DpuContainer& container : parts_.table.Containers()) {
    add(container.listed, "dpu");
    if (!container.lost || reply.placements_size() == 0) continue;
    v1::Placement& last = *reply.mutable_placements(reply.placements_size() - 1);
    if (last.container_id() == container.id())
      last.set_reason(container.status.message() + "; was there: " + last.reason());
  }
  return reply;
}

}  // namespace heterok8s::cri
