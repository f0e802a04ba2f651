#include "node-agent/cri/volume_mirror.h"

#include <fmt/format.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <optional>
#include <vector>

#include "common/fault/fault.h"
#include "node-agent/cri/confined.h"
#include "node-agent/cri/grpc_status.h"
#include "node-agent/cri/volume_reader.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kSettle{50};   // kubelet changes several names one after the other
constexpr milliseconds kRetry{1000};  // what could not be sent
constexpr milliseconds kSendTime{10000};
constexpr milliseconds kIdle{1000};
// A version's link or a plain file appears, is replaced, written or removed.
constexpr uint32_t kEvents =
    IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CLOSE_WRITE | IN_ATTRIB | IN_ONLYDIR;

}  // namespace

VolumeMirror::VolumeMirror(v1::DpuRuntime::StubInterface& stub, std::string folder, std::function<bool()> dpu_here)
    : stub_(stub), folder_(std::move(folder)), dpu_here_(std::move(dpu_here)) {}

absl::Status VolumeMirror::Start() {
  inotify_ = sys::UniqueFd(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  wake_ = sys::UniqueFd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!inotify_.valid() || !wake_.valid()) return ErrnoToStatus(errno, "watch volumes");
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("make folder '{}'", folder_));
  {
    std::lock_guard lock(mutex_);
    for (const auto& pod : fs::directory_iterator(folder_, error)) {
      for (const auto& link : fs::directory_iterator(pod.path(), error)) {
        Volume& volume = volumes_[{pod.path().filename(), link.path().filename()}];
        volume.host_path = fs::read_symlink(link.path(), error);
        Watch(volume);
      }
    }
  }
  thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

void VolumeMirror::Stop() {
  stop_ = true;
  if (wake_.valid()) eventfd_write(wake_.get(), 1);
  if (thread_.joinable()) thread_.join();
}

void VolumeMirror::Watch(Volume& volume) {
  volume.watch = inotify_add_watch(inotify_.get(), volume.host_path.c_str(), kEvents);
  if (volume.watch < 0 && errno != ENOENT) {
    spdlog::warn("volume '{}' cannot be watched (errno {}); its copy on the DPU stays as it is", volume.host_path,
                 errno);
  }
}

absl::Status VolumeMirror::Follow(const std::string& pod_uid, const std::string& name, const std::string& host_path) {
  HK_RETURN_IF_ERROR(CheckName(pod_uid));
  HK_RETURN_IF_ERROR(CheckName(name));
  std::error_code error;
  fs::create_directories(folder_ + "/" + pod_uid, error);
  std::string link = folder_ + "/" + pod_uid + "/" + name;
  if (!error) fs::remove(link, error);
  if (!error) fs::create_symlink(host_path, link, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("remember volume '{}'", host_path));
  HK_FAULT_POINT("cri.volume.after-link");
  {
    std::lock_guard lock(mutex_);
    Volume& volume = volumes_[{pod_uid, name}];
    volume.host_path = host_path;
    volume.changed = true;  // between the copy and this watch there was a moment
    Watch(volume);
  }
  eventfd_write(wake_.get(), 1);
  return absl::OkStatus();
}

void VolumeMirror::ForgetPod(const std::string& pod_uid) {
  if (!CheckName(pod_uid).ok()) return;
  {
    std::lock_guard lock(mutex_);
    for (auto at = volumes_.lower_bound({pod_uid, ""}); at != volumes_.end() && at->first.pod_uid == pod_uid;) {
      if (at->second.watch >= 0) inotify_rm_watch(inotify_.get(), at->second.watch);
      at = volumes_.erase(at);
    }
  }
  std::lock_guard on_its_way(sending_);
  std::error_code error;
  fs::remove_all(folder_ + "/" + pod_uid, error);
}

