// What the DPU's half of a Pod may use together: set before its first container is made, changed with its containers.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include "common/fault/fault.h"
#include "node-agent/cri/grpc_status.h"
#include "node-agent/cri/router.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr std::chrono::seconds kLimitTime{10};
constexpr std::chrono::seconds kReadTime{5};

}  // namespace

PodLimits Router::LimitsOfPod(const SplitPod& pod, const std::string& name, uint32_t attempt,
                              const rt::LinuxContainerResources* resources) const {
  // The newest of each name. One that has ended counts until it is removed: what it left in memory (a tmpfs of the
  // Pod's) is charged to the cgroup until the Pod ends.
  std::map<std::string, std::pair<uint32_t, rt::LinuxContainerResources>> newest;
  for (const DpuContainer& container : parts_.table.Containers()) {
    if (container.listed.pod_sandbox_id() != pod.sandbox_id || container.lost) continue;
    const rt::ContainerMetadata& metadata = container.listed.metadata();
    auto [at, first] = newest.try_emplace(metadata.name(), metadata.attempt(), container.resources);
    if (!first && at->second.first < metadata.attempt()) at->second = {metadata.attempt(), container.resources};
  }
  if (resources != nullptr) {
    auto at = newest.find(name);
    if (at == newest.end() || at->second.first <= attempt) newest[name] = {attempt, *resources};
  }
  std::vector<rt::LinuxContainerResources> all;
  for (auto& [_, container] : newest) all.push_back(std::move(container.second));
  return LimitsOf(all, pod.resources.value_or(rt::LinuxContainerResources()));
}

absl::Status Router::LimitOnDpu(const SplitPod& pod, const PodLimits& limits, Deadline deadline) {
  if (pod.dpu_cgroup.value_or("").empty()) return absl::OkStatus();  // shared with others: not ours to limit
  grpc::ClientContext context;
  context.set_deadline(std::min(deadline, In(kLimitTime)));
  v1::LimitPodRequest request;
  request.set_pod_uid(pod.metadata.uid());
  request.set_cgroup_parent(*pod.dpu_cgroup);
  request.set_cpu_quota(limits.cpu_quota);
  request.set_cpu_shares(limits.cpu_shares);
  request.set_memory_bytes(limits.memory_bytes);
  v1::LimitPodReply reply;
  absl::Status limited = FromGrpc(parts_.runtime.LimitPod(&context, request, &reply));
  std::string without;
  if (limited.code() == absl::StatusCode::kUnimplemented) {  // while a Node is updated, one PU after the other
    without = "the DPU's heterod is older and does not set them";
    limited = absl::OkStatus();
  } else if (reply.missing_size() > 0) {
    without = fmt::format("the DPU lacks: {}", fmt::join(reply.missing(), ", "));
  }
  if (!without.empty() && !said_missing_.exchange(true)) {
    spdlog::warn("limits of whole Pods do not hold on the DPU, those of containers do: {}", without);
  }
  return limited;
}

// Asked each time: a DPU may come back from a reboot with another version.
absl::StatusOr<bool> Router::TakesUnified(const rt::LinuxContainerResources& resources, Deadline deadline) {
  if (resources.unified().empty()) return true;
  grpc::ClientContext context;
  context.set_deadline(std::min(deadline, In(kReadTime)));
  v1::AboutReply about;
  const absl::Status asked = FromGrpc(parts_.runtime.About(&context, {}, &about));
  if (asked.code() == absl::StatusCode::kUnimplemented) return true;  // of an older heterod: the runtime will say
  HK_RETURN_IF_ERROR(Annotate(asked, "cgroup version of the DPU"));
  return about.cgroup_v2();
}

absl::Status Router::LimitForNew(const SplitPod& pod, const rt::CreateContainerRequest& made, Deadline deadline) {
  SplitPod now = pod;
  if (made.sandbox_config().linux().has_resources()) {  // kubelet makes it anew for each container
    now.resources = LimitsAlone(made.sandbox_config().linux().resources());
    parts_.table.SetResources(pod.sandbox_id, *now.resources);
  }
  const rt::ContainerMetadata& metadata = made.config().metadata();
  return LimitOnDpu(now, LimitsOfPod(now, metadata.name(), metadata.attempt(), &made.config().linux().resources()),
                    deadline);
}

// No runtime has it for us after a restart.
void Router::SaveLimits() {
  absl::Status saved = parts_.table.Save();
  if (!saved.ok()) spdlog::warn("after a restart an update of limits would not be known: {}", ToString(saved));
}

