// Images: the host's. A call says which Pod an image is for, not which container, so the images of a Pod that asked for
// a split are fetched on both PUs.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <future>

#include "node-agent/cri/router.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr std::chrono::seconds kStatusTime{5};

}  // namespace

void Router::ImageStatus(const CallPtr& call) {
  rt::ImageStatusRequest request;
  if (!ParseRequest(*call, &request)) return;
  bool split = DecideByAnnotations(request.image().annotations(), options_.rules).split;
  if (!split || !parts_.link.Valid()) {
    ForwardToHost(call);
    return;
  }
  absl::StatusOr<grpc::ByteBuffer> host = parts_.host.CallBytes(kImageStatus, call->request(), LimitOf(*call));
  rt::ImageStatusResponse response;
  if (host.ok() && response.ParseFromString(BytesOf(*host)) && !response.has_image()) {
    // An image that only the DPU has is there: no pull is needed for the container that runs there.
    auto dpu = parts_.dpu.CallBytes(kImageStatus, call->request(), std::min(LimitOf(*call), In(kStatusTime)));
    if (dpu.ok()) host = std::move(dpu);
  }
  Answer(*call, host);
}

void Router::PullImage(const CallPtr& call) {
  rt::PullImageRequest request;
  if (!ParseRequest(*call, &request)) return;
  bool split = DecideByAnnotations(request.image().annotations(), options_.rules).split;
  if (request.has_sandbox_config()) {
    split = DecidePod(request.sandbox_config(), request.image().runtime_handler(), options_.rules).split;
  }
  if (!split || !parts_.link.Valid()) {
    ForwardToHost(call);
    return;
  }
  Deadline deadline = LimitOf(*call);
  auto on_dpu =
      std::async(std::launch::async, [&] { return parts_.dpu.CallBytes(kPullImage, call->request(), deadline); });
  absl::StatusOr<grpc::ByteBuffer> host = parts_.host.CallBytes(kPullImage, call->request(), deadline);
  absl::StatusOr<grpc::ByteBuffer> dpu = on_dpu.get();
  if (host.ok() != dpu.ok()) {
    // Enough for the containers of that PU; one of the other PU will say that its image is missing.
    spdlog::warn("image '{}' could be pulled on the {} only: {}", request.image().image(), host.ok() ? "host" : "DPU",
                 ToString(host.ok() ? dpu.status() : host.status()));
  }
  Answer(*call, host.ok() || !dpu.ok() ? host : dpu);
}

}  // namespace heterok8s::cri
