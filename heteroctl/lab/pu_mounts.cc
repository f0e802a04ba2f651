#include "heteroctl/lab/pu_mounts.h"

#include <fmt/format.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>

#include "common/sys/mount_root.h"
#include "heteroctl/lab/cgroups.h"

namespace heterok8s::lab {
namespace {

namespace fs = std::filesystem;

absl::Status Mount(const std::string& source, const std::string& target, const char* type, unsigned long flags,
                   const std::string& data = "") {
  if (mount(source.c_str(), target.c_str(), type, flags, data.empty() ? nullptr : data.c_str()) == 0) {
    return absl::OkStatus();
  }
  return ErrnoToStatus(errno, fmt::format("mount '{}' at '{}' ({})", source, target, data));
}

// Debian's v1 layout has links such as cpu -> cpu,cpuacct beside the mounts.
std::map<std::string, std::string> LinksIn(const std::string& folder) {
  std::map<std::string, std::string> links;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.is_symlink(error)) links[entry.path().filename()] = fs::read_symlink(entry.path(), error);
  }
  return links;
}

absl::Status MountSys() {
  HK_ASSIGN_OR_RETURN(std::vector<CgroupHierarchy> hierarchies, CgroupHierarchies());
  const std::map<std::string, std::string> links = LinksIn("/sys/fs/cgroup");
  // The old mounts must go, not just be covered: runc takes the first cgroup mount that mountinfo shows.
  if (umount2("/sys", MNT_DETACH) != 0) return ErrnoToStatus(errno, "unmount '/sys'");
  HK_RETURN_IF_ERROR(Mount("sysfs", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC));
  if (hierarchies[0].mount_point != "/sys/fs/cgroup") {
    HK_RETURN_IF_ERROR(Mount("tmpfs", "/sys/fs/cgroup", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755"));
  }
  for (const CgroupHierarchy& hierarchy : hierarchies) {
    mkdir(hierarchy.mount_point.c_str(), 0755);
    HK_RETURN_IF_ERROR(Mount("cgroup", hierarchy.mount_point, hierarchy.v2 ? "cgroup2" : "cgroup",
                             MS_NOSUID | MS_NODEV | MS_NOEXEC, hierarchy.options));
  }
  for (const auto& [name, target] : links) {
    if (symlink(target.c_str(), ("/sys/fs/cgroup/" + name).c_str()) != 0) {
      return ErrnoToStatus(errno, fmt::format("link '/sys/fs/cgroup/{}'", name));
    }
  }
  return absl::OkStatus();
}

absl::Status Bind(const BindSpec& bind) {
  struct stat st {};
  if (stat(bind.from.c_str(), &st) != 0) return ErrnoToStatus(errno, fmt::format("stat '{}'", bind.from));
  return Mount(bind.from, bind.to, nullptr, bind.recursive ? MS_BIND | MS_REC : MS_BIND);
}

}  // namespace

absl::Status MountPu(const InitSpec& spec) {
  // Private first: until everything is in place nothing may travel to the machine's mount namespace.
  HK_RETURN_IF_ERROR(sys::MakeRootOfMountNamespace());
  HK_RETURN_IF_ERROR(MountSys());
  HK_RETURN_IF_ERROR(Mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC));
  HK_RETURN_IF_ERROR(Mount("overlay", "/etc", "overlay", 0,
                           fmt::format("lowerdir=/etc,upperdir={},workdir={}", spec.etc_upper, spec.etc_work)));
  for (const BindSpec& bind : spec.binds) HK_RETURN_IF_ERROR(Bind(bind));
  // Shared from here on, as on a real machine: Pods with mountPropagation need it.
  return Mount("none", "/", nullptr, MS_REC | MS_SHARED);
}

}  // namespace heterok8s::lab
