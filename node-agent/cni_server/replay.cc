#include "node-agent/cni_server/replay.h"

#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <vector>

#include "common/sys/file.h"

namespace heterok8s::cni_server {
namespace fs = std::filesystem;

absl::Status QueueReplay::Start() {
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("make queue folder '{}'", folder_));
  fs::permissions(folder_, fs::perms::owner_all, error);
  // Watched before it is read, so that no file can fall between.
  inotify_ = sys::UniqueFd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  stop_ = sys::UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!inotify_.valid() || !stop_.valid()) return ErrnoToStatus(errno, "make an inotify and an event descriptor");
  if (inotify_add_watch(inotify_.get(), folder_.c_str(), IN_MOVED_TO | IN_ONLYDIR) < 0) {
    return ErrnoToStatus(errno, fmt::format("watch queue folder '{}'", folder_));
  }
  const bool settled = Pass();
  thread_ = std::thread([this, settled] { Watch(settled); });
  return absl::OkStatus();
}

void QueueReplay::Stop() {
  if (!thread_.joinable()) return;
  eventfd_write(stop_.get(), 1);
  thread_.join();
}

bool QueueReplay::Pass() {
  std::vector<std::pair<fs::file_time_type, std::string>> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, error)) {
    if (entry.path().extension() != cni::kQueueSuffix) continue;
    std::error_code gone;
    files.emplace_back(entry.last_write_time(gone), entry.path().filename());
  }
  if (error) spdlog::error("list queue folder '{}': {}; trying again later", folder_, error.message());
  std::sort(files.begin(), files.end());
  bool settled = !error;
  for (const auto& [time, name] : files) settled = ReplayFile(name) && settled;
  return settled;
}

bool QueueReplay::ReplayFile(const std::string& name) {
  const std::string path = folder_ + "/" + name;
  absl::StatusOr<std::string> text = sys::ReadFile(path, cni::kMaxFrameBytes);
  if (absl::IsNotFound(text.status())) return true;  // a direct call did the same meanwhile
  absl::StatusOr<cni::WireRequest> request = text.ok() ? cni::DecodeRequest(*text) : text.status();
  if (request.ok() && request->environment["CNI_COMMAND"] != "DEL") {
    request = absl::InvalidArgumentError(fmt::format("it holds {}, not DEL", request->environment["CNI_COMMAND"]));
  }
  absl::Status served = request.ok() ? serve_(*request, path) : request.status();
  if (served.ok()) return true;  // serving a DEL removes its file
  if (absl::IsInvalidArgument(served)) {
    // Trying again will not help, and the address it would have freed is for GC now.
    spdlog::error("queued call '{}' cannot be carried out, set aside as '{}.bad': {}", path, name, Message(served));
    return rename(path.c_str(), (path + ".bad").c_str()) == 0;
  }
  spdlog::warn("queued DEL '{}': {}; trying again in {} ms", name, Message(served), kRetry.count());
  return false;
}

void QueueReplay::Watch(bool settled) {
  while (true) {
    pollfd fds[2] = {{stop_.get(), POLLIN, 0}, {inotify_.get(), POLLIN, 0}};
    if (poll(fds, 2, settled ? -1 : static_cast<int>(kRetry.count())) < 0 && errno != EINTR) return;
    if (fds[0].revents != 0) return;
    char events[4096];
    while (read(inotify_.get(), events, sizeof events) > 0) {
    }
    settled = Pass();
  }
}

}  // namespace heterok8s::cni_server
