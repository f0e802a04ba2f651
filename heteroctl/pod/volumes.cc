#include "heteroctl/pod/volumes.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "common/sys/file.h"
#include "common/sys/remove_tree.h"
#include "common/sys/unique_fd.h"
#include "heteroctl/manifest/names.h"
#include "heteroctl/output.h"

namespace heterok8s::ctl {
namespace {

namespace fs = std::filesystem;

absl::Status MakeFolder(const std::string& path, mode_t mode) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("make folder '{}'", path));
  if (chmod(path.c_str(), mode) != 0) return ErrnoToStatus(errno, fmt::format("chmod '{}'", path));
  return absl::OkStatus();
}

absl::Status WriteConfigMap(const manifest::Volume& volume, const std::map<std::string, std::string>& data,
                            const std::string& folder) {
  HK_RETURN_IF_ERROR(MakeFolder(folder, 0755));
  for (const auto& [key, text] : data) {
    auto item = volume.items.find(key);
    if (!volume.items.empty() && item == volume.items.end()) continue;
    fs::path name = volume.items.empty() ? key : item->second;
    if (name.is_absolute() || *name.lexically_normal().begin() == "..") {
      return absl::InvalidArgumentError(
          fmt::format("volume '{}': path '{}' leaves the volume", volume.name, name.string()));
    }
    fs::path target = fs::path(folder) / name.lexically_normal();
    HK_RETURN_IF_ERROR(MakeFolder(target.parent_path(), 0755));
    HK_RETURN_IF_ERROR(sys::WriteFileAtomic(target, text, static_cast<mode_t>(volume.default_mode)));
  }
  return absl::OkStatus();
}

// Memory-backed emptyDirs live in /dev/shm: memory that every mount namespace of the machine sees, without a mount.
constexpr const char* kMemoryRoot = "/dev/shm/heterok8s-pods";

std::string MemoryFolder(const std::string& pod_folder) {
  return fmt::format("{}/{}", kMemoryRoot, fs::path(pod_folder).filename().string());
}

// Anybody can make files in /dev/shm: what is there under our name must be a folder of ours that nobody else writes.
absl::Status CheckMemoryRoot() {
  sys::UniqueFd fd(open(kMemoryRoot, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat found {};
  if (!fd.valid() || fstat(fd.get(), &found) != 0) return ErrnoToStatus(errno, fmt::format("open '{}'", kMemoryRoot));
  if (found.st_uid == geteuid() && (found.st_mode & (S_IWGRP | S_IWOTH)) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format("'{}' belongs to somebody else", kMemoryRoot));
}

absl::Status MakeMemoryRoot() {
  if (mkdir(kMemoryRoot, 0755) != 0 && errno != EEXIST)
    return ErrnoToStatus(errno, fmt::format("make '{}'", kMemoryRoot));
  return CheckMemoryRoot();
}

absl::Status CheckUid(const std::string& uid) {
  if (manifest::IsUid(uid)) return absl::OkStatus();
  return absl::InvalidArgumentError("the Pod's UID is none: it must be 1 to 63 letters, digits and '-'");
}

}  // namespace

absl::StatusOr<std::string> PodFolder(const std::string& root, const std::string& uid) {
  HK_RETURN_IF_ERROR(CheckUid(uid));
  return (fs::path(root) / uid).lexically_normal().string();
}

absl::StatusOr<std::string> MakePodFolder(const std::string& root, const std::string& uid) {
  HK_ASSIGN_OR_RETURN(std::string folder, PodFolder(root, uid));
  std::error_code error;
  fs::create_directories(root, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("make folder '{}'", root));
  if (mkdir(folder.c_str(), 0755) == 0) return folder;
  if (errno != EEXIST) return ErrnoToStatus(errno, fmt::format("make folder '{}'", folder));
  return WithHint(absl::AlreadyExistsError(fmt::format("'{}' is the folder of another Pod", folder)),
                  "leave metadata.uid out, or remove the folder if its Pod is gone");
}

std::string LogFolder(const std::string& pod_folder) { return pod_folder + "/logs"; }

std::string VolumePath(const std::string& pod_folder, const manifest::Volume& volume) {
  switch (volume.kind) {
    case manifest::Volume::Kind::kHostPath:
      return volume.host_path;
    case manifest::Volume::Kind::kConfigMap:
      return fmt::format("{}/volumes/kubernetes.io~configmap/{}", pod_folder, volume.name);
    case manifest::Volume::Kind::kEmptyDir:
      if (volume.in_memory) return MemoryFolder(pod_folder) + "/" + volume.name;
      return fmt::format("{}/volumes/kubernetes.io~empty-dir/{}", pod_folder, volume.name);
  }
  return "";
}

absl::Status MakeVolumes(const manifest::Manifest& manifest, const std::string& pod_folder) {
  HK_RETURN_IF_ERROR(MakeFolder(LogFolder(pod_folder), 0755));
  for (const manifest::Volume& volume : manifest.pod.volumes) {
    std::string path = VolumePath(pod_folder, volume);
    switch (volume.kind) {
      case manifest::Volume::Kind::kHostPath:
        break;
      case manifest::Volume::Kind::kConfigMap:
        HK_RETURN_IF_ERROR(WriteConfigMap(volume, manifest.config_maps.at(volume.config_map), path));
        break;
      case manifest::Volume::Kind::kEmptyDir:
        if (volume.in_memory) HK_RETURN_IF_ERROR(MakeMemoryRoot());
        HK_RETURN_IF_ERROR(MakeFolder(path, 0777));
        break;
    }
  }
  return absl::OkStatus();
}

absl::Status RemovePodFolder(const std::string& root, const std::string& uid) {
  HK_RETURN_IF_ERROR(CheckUid(uid));
  absl::Status memory;
  if (CheckMemoryRoot().ok()) memory = sys::RemoveTree(kMemoryRoot, uid);  // else nothing there is ours
  absl::Status folder = sys::RemoveTree(root, uid);                        // both are tried
  return folder.ok() ? memory : folder;
}

}  // namespace heterok8s::ctl
