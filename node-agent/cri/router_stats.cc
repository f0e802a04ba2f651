// Figures of both PUs. kubelet asks for them every few seconds, so the DPU gets half a second; when that is not enough,
// what it said last stands: figures carry their own time.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "node-agent/cri/annotations.h"
#include "node-agent/cri/beside.h"
#include "node-agent/cri/router.h"
#include "node-agent/cri/stats.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr std::chrono::milliseconds kDpuTime{500};
constexpr std::chrono::seconds kVolumesEvery{5};  // kubelet looks whether a Pod must be evicted every 10 s
constexpr std::chrono::seconds kStatusTime{10};
constexpr size_t kIdLength = 64;  // of containerd

}  // namespace

std::optional<std::string> Router::AskDpuBytes(const char* method) {
  if (parts_.link.Valid()) {
    absl::StatusOr<grpc::ByteBuffer> got = parts_.dpu.CallBytes(method, ToBuffer(""), In(kDpuTime));
    std::lock_guard lock(figures_mutex_);
    if (got.ok()) last_figures_[method] = BytesOf(*got);
  }
  std::lock_guard lock(figures_mutex_);
  auto last = last_figures_.find(method);
  return last == last_figures_.end() ? std::nullopt : std::optional(last->second);
}

// Asks both PUs at once; `merge` is given both answers when the host's is a good one.
template <typename Response>
void Router::MergeLists(const CallPtr& call, const char* method,
                        const std::function<void(const Response& dpu, Response* host)>& merge) {
  auto dpu = Beside([&] { return AskDpu<Response>(method); });
  absl::StatusOr<grpc::ByteBuffer> host = parts_.host.CallBytes(method, call->request(), LimitOf(*call));
  std::optional<Response> on_dpu = dpu.get();
  Response response;
  if (!host.ok() || !on_dpu || !response.ParseFromString(BytesOf(*host))) return Answer(*call, host);
  merge(*on_dpu, &response);
  call->Finish(grpc::Status::OK, ToBuffer(response.SerializeAsString()));
}

void Router::ListContainerStats(const CallPtr& call) {
  if (!parts_.table.AnyContainer()) return ForwardToHost(call);
  rt::ListContainerStatsRequest request;
  if (!ParseRequest(*call, &request)) return;
  // Of a host's container by its whole id, the DPU has nothing to say.
  if (request.filter().id().size() == kIdLength && !parts_.table.FindContainer(request.filter().id())) {
    return ForwardToHost(call);
  }
  MergeLists<rt::ListContainerStatsResponse>(
      call, kListContainerStats,
      [&](const rt::ListContainerStatsResponse& dpu, rt::ListContainerStatsResponse* response) {
        AddContainerStats(dpu, request.filter(), response);
      });
}

v1::UsedByVolumesReply Router::UsedByVolumes(const ContainerStatsList& on_dpu) {
  auto has_one = [](const rt::ContainerStats& stats) {
    return stats.attributes().annotations().count(kDpuVolumes) > 0;
  };
  if (std::none_of(on_dpu.begin(), on_dpu.end(), has_one)) return {};
  const auto now = std::chrono::steady_clock::now();
  {
    std::lock_guard lock(figures_mutex_);
    if (now - used_asked_ < kVolumesEvery || !parts_.link.Valid()) return used_;
    used_asked_ = now;
  }
  grpc::ClientContext context;
  context.set_deadline(In(kDpuTime));
  v1::UsedByVolumesReply reply;
  const grpc::Status status = parts_.runtime.UsedByVolumes(&context, {}, &reply);
  std::lock_guard lock(figures_mutex_);
  if (status.ok()) used_ = std::move(reply);
  return used_;
}

void Router::AddContainerStats(const rt::ListContainerStatsResponse& dpu, const rt::ContainerStatsFilter& filter,
                               rt::ListContainerStatsResponse* response) {
  rt::ListContainerStatsResponse charged = dpu;
  ChargeVolumes(UsedByVolumes(dpu.stats()), charged.mutable_stats());
  for (const rt::ContainerStats& stats : charged.stats()) {
    std::optional<DpuContainer> container = parts_.table.FindContainer(stats.attributes().id());
    if (!container || container->lost) continue;
    if (!Matches(stats, container->listed.pod_sandbox_id(), filter)) continue;
    *response->add_stats() = ForHost(stats);
  }
}

void Router::AddTwinCharged(rt::PodSandboxStats twin, rt::PodSandboxStats* pod) {
  ChargeVolumes(UsedByVolumes(twin.linux().containers()), twin.mutable_linux()->mutable_containers());
  AddTwin(twin, pod);
}

