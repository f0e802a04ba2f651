#include "node-agent/cri/volume_reader.h"

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <set>
#include <thread>
#include <vector>

#include "common/fault/fault.h"
#include "common/sys/file.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;

// kubelet puts a new version in place within milliseconds, and seldom.
constexpr int kTimes = 20;
constexpr std::chrono::milliseconds kPause{20};

class Reader {
 public:
  explicit Reader(std::string root) : root_(std::move(root)) {}

  absl::Status Add(const std::string& relative) {
    std::string path = relative.empty() ? root_ : root_ + "/" + relative;
    struct stat info = {};
    // kubelet's own mount source may be a link; inside, links are copied as links.
    if ((relative.empty() ? stat : lstat)(path.c_str(), &info) != 0)
      return ErrnoToStatus(errno, fmt::format("stat '{}'", path));
    if (volume_.entries_size() >= kMaxVolumeEntries) {
      return absl::ResourceExhaustedError(fmt::format("'{}' has more than {} entries", root_, kMaxVolumeEntries));
    }
    v1::VolumeEntry& entry = *volume_.add_entries();
    entry.set_path(relative);
    entry.set_mode(info.st_mode & 07777);
    entry.set_uid(info.st_uid);
    entry.set_gid(info.st_gid);
    if (S_ISREG(info.st_mode)) {
      HK_ASSIGN_OR_RETURN(std::string data, sys::ReadFile(path, kMaxVolumeBytes - bytes_));
      bytes_ += data.size();
      entry.set_data(std::move(data));
      return absl::OkStatus();
    }
    if (S_ISLNK(info.st_mode)) {
      std::error_code error;
      entry.set_kind(v1::VolumeEntry::LINK);
      entry.set_data(fs::read_symlink(path, error).string());
      return error ? ErrnoToStatus(error.value(), fmt::format("read link '{}'", path)) : absl::OkStatus();
    }
    if (!S_ISDIR(info.st_mode))
      return absl::FailedPreconditionError(fmt::format("'{}' is neither file nor folder", path));
    entry.set_kind(v1::VolumeEntry::FOLDER);
    return AddFolder(path, relative);
  }

  // kubelet may put a new version in place while we read: then "..data" leads to a folder that was not read whole.
  absl::Status Check() const {
    std::set<std::string> names;
    for (const v1::VolumeEntry& entry : volume_.entries()) names.insert(entry.path());
    for (const v1::VolumeEntry& entry : volume_.entries()) {
      if (entry.path() == "..data" && entry.kind() == v1::VolumeEntry::LINK && !names.contains(entry.data())) {
        return absl::AbortedError(fmt::format("'{}' is being changed", root_));
      }
    }
    return absl::OkStatus();
  }

  v1::PutVolumeRequest Take() { return std::move(volume_); }

 private:
  absl::Status AddFolder(const std::string& path, const std::string& relative) {
    std::error_code error;
    std::vector<std::string> names;
    for (fs::directory_iterator at(path, error), end; !error && at != end; at.increment(error)) {
      names.push_back(at->path().filename());
    }
    if (error) return ErrnoToStatus(error.value(), fmt::format("read folder '{}'", path));
    HK_FAULT_POINT("cri.volume.folder-read");
    std::sort(names.begin(), names.end());  // one content has one order, and so one name on the DPU
    for (const std::string& name : names) HK_RETURN_IF_ERROR(Add(relative.empty() ? name : relative + "/" + name));
    return absl::OkStatus();
  }

  std::string root_;
  size_t bytes_ = 0;
  v1::PutVolumeRequest volume_;
};

// Names that are listed and then not there, or a link to what is not: kubelet was between its steps.
bool WasChanged(const absl::Status& status, const std::string& path) {
  return status.code() == absl::StatusCode::kAborted ||
         (status.code() == absl::StatusCode::kNotFound && access(path.c_str(), F_OK) == 0);
}

absl::StatusOr<v1::PutVolumeRequest> ReadOnce(const std::string& path) {
  Reader reader(path);
  HK_RETURN_IF_ERROR(reader.Add(""));
  HK_RETURN_IF_ERROR(reader.Check());
  v1::PutVolumeRequest volume = reader.Take();
  struct statfs info = {};
  volume.set_memory(statfs(path.c_str(), &info) == 0 && info.f_type == TMPFS_MAGIC);
  return volume;
}

}  // namespace

absl::StatusOr<v1::PutVolumeRequest> ReadVolume(const std::string& path) {
  absl::StatusOr<v1::PutVolumeRequest> volume = ReadOnce(path);
  for (int time = 1; time < kTimes && WasChanged(volume.status(), path); ++time) {
    std::this_thread::sleep_for(kPause);
    volume = ReadOnce(path);
  }
  return volume;
}

}  // namespace heterok8s::cri
