// A container's life after it was made. Host containers go to the host unread; here is what the DPU's need.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "common/fault/fault.h"
#include "node-agent/cri/router.h"
#include "node-agent/cri/wire.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr std::chrono::seconds kReadTime{5};
constexpr std::chrono::seconds kVerboseTime{2};
constexpr std::chrono::seconds kDrainTime{1};
constexpr std::chrono::seconds kReleaseTime{10};

void ReleaseOnDpu(v1::DpuRuntime::StubInterface& runtime, const std::string& path, uint64_t offset, bool remove) {
  if (path.empty()) return;
  grpc::ClientContext context;
  context.set_deadline(In(kReleaseTime));
  v1::ReleaseLogRequest request;
  request.set_path(path);
  request.set_offset(offset);
  request.set_remove(remove);
  v1::ReleaseLogReply reply;
  grpc::Status released = runtime.ReleaseLog(&context, request, &reply);
  if (!released.ok()) spdlog::warn("log '{}' keeps its space on the DPU: {}", path, released.error_message());
}

}  // namespace

// Nothing: the call has been answered, or (answered false) is the host's.
std::optional<DpuContainer> Router::OnDpu(const CallPtr& call, bool* answered) {
  *answered = false;
  absl::StatusOr<std::string> id = FirstField(BytesOf(call->request()));
  if (!id.ok()) {
    Answer(*call, id.status());
    *answered = true;
    return std::nullopt;
  }
  return parts_.table.FindContainer(*id);
}

void Router::StartContainer(const CallPtr& call) {
  bool answered;
  std::optional<DpuContainer> container = OnDpu(call, &answered);
  if (answered) return;
  if (!container) return ForwardToHost(call);
  if (container->lost) {
    FailEnded(call, grpc::StatusCode::FAILED_PRECONDITION, *container);
    return;
  }
  absl::StatusOr<grpc::ByteBuffer> response =
      parts_.dpu.CallBytes(kStartContainer, call->request(), LimitOf(*call), call);
  if (absl::Status failed = fault::Pass<"cri.container-start.after-dpu">(); !failed.ok()) response = failed;
  // Before the answer: what kubelet lists next shows the container as it is now.
  if (!parts_.link.Refresh(container->id(), In(kReadTime)).ok()) parts_.link.PollSoon();
  if (auto now = parts_.table.FindContainer(container->id()); now && now->lost)
    return FailEnded(call, grpc::StatusCode::UNAVAILABLE, *now);
  Answer(*call, response);
}

void Router::StopContainer(const CallPtr& call) {
  bool answered;
  std::optional<DpuContainer> container = OnDpu(call, &answered);
  if (answered) return;
  if (!container) return ForwardToHost(call);
  if (container->lost) {  // it has ended for kubelet, and will have when the DPU returns
    Answer(*call, absl::OkStatus());
    return;
  }
  // No limit of ours: the grace that the Pod asks for may be an hour.
  absl::StatusOr<grpc::ByteBuffer> response =
      parts_.dpu.CallBytes(kStopContainer, call->request(), call->deadline(), call);
  if (absl::Status failed = fault::Pass<"cri.container-stop.after-dpu">(); !failed.ok()) response = failed;
  if (response.ok() && !parts_.link.Refresh(container->id(), In(kReadTime)).ok()) parts_.link.PollSoon();
  Answer(*call, response);
}

void Router::RemoveContainer(const CallPtr& call) {
  bool answered;
  std::optional<DpuContainer> container = OnDpu(call, &answered);
  if (answered) return;
  if (!container) return ForwardToHost(call);
  if (!parts_.link.Valid()) {
    parts_.table.AddRemoved(container->id());
    parts_.mirror.Forget(container->id());
    absl::Status saved = fault::Pass<"cri.container-remove.before-note">();
    if (saved.ok()) saved = parts_.table.Save();  // must survive us: the DPU still has it
    if (saved.ok()) saved = fault::Pass<"cri.container-remove.after-note">();
    Answer(*call, saved);
    return;
  }
  if (!container->lost && container->listed.state() == rt::CONTAINER_EXITED)
    parts_.mirror.Drain(container->id(), kDrainTime);
  absl::StatusOr<grpc::ByteBuffer> response =
      parts_.dpu.CallBytes(kRemoveContainer, call->request(), LimitOf(*call), call);
  if (absl::Status failed = fault::Pass<"cri.container-remove.after-dpu">(); !failed.ok()) response = failed;
  if (response.status().code() == absl::StatusCode::kNotFound) response = ToBuffer("");
  if (response.ok()) {
    parts_.table.EraseContainer(container->id());
    parts_.mirror.Forget(container->id());
    if (absl::Status failed = fault::Pass<"cri.container-remove.before-log">(); !failed.ok())
      return Answer(*call, failed);
    ReleaseOnDpu(parts_.runtime, container->dpu_log, 0, /*remove=*/true);
    if (absl::Status failed = fault::Pass<"cri.container-remove.after-log">(); !failed.ok()) response = failed;
  }
  Answer(*call, response);
}