void Router::AddTwins(const rt::ListPodSandboxStatsResponse& dpu, rt::PodSandboxStats* pod) {
  std::optional<SplitPod> split = parts_.table.FindPod(pod->attributes().id());
  if (!split || split->twin_id.empty()) return;
  for (const rt::PodSandboxStats& twin : dpu.stats()) {
    if (twin.attributes().id() == split->twin_id) AddTwinCharged(twin, pod);
  }
}

void Router::PodSandboxStats(const CallPtr& call) {
  rt::PodSandboxStatsRequest request;
  if (!ParseRequest(*call, &request)) return;
  std::optional<SplitPod> pod = parts_.table.FindPod(request.pod_sandbox_id());
  if (!pod || pod->twin_id.empty()) return ForwardToHost(call);
  // Of this twin alone: containerd 1.6 fails a whole list while any sandbox is stopped.
  auto dpu = Beside([&]() -> absl::StatusOr<rt::PodSandboxStatsResponse> {
    if (!parts_.link.Valid()) return parts_.link.AwayError();
    rt::PodSandboxStatsRequest twin;
    twin.set_pod_sandbox_id(pod->twin_id);
    return parts_.dpu.Call<rt::PodSandboxStatsResponse>(kPodSandboxStats, twin, In(kDpuTime));
  });
  absl::StatusOr<grpc::ByteBuffer> host = parts_.host.CallBytes(kPodSandboxStats, call->request(), LimitOf(*call));
  absl::StatusOr<rt::PodSandboxStatsResponse> on_dpu = dpu.get();
  rt::PodSandboxStatsResponse response;
  if (!host.ok() || !on_dpu.ok() || !response.ParseFromString(BytesOf(*host))) return Answer(*call, host);
  AddTwinCharged(std::move(*on_dpu->mutable_stats()), response.mutable_stats());
  call->Finish(grpc::Status::OK, ToBuffer(response.SerializeAsString()));
}

void Router::ListPodSandboxStats(const CallPtr& call) {
  if (!parts_.table.AnyContainer()) return ForwardToHost(call);
  MergeLists<rt::ListPodSandboxStatsResponse>(
      call, kListPodSandboxStats,
      [&](const rt::ListPodSandboxStatsResponse& dpu, rt::ListPodSandboxStatsResponse* response) {
        for (rt::PodSandboxStats& pod : *response->mutable_stats()) AddTwins(dpu, &pod);
      });
}

void Router::ListMetricDescriptors(const CallPtr& call) {
  if (!parts_.table.AnyContainer()) return ForwardToHost(call);
  MergeLists<rt::ListMetricDescriptorsResponse>(call, kListMetricDescriptors, AddDescriptors);
}

void Router::ListPodSandboxMetrics(const CallPtr& call) {
  if (!parts_.table.AnyContainer()) return ForwardToHost(call);
  MergeLists<rt::ListPodSandboxMetricsResponse>(
      call, kListPodSandboxMetrics,
      [&](const rt::ListPodSandboxMetricsResponse& dpu, rt::ListPodSandboxMetricsResponse* response) {
        AddTwinMetrics(dpu, response);
      });
}

void Router::AddTwinMetrics(const rt::ListPodSandboxMetricsResponse& dpu, rt::ListPodSandboxMetricsResponse* response) {
  for (rt::PodSandboxMetrics& pod : *response->mutable_pod_metrics()) {
    std::optional<SplitPod> split = parts_.table.FindPod(pod.pod_sandbox_id());
    if (!split || split->twin_id.empty()) continue;
    for (const rt::PodSandboxMetrics& twin : dpu.pod_metrics()) {
      if (twin.pod_sandbox_id() == split->twin_id) AddTwin(twin, &pod);
    }
  }
}

void Router::RuntimeConfig(const CallPtr& call) {
  absl::StatusOr<grpc::ByteBuffer> host = parts_.host.CallBytes(kRuntimeConfig, call->request(), LimitOf(*call));
  if (host.status().code() != absl::StatusCode::kUnimplemented) return Answer(*call, host);
  // containerd before 1.7: what kubelet asks for is in its verbose Status.
  rt::StatusRequest ask;
  ask.set_verbose(true);
  absl::StatusOr<rt::StatusResponse> status =
      parts_.host.Call<rt::StatusResponse>(kStatus, ask, std::min(LimitOf(*call), In(kStatusTime)));
  if (!status.ok()) return Answer(*call, host);
  auto config = status->info().find("config");
  absl::StatusOr<rt::CgroupDriver> driver =
      config == status->info().end() ? host.status() : CgroupDriverOf(config->second);
  if (!driver.ok()) return Answer(*call, driver.status());
  rt::RuntimeConfigResponse response;
  response.mutable_linux()->set_cgroup_driver(*driver);
  call->Finish(grpc::Status::OK, ToBuffer(response.SerializeAsString()));
}

}  // namespace heterok8s::cri