void Router::UpdateContainerResources(const CallPtr& call) {
  rt::UpdateContainerResourcesRequest request;
  if (!ParseRequest(*call, &request)) return;
  std::optional<DpuContainer> container = parts_.table.FindContainer(request.container_id());
  if (!container) return ForwardToHost(call);
  if (container->lost) return FailEnded(call, grpc::StatusCode::UNAVAILABLE, *container);
  const bool asks = request.linux().ByteSizeLong() > 0;
  if (asks) {
    const absl::StatusOr<bool> unified = TakesUnified(request.linux(), LimitOf(*call));
    if (!unified.ok()) return Answer(*call, unified.status());
    *request.mutable_linux() = ResourcesOnDpu(request.linux(), *unified);
  }
  // kubelet's CPU manager says where the container may run and no more, every few seconds.
  if (asks && request.linux().ByteSizeLong() == 0) return Answer(*call, absl::OkStatus());
  absl::StatusOr<sys::KeyedMutex::Guard> held = limits_.Lock(container->listed.pod_sandbox_id(), kLimitsPatience);
  if (!held.ok()) return Answer(*call, held.status());
  container = parts_.table.FindContainer(container->id());
  std::optional<SplitPod> pod = container ? parts_.table.FindPod(container->listed.pod_sandbox_id()) : std::nullopt;
  if (!pod) return Answer(*call, absl::NotFoundError(fmt::format("container {} is gone", request.container_id())));

  const Deadline deadline = LimitOf(*call);
  const rt::LinuxContainerResources updated = Updated(container->resources, request.linux());
  const rt::ContainerMetadata& metadata = container->listed.metadata();
  const PodLimits before = LimitsOfPod(*pod, metadata.name(), metadata.attempt(), &container->resources);
  const PodLimits after = LimitsOfPod(*pod, metadata.name(), metadata.attempt(), &updated);
  // As kubelet does on the host: the Pod first where there is more, the container first where there is less.
  const PodLimits meanwhile = Wider(before, after);
  if (meanwhile != before) {
    if (absl::Status limited = LimitOnDpu(*pod, meanwhile, deadline); !limited.ok())
      return Answer(*call, Annotate(limited, "the Pod's limits on the DPU"));
  }
  if (absl::Status failed = fault::Pass<"cri.container-update.after-limits">(); !failed.ok())
    return Answer(*call, failed);
  absl::StatusOr<grpc::ByteBuffer> response =
      parts_.dpu.CallBytes(call->method(), ToBuffer(request.SerializeAsString()), deadline, call);
  if (absl::Status failed = fault::Pass<"cri.container-update.after-dpu">(); !failed.ok()) response = failed;
  if (response.ok()) {
    parts_.table.SetContainerResources(container->id(), updated);
    SaveLimits();
    if (after != meanwhile) {
      absl::Status limited = LimitOnDpu(*pod, after, deadline);
      // The container has its new limits, and more for all of them harms none.
      if (!limited.ok())
        spdlog::warn("container {}: its Pod keeps more on the DPU: {}", container->id(), ToString(limited));
    }
    // Before the answer: the status that kubelet asks for next has the new limits.
    if (!parts_.link.Refresh(container->id(), In(kReadTime)).ok()) parts_.link.PollSoon();
  }
  Answer(*call, response);
}

void Router::UpdatePodSandboxResources(const CallPtr& call) {
  rt::UpdatePodSandboxResourcesRequest request;
  if (!ParseRequest(*call, &request)) return;
  std::optional<SplitPod> pod = parts_.table.FindPod(request.pod_sandbox_id());
  if (!pod || pod->twin_id.empty() || !request.has_resources()) return ForwardToHost(call);
  absl::StatusOr<sys::KeyedMutex::Guard> held = limits_.Lock(pod->sandbox_id, kLimitsPatience);
  if (!held.ok()) return Answer(*call, held.status());
  pod->resources = LimitsAlone(request.resources());
  parts_.table.SetResources(pod->sandbox_id, *pod->resources);
  SaveLimits();
  absl::Status limited = absl::OkStatus();
  // While the DPU is away nothing runs there, or what runs is limited when it is next made or updated.
  if (parts_.link.Valid()) limited = LimitOnDpu(*pod, LimitsOfPod(*pod, "", 0, nullptr), LimitOf(*call));
  if (!limited.ok()) return Answer(*call, Annotate(limited, "the Pod's limits on the DPU"));
  ForwardToHost(call);
}

}  // namespace heterok8s::cri
