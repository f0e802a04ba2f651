#include "node-agent/cri/image_keeper.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/sys/file.h"
#include "node-agent/cri/relay.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr std::chrono::seconds kCallTime{10};
constexpr std::chrono::seconds kRemoveTime{60};  // many layers on a slow disk

bool Pinned(const rt::Image& image, const std::string& sandbox_image) {
  if (image.pinned()) return true;
  // Before containerd 1.7 nothing says that the image of every sandbox must stay, though no container uses it.
  auto is = [&](const std::string& name) { return name == sandbox_image; };
  return std::any_of(image.repo_tags().begin(), image.repo_tags().end(), is) ||
         std::any_of(image.repo_digests().begin(), image.repo_digests().end(), is);
}

// "sandboxImage" of the configuration that containerd shows in a verbose Status; empty when it does not.
std::string SandboxImage(const rt::StatusResponse& status) {
  auto config = status.info().find("config");
  if (config == status.info().end()) return "";
  auto json = nlohmann::json::parse(config->second, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("sandboxImage") || !json["sandboxImage"].is_string()) return "";
  return json["sandboxImage"];
}

}  // namespace

ImageKeeper::ImageKeeper(ImageKeeperOptions options)
    : options_(std::move(options)),
      channel_(UnixChannel(options_.socket)),
      channel_keeper_(channel_),
      runtime_(channel_) {
  Load();
}

absl::StatusOr<DiskUse> ImageKeeper::StatDisk(const std::string& mountpoint) {
  struct statvfs info = {};
  if (statvfs(mountpoint.c_str(), &info) != 0) return ErrnoToStatus(errno, fmt::format("statvfs '{}'", mountpoint));
  // As df: what only root may use counts as used.
  uint64_t used = (info.f_blocks - info.f_bfree) * info.f_frsize;
  return DiskUse{.total = used + info.f_bavail * info.f_frsize, .used = used};
}

void ImageKeeper::Load() {
  absl::StatusOr<std::string> text = sys::ReadFile(options_.state_file, 16u << 20);
  if (!text.ok()) return;  // the first start: every image counts as used now
  std::istringstream lines(*text);
  std::string id;
  for (int64_t time; lines >> time >> id;) last_used_[id] = time;
}

absl::Status ImageKeeper::Save() const {
  std::string text;
  for (const auto& [id, time] : last_used_) text += fmt::format("{} {}\n", time, id);
  return sys::WriteFileAtomic(options_.state_file, text, 0600);
}

absl::Status ImageKeeper::NoteUse(const rt::ListImagesResponse& images, int64_t now) {
  HK_ASSIGN_OR_RETURN(auto containers, runtime_.Call<rt::ListContainersResponse>(
                                           kListContainers, rt::ListContainersRequest(), In(kCallTime)));
  in_use_.clear();
  for (const rt::Container& container : containers.containers()) {
    in_use_.insert(container.image_ref());
    in_use_.insert(container.image().image());
  }
  std::map<std::string, int64_t> noted;
  for (const rt::Image& image : images.images()) {
    bool used = in_use_.contains(image.id());
    for (const std::string& name : image.repo_tags()) used |= in_use_.contains(name);
    for (const std::string& name : image.repo_digests()) used |= in_use_.contains(name);
    if (used) in_use_.insert(image.id());
    auto known = last_used_.find(image.id());
    noted[image.id()] = used || known == last_used_.end() ? now : known->second;
  }
  if (noted == last_used_) return absl::OkStatus();
  last_used_ = std::move(noted);
  return Save();
}

absl::StatusOr<std::vector<std::string>> ImageKeeper::Round(std::chrono::system_clock::time_point now,
                                                            const Disk& disk) {
  const int64_t seconds = std::chrono::duration_cast<std::chrono::seconds>(now.time_since_epoch()).count();
  HK_ASSIGN_OR_RETURN(auto images, runtime_.Call<rt::ListImagesResponse>("/runtime.v1.ImageService/ListImages",
                                                                         rt::ListImagesRequest(), In(kCallTime)));
  HK_RETURN_IF_ERROR(NoteUse(images, seconds));
  std::vector<std::string> removed;
  HK_ASSIGN_OR_RETURN(auto info, runtime_.Call<rt::ImageFsInfoResponse>("/runtime.v1.ImageService/ImageFsInfo",
                                                                        rt::ImageFsInfoRequest(), In(kCallTime)));
  if (info.image_filesystems_size() == 0) return removed;
  const std::string mountpoint = info.image_filesystems(0).fs_id().mountpoint();
  HK_ASSIGN_OR_RETURN(DiskUse use, disk(mountpoint));
  auto above = [&](int percent) { return use.total > 0 && use.used / 100.0 > use.total / 100.0 * percent / 100.0; };
  if (options_.high_percent >= 100 || !above(options_.high_percent)) return removed;

  rt::StatusRequest ask;
  ask.set_verbose(true);
  HK_ASSIGN_OR_RETURN(auto status, runtime_.Call<rt::StatusResponse>(kStatus, ask, In(kCallTime)));
  const std::string sandbox_image = SandboxImage(status);
  std::vector<const rt::Image*> candidates;
  for (const rt::Image& image : images.images()) {
    if (in_use_.contains(image.id()) || Pinned(image, sandbox_image)) continue;
    if (seconds - last_used_[image.id()] >= options_.youngest.count()) candidates.push_back(&image);
  }
  std::sort(candidates.begin(), candidates.end(),
            [this](const rt::Image* a, const rt::Image* b) { return last_used_[a->id()] < last_used_[b->id()]; });
  for (const rt::Image* image : candidates) {
    if (!above(options_.low_percent)) break;
    rt::RemoveImageRequest remove;
    remove.mutable_image()->set_image(image->id());
    const absl::Status gone =
        runtime_.Call<rt::RemoveImageResponse>("/runtime.v1.ImageService/RemoveImage", remove, In(kRemoveTime))
            .status();
    if (absl::IsUnavailable(gone)) return Annotate(gone, fmt::format("RemoveImage {}", image->id()));
    if (!gone.ok()) {
      spdlog::warn("image {} cannot be removed: {}; the next oldest is tried", image->id(), ToString(gone));
      continue;
    }
    spdlog::info("image {} ({}) is removed: '{}' is above {} %", image->id(),
                 image->repo_tags_size() > 0 ? image->repo_tags(0) : "no tag", mountpoint, options_.high_percent);
    removed.push_back(image->id());
    HK_ASSIGN_OR_RETURN(use, disk(mountpoint));
  }
  if (above(options_.low_percent)) {
    spdlog::warn("'{}' is still above {} %; no more images can be removed", mountpoint, options_.low_percent);
  }
  return removed;
}

void ImageKeeper::Start() {
  thread_ = std::thread([this] {
    std::string last_failure;
    std::unique_lock lock(mutex_);
    while (!stop_) {
      lock.unlock();
      absl::Status round = Round(std::chrono::system_clock::now(), StatDisk).status();
      if (!round.ok() && Message(round) != last_failure)
        spdlog::warn("images: {}; looked at again later", ToString(round));
      last_failure = round.ok() ? "" : Message(round);
      lock.lock();
      changed_.wait_for(lock, options_.interval, [this] { return stop_; });
    }
  });
}

void ImageKeeper::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

}  // namespace heterok8s::cri
