// Images: the host's. A call says which Pod an image is for, not which container, so the images of a Pod that asked for
// a split are fetched on both PUs.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "node-agent/cri/beside.h"
#include "node-agent/cri/image_versions.h"
#include "node-agent/cri/router.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr std::chrono::seconds kStatusTime{5};

// containerd's words for an image that is not made for this PU's processor.
bool IsOtherPlatform(const absl::Status& status) {
  return absl::IsNotFound(status) && Message(status).find("no match for platform") != std::string::npos;
}

bool IsId(const std::string& image) { return image.starts_with("sha256:"); }

absl::StatusOr<rt::ImageStatusResponse> Find(CriClient& runtime, const std::string& image, Deadline deadline) {
  rt::ImageStatusRequest ask;
  ask.mutable_image()->set_image(image);
  return runtime.Call<rt::ImageStatusResponse>(kImageStatus, ask, std::min(deadline, In(kStatusTime)));
}

}  // namespace

void Router::ImageStatus(const CallPtr& call) {
  rt::ImageStatusRequest request;
  if (!ParseRequest(*call, &request)) return;
  bool split = DecideByAnnotations(request.image().annotations(), options_.rules).split;
  if (!split || !parts_.link.Valid()) {
    ForwardToHost(call);
    return;
  }
  const std::string& name = request.image().image();
  if (image_notes_.TakeMustPull(name)) {
    spdlog::info("image '{}': one PU lacks it; saying that there is none, so that it is pulled", name);
    call->Finish(grpc::Status::OK, ToBuffer(rt::ImageStatusResponse().SerializeAsString()));
    return;
  }
  absl::StatusOr<grpc::ByteBuffer> host = parts_.host.CallBytes(kImageStatus, call->request(), LimitOf(*call), call);
  rt::ImageStatusResponse response;
  if (host.ok() && response.ParseFromString(BytesOf(*host)) && !response.has_image()) {
    // An image that only the DPU has is there: no pull is needed for the container that runs there.
    auto dpu = parts_.dpu.CallBytes(kImageStatus, call->request(), std::min(LimitOf(*call), In(kStatusTime)), call);
    if (dpu.ok()) {
      if (response.ParseFromString(BytesOf(*dpu)) && response.has_image())
        image_notes_.OnlyOnDpu(response.image().id(), name);
      host = std::move(dpu);
    }
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
  // No limit of ours: kubelet gives a pull none either, and none would be right for every image and line.
  auto pull = [&](CriClient& runtime) {
    return runtime.CallBytes(kPullImage, call->request(), call->deadline(), call);
  };
  auto on_dpu = Beside([&] { return pull(parts_.dpu); });
  absl::StatusOr<grpc::ByteBuffer> host = pull(parts_.host);
  absl::StatusOr<grpc::ByteBuffer> dpu = on_dpu.get();
  const std::string& name = request.image().image();
  if (host.ok() != dpu.ok()) {
    spdlog::warn("image '{}' could be pulled on the {} only: {}", name, host.ok() ? "host" : "DPU",
                 ToString(host.ok() ? dpu.status() : host.status()));
  }
  if (dpu.ok()) {
    image_notes_.DpuPulled(name);
  } else if (host.ok() && !IsOtherPlatform(dpu.status())) {
    image_notes_.DpuIsBehind(name);  // its container falls back, or waits: see DpuImage
  }
  // That the DPU has it is enough for an image that is not made for the host: no container of the host has it. After
  // any other failure one may, and kubelet, told that it is there, would not pull again.
  const bool dpu_only = dpu.ok() && IsOtherPlatform(host.status());
  Answer(*call, dpu_only ? dpu : host);
}

absl::StatusOr<std::string> Router::DpuImage(const rt::CreateContainerRequest& request, Deadline deadline) {
  // kubelet gives the id that the host's runtime has for the image; on another architecture the same name has another.
  const rt::ImageSpec& image = request.config().image();
  std::string name;
  for (const std::string& given : {image.image(), image.user_specified_image()}) {
    if (given.empty()) continue;
    if (!IsId(given)) {
      name = given;
      continue;
    }
    HK_ASSIGN_OR_RETURN(auto by_id, Find(parts_.dpu, given, deadline));
    if (by_id.has_image()) return given;
  }
  if (name.empty()) return absl::NotFoundError(fmt::format("image '{}' is not on the DPU", image.image()));

  HK_ASSIGN_OR_RETURN(auto on_host, Find(parts_.host, image.image(), deadline));
  HK_ASSIGN_OR_RETURN(auto on_dpu, Find(parts_.dpu, name, deadline));
  const ImageVersions wanted = VersionsOf(on_host.image(), name);
  if (on_dpu.has_image() && !image_notes_.IsDpuBehind(name) && MaySame(wanted, VersionsOf(on_dpu.image(), name)))
    return name;
  // The host's very version, by a name that no registry can move; of several each is it.
  std::vector<std::string> names;
  for (const auto& [digest, with_digest] : wanted) names.push_back(with_digest);
  for (const std::string& exact : names) {
    HK_ASSIGN_OR_RETURN(auto there, Find(parts_.dpu, exact, deadline));
    if (there.has_image()) return exact;
  }
  if (names.empty()) names.push_back(name);
  absl::Status pulled;
  for (const std::string& to_pull : names) {
    rt::PullImageRequest pull;
    pull.mutable_image()->set_image(to_pull);
    pulled = parts_.dpu.Call<rt::PullImageResponse>(kPullImage, pull, deadline).status();
    if (pulled.ok()) {
      if (to_pull == name) image_notes_.DpuPulled(name);
      return to_pull;
    }
    if (IsAway(pulled)) break;
  }
  if (!IsAway(pulled)) image_notes_.DpuLacks(name);  // kubelet may have credentials for it
  return Annotate(pulled, fmt::format("image '{}' is not on the DPU{}", names.back(),
                                      on_dpu.has_image() ? ", which has another one of that name" : ""));
}

}  // namespace heterok8s::cri
