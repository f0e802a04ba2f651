#include "heteroctl/pod/volumes.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <filesystem>

#include "common/sys/file.h"

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
std::string MemoryFolder(const std::string& pod_folder) {
  return "/dev/shm/heterok8s-pods/" + fs::path(pod_folder).filename().string();
}

}  // namespace

std::string PodFolder(const std::string& root, const std::string& uid) { return root + "/" + uid; }

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
        HK_RETURN_IF_ERROR(MakeFolder(path, 0777));
        break;
    }
  }
  return absl::OkStatus();
}

absl::Status RemovePodFolder(const std::string& pod_folder) {
  std::error_code error;
  fs::remove_all(MemoryFolder(pod_folder), error);
  fs::remove_all(pod_folder, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("remove '{}'", pod_folder));
  return absl::OkStatus();
}

}  // namespace heterok8s::ctl
