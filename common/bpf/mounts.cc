#include "common/bpf/mounts.h"

#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/vfs.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace heterok8s::bpf {
namespace {

bool LiesOn(const std::string& folder, long magic) {
  struct statfs fs {};
  return statfs(folder.c_str(), &fs) == 0 && static_cast<unsigned long>(fs.f_type) == static_cast<unsigned long>(magic);
}

absl::Status MountAt(const std::string& folder, const char* type) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("make '{}'", folder));
  if (mount(type, folder.c_str(), type, MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) != 0) {
    return ErrnoToStatus(errno, fmt::format("mount {} at '{}'", type, folder));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status EnsureBpffs(const std::string& folder) {
  if (LiesOn(folder, BPF_FS_MAGIC)) return absl::OkStatus();
  // A folder below a bpffs lies on it; one that does not exist yet is made there rather than mounted over.
  std::string parent = std::filesystem::path(folder).parent_path();
  if (LiesOn(parent, BPF_FS_MAGIC)) {
    std::error_code error;
    std::filesystem::create_directory(folder, error);
    if (error) return ErrnoToStatus(error.value(), fmt::format("make '{}'", folder));
    return absl::OkStatus();
  }
  return MountAt(folder, "bpf");
}

absl::StatusOr<std::string> EnsureCgroup2(const std::string& fallback) {
  std::ifstream mountinfo("/proc/thread-self/mountinfo");
  for (std::string line; std::getline(mountinfo, line);) {
    // "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw": fields 4 and 5 are root and mount point.
    size_t dash = line.find(" - ");
    if (dash == std::string::npos || line.compare(dash + 3, 8, "cgroup2 ") != 0) continue;
    std::istringstream fields(line);
    std::string id, parent, device, root, point;
    fields >> id >> parent >> device >> root >> point;
    // A bind mount of one group would see that group's sockets only; another file system may cover the mount.
    if (root == "/" && LiesOn(point, CGROUP2_SUPER_MAGIC)) return point;
  }
  if (!LiesOn(fallback, CGROUP2_SUPER_MAGIC)) HK_RETURN_IF_ERROR(MountAt(fallback, "cgroup2"));
  return fallback;
}

}  // namespace heterok8s::bpf