void VolumeMirror::KeepOnly(const std::set<std::string>& pod_uids) {
  std::set<std::string> gone;
  std::error_code error;
  for (const auto& pod : fs::directory_iterator(folder_, error)) {
    if (!pod_uids.contains(pod.path().filename())) gone.insert(pod.path().filename());
  }
  for (const std::string& pod_uid : gone) ForgetPod(pod_uid);
}

void VolumeMirror::Loop() {
  while (!stop_) {
    auto now = steady_clock::now();
    milliseconds wait = kIdle;
    {
      std::lock_guard lock(mutex_);
      for (const auto& [key, volume] : volumes_) {
        if (!volume.changed) continue;
        wait = std::min(wait, std::max(milliseconds(0), std::chrono::ceil<milliseconds>(volume.next - now)));
      }
    }
    pollfd waiting[] = {{.fd = inotify_.get(), .events = POLLIN, .revents = 0},
                        {.fd = wake_.get(), .events = POLLIN, .revents = 0}};
    poll(waiting, 2, static_cast<int>(dpu_here_() ? wait.count() : std::max(wait, kRetry).count()));
    eventfd_t ignored;
    eventfd_read(wake_.get(), &ignored);
    ReadEvents();
    if (!stop_ && dpu_here_()) SendOne();
  }
}

void VolumeMirror::ReadEvents() {
  alignas(inotify_event) char events[16384];
  for (ssize_t got; (got = read(inotify_.get(), events, sizeof events)) > 0;) {
    std::set<int> changed;
    bool overflow = false;
    for (ssize_t at = 0; at < got;) {
      auto* event = reinterpret_cast<inotify_event*>(events + at);
      changed.insert(event->wd);
      overflow |= (event->mask & IN_Q_OVERFLOW) != 0;
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
    std::lock_guard lock(mutex_);
    for (auto& [key, volume] : volumes_) {
      if (!overflow && !changed.contains(volume.watch)) continue;
      volume.changed = true;
      volume.next = steady_clock::now() + kSettle;
    }
  }
}

void VolumeMirror::SendOne() {
  std::lock_guard sending(sending_);
  Key key;
  std::string host_path;
  {
    std::lock_guard lock(mutex_);
    auto now = steady_clock::now();
    // Who waits longest: those that are refused, and are due again while others of them are sent, keep nobody waiting.
    auto due = volumes_.end();
    for (auto at = volumes_.begin(); at != volumes_.end(); ++at) {
      if (!at->second.changed || at->second.next > now) continue;
      if (due == volumes_.end() || at->second.next < due->second.next) due = at;
    }
    if (due == volumes_.end()) return;
    due->second.changed = false;  // what happens from here on is another change
    key = due->first;
    host_path = due->second.host_path;
  }
  absl::StatusOr<v1::PutVolumeRequest> volume = ReadVolume(host_path);
  // kubelet takes volumes away before sandboxes. When only a version went while we read, its removal is another event.
  if (volume.status().code() == absl::StatusCode::kNotFound) return;
  absl::Status sent = volume.status();
  if (volume.ok()) {
    volume->set_pod_uid(key.pod_uid);
    volume->set_volume(key.volume);
    volume->set_live(true);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kSendTime);
    v1::PutVolumeReply reply;
    sent = FromGrpc(stub_.PutVolume(&context, *volume, &reply));
    if (sent.ok()) ++updates_;
    if (sent.ok()) sent = fault::Pass<"cri.volume.after-update">();
  }
  std::lock_guard lock(mutex_);
  auto found = volumes_.find(key);
  if (found == volumes_.end()) return;
  std::string failure = sent.ok() ? "" : Message(sent);
  if (!failure.empty() && failure != found->second.failure) {
    spdlog::warn("volume '{}' of Pod {} does not reach the DPU: {}; tried again", host_path, key.pod_uid, failure);
  }
  found->second.failure = failure;
  if (sent.ok()) return;
  found->second.changed = true;
  found->second.next = steady_clock::now() + kRetry;
}

}  // namespace heterok8s::cri