void Router::ContainerStatus(const CallPtr& call) {
  rt::ContainerStatusRequest request;
  if (!ParseRequest(*call, &request)) return;
  std::optional<DpuContainer> container = parts_.table.FindContainer(request.container_id());
  if (!container) return ForwardToHost(call);
  rt::ContainerStatusResponse known;
  *known.mutable_status() = parts_.table.Shown(*container);
  if (!container->lost && known.status().id().empty()) {  // made a moment ago, not read yet
    known.mutable_status()->set_id(container->id());
    *known.mutable_status()->mutable_metadata() = container->listed.metadata();
    known.mutable_status()->set_state(container->listed.state());
    *known.mutable_status()->mutable_image() = container->listed.image();
    *known.mutable_status()->mutable_labels() = container->listed.labels();
    *known.mutable_status()->mutable_annotations() = container->listed.annotations();
  }
  if (!request.verbose() || container->lost) {
    call->Finish(grpc::Status::OK, ToBuffer(known.SerializeAsString()));
    return;
  }
  // Only the runtime has the verbose part; a person asks for it, kubelet's loop does not.
  bool started = parts_.tasks.Run([this, call, request, known]() mutable {
    auto live = parts_.dpu.Call<rt::ContainerStatusResponse>(kContainerStatus, request,
                                                             std::min(LimitOf(*call), In(kVerboseTime)));
    if (live.ok()) *known.mutable_info() = live->info();
    call->Finish(grpc::Status::OK, ToBuffer(known.SerializeAsString()));
  });
  if (!started) call->Finish(grpc::Status::OK, ToBuffer(known.SerializeAsString()));
}

// Exec and Attach: the session is the DPU's, its URL one of ours.
void Router::OpenStream(const CallPtr& call) {
  bool answered;
  std::optional<DpuContainer> container = OnDpu(call, &answered);
  if (answered) return;
  if (!container) return ForwardToHost(call);
  if (container->lost) {
    FailEnded(call, grpc::StatusCode::UNAVAILABLE, *container);
    return;
  }
  absl::StatusOr<grpc::ByteBuffer> response =
      parts_.dpu.CallBytes(call->method(), call->request(), LimitOf(*call), call);
  if (!response.ok()) return Answer(*call, response.status());
  absl::StatusOr<std::string> url = FirstField(BytesOf(*response));
  if (url.ok()) url = parts_.streaming.Offer(*url);
  if (!url.ok()) return Answer(*call, Annotate(url.status(), "container on the DPU"));
  rt::ExecResponse ours;  // AttachResponse is the same
  ours.set_url(*url);
  call->Finish(grpc::Status::OK, ToBuffer(ours.SerializeAsString()));
}

void Router::ReopenContainerLog(const CallPtr& call) {
  bool answered;
  std::optional<DpuContainer> container = OnDpu(call, &answered);
  if (answered) return;
  if (!container) return ForwardToHost(call);
  if (!container->running()) {
    call->Fail(grpc::StatusCode::FAILED_PRECONDITION, fmt::format("container {} is not running", container->id()));
    return;
  }
  parts_.mirror.Ensure(container->id(), container->dpu_log, container->status.log_path(), true);
  absl::StatusOr<uint64_t> offset = parts_.mirror.Reopen(container->id());
  if (absl::Status failed = fault::Pass<"cri.log-reopen.after-position">(); !failed.ok()) offset = failed;
  Answer(*call, offset.status());
  if (offset.ok()) ReleaseOnDpu(parts_.runtime, container->dpu_log, *offset, /*remove=*/false);
}

}  // namespace heterok8s::cri
