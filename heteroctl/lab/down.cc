#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/mount.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>
#include <sstream>

#include "common/sys/file.h"
#include "heteroctl/lab/cgroups.h"
#include "heteroctl/lab/lab.h"
#include "heteroctl/lab/lock.h"
#include "heteroctl/lab/processes.h"

namespace heterok8s::lab {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::milliseconds kGrace{1500};  // a little more than the init's own
constexpr std::chrono::seconds kCgroupDeadline{5};

// Mount points of this mount namespace at or below `folder`, deepest last.
absl::StatusOr<std::vector<std::string>> MountsBelow(const std::string& folder) {
  HK_ASSIGN_OR_RETURN(std::string mountinfo, sys::ReadFile("/proc/self/mountinfo"));
  std::vector<std::string> found;
  std::istringstream lines(mountinfo);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string skip, mount_point;
    words >> skip >> skip >> skip >> skip >> mount_point;
    if (mount_point == folder || mount_point.rfind(folder + "/", 0) == 0) found.push_back(mount_point);
  }
  return found;
}

absl::Status Unmount(const std::string& folder) {
  HK_ASSIGN_OR_RETURN(std::vector<std::string> mounts, MountsBelow(folder));
  for (auto it = mounts.rbegin(); it != mounts.rend(); ++it) {
    if (umount2(it->c_str(), MNT_DETACH) != 0) return ErrnoToStatus(errno, fmt::format("unmount '{}'", *it));
  }
  return absl::OkStatus();
}

absl::Status RemoveFolder(const std::string& folder) {
  HK_RETURN_IF_ERROR(Unmount(folder));
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("remove '{}'", folder));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<std::string>> Leftovers(const Layout& layout) {
  std::vector<std::string> left;
  HK_ASSIGN_OR_RETURN(std::vector<pid_t> processes, FindProcesses(layout));
  for (pid_t pid : processes) left.push_back(Describe(pid));
  for (const std::string& folder : {layout.Run(), layout.State()}) {
    HK_ASSIGN_OR_RETURN(std::vector<std::string> mounts, MountsBelow(folder));
    for (const std::string& mount : mounts) left.push_back("mount " + mount);
    if (fs::exists(folder)) left.push_back("folder " + folder);
  }
  HK_ASSIGN_OR_RETURN(std::vector<std::string> cgroups, FindCgroups(layout));
  for (const std::string& cgroup : cgroups) left.push_back("cgroup " + cgroup);
  return left;
}

absl::Status Remove(const Layout& layout) {
  absl::Status first = EndProcesses(layout, kGrace);
  first.Update(RemoveCgroups(layout, kCgroupDeadline));
  // With their last process and mount the namespaces go, and with them links, routes, rules, tables and pinned BPF.
  first.Update(RemoveFolder(layout.Run()));
  first.Update(RemoveFolder(layout.State()));
  absl::StatusOr<std::vector<std::string>> left = Leftovers(layout);
  first.Update(left.status());
  if (left.ok() && !left->empty()) {
    first.Update(absl::FailedPreconditionError(fmt::format("lab '{}' left {}", layout.name, fmt::join(*left, ", "))));
  }
  return first;
}

void RemoveEmptyRoots() {
  rmdir(kRunRoot);
  rmdir(kStateRoot);
}

absl::Status Down(const Layout& layout) {
  HK_RETURN_IF_ERROR(CheckName(layout.name));
  HK_ASSIGN_OR_RETURN(LabLock lock, LabLock::Take(layout, std::chrono::seconds(30)));
  absl::Status removed = Remove(layout);
  lock.ReleaseAndRemove();
  RemoveEmptyRoots();
  return Annotate(removed, "lab down");
}

std::vector<std::string> ListLabs() {
  std::set<std::string> names;
  for (const char* root : {kRunRoot, kStateRoot}) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(root, error)) {
      if (entry.is_directory(error)) names.insert(entry.path().filename());
    }
  }
  return std::vector<std::string>(names.begin(), names.end());
}

}  // namespace heterok8s::lab
