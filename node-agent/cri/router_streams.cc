// Calls with many answers: events, and Lists in parts, for Nodes whose Lists are longer than one message may be. Each
// part is as its List's answer: the first field again and again. The DPU's part comes last, from where List has it.
// A host's runtime that does not know such a call says UNIMPLEMENTED, and so do we: kubelet then asks as it did before.
#include "node-agent/cri/annotation_of.h"
#include "node-agent/cri/router.h"
#include "node-agent/cri/stats.h"
#include "node-agent/cri/wire.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

// Of one part: well below the 16 MiB that kubelet takes.
constexpr size_t kPart = 1 << 20;

}  // namespace

void Router::HostStream(const CallPtr& call, TransformEach each, std::function<std::vector<std::string>()> more) {
  auto out = std::make_shared<OutStream>(call);
  ForwardStream(parts_.host.stub(), call, out, std::move(each), [out, more](const grpc::Status& status) {
    if (status.ok() && more) {
      for (const std::string& part : more()) out->Push(ToBuffer(part));
    }
    out->End(status);
  });
}

void Router::StreamContainers(const CallPtr& call) {
  rt::ListContainersRequest request;  // StreamContainersRequest is the same
  if (!ParseRequest(*call, &request)) return;
  HostStream(call, {}, [this, filter = request.filter()] { return parts_.table.ListChunks(filter, kPart); });
}

void Router::StreamContainerStats(const CallPtr& call) {
  rt::ListContainerStatsRequest request;
  if (!ParseRequest(*call, &request)) return;
  if (!parts_.table.AnyContainer()) return HostStream(call);
  auto on_dpu = AskDpu<rt::ListContainerStatsResponse>(kListContainerStats);
  if (!on_dpu) return HostStream(call);
  HostStream(call, {}, [this, request, dpu = *std::move(on_dpu)] {
    std::vector<std::string> parts;
    rt::ListContainerStatsResponse part;
    AddContainerStats(dpu, request.filter(), &part);
    if (part.stats_size() > 0) parts.push_back(part.SerializeAsString());
    return parts;
  });
}

void Router::StreamPodSandboxStats(const CallPtr& call) {
  if (!parts_.table.AnyContainer()) return HostStream(call);
  auto on_dpu = AskDpu<rt::ListPodSandboxStatsResponse>(kListPodSandboxStats);
  if (!on_dpu) return HostStream(call);
  HostStream(call, [this, dpu = *std::move(on_dpu)](grpc::ByteBuffer* message) {
    rt::ListPodSandboxStatsResponse part;
    if (!part.ParseFromString(BytesOf(*message))) return;
    for (rt::PodSandboxStats& pod : *part.mutable_stats()) AddTwins(dpu, &pod);
    *message = ToBuffer(part.SerializeAsString());
  });
}

void Router::StreamPodSandboxMetrics(const CallPtr& call) {
  if (!parts_.table.AnyContainer()) return HostStream(call);
  auto on_dpu = AskDpu<rt::ListPodSandboxMetricsResponse>(kListPodSandboxMetrics);
  if (!on_dpu) return HostStream(call);
  HostStream(call, [this, dpu = *std::move(on_dpu)](grpc::ByteBuffer* message) {
    rt::ListPodSandboxMetricsResponse part;
    if (!part.ParseFromString(BytesOf(*message))) return;
    AddTwinMetrics(dpu, &part);
    *message = ToBuffer(part.SerializeAsString());
  });
}

void Router::GetContainerEvents(const CallPtr& call) {
  auto out = std::make_shared<OutStream>(call);
  parts_.events.Subscribe(out);
  ForwardStream(
      parts_.host.stub(), call, out, [this](grpc::ByteBuffer* event) { parts_.events.Complete(event); },
      [this, out](const grpc::Status& status) {
        // Without the host's half there is none: kubelet asks again, and reads the Lists first.
        parts_.events.Unsubscribe(out);
        out->End(status);
      });
}

// The sandbox is the host's, which speaks for the Pod; twins exist in the DPU's runtime only. Where the answer has the
// Pod's containers, those of the DPU are added.
void Router::PodSandboxStatus(const CallPtr& call) {
  absl::StatusOr<std::string> id = FirstField(BytesOf(call->request()));
  if (!id.ok()) return Answer(*call, id.status());
  std::optional<SplitPod> pod = parts_.table.FindPod(*id);
  if (!pod || !pod->verdict.split) return ForwardToHost(call);
  ForwardToHost(call, [this, sandbox = pod->sandbox_id](grpc::Status* status, grpc::ByteBuffer* response) {
    rt::PodSandboxStatusResponse parsed;
    // Without a time kubelet does not look at them, and asks for each.
    if (!status->ok() || !parsed.ParseFromString(BytesOf(*response)) || parsed.timestamp() == 0) return;
    for (rt::ContainerStatus& of_dpu : parts_.table.Statuses(sandbox))
      *parsed.add_containers_statuses() = std::move(of_dpu);
    *response = ToBuffer(parsed.SerializeAsString());
  });
}

}  // namespace heterok8s::cri
