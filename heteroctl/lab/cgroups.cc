#include "heteroctl/lab/cgroups.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <set>
#include <sstream>
#include <thread>

#include "common/sys/file.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::lab {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLeaf = "lab";

absl::Status WriteFile(const std::string& path, const std::string& text) {
  sys::UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("open '{}'", path));
  if (write(fd.get(), text.data(), text.size()) < 0) return ErrnoToStatus(errno, fmt::format("write '{}'", path));
  return absl::OkStatus();
}

absl::Status MakeFolder(const std::string& path) {
  if (mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) return ErrnoToStatus(errno, fmt::format("make '{}'", path));
  return absl::OkStatus();
}

// A new cpuset of v1 is empty and takes no process until it is filled from its parent.
absl::Status FillCpuset(const std::string& folder) {
  for (const char* file : {"cpuset.cpus", "cpuset.mems"}) {
    HK_ASSIGN_OR_RETURN(std::string own, sys::ReadFile(folder + "/" + file));
    if (own.find_first_not_of(" \n") != std::string::npos) continue;
    HK_ASSIGN_OR_RETURN(std::string parent, sys::ReadFile(fs::path(folder).parent_path() / file));
    HK_RETURN_IF_ERROR(WriteFile(folder + "/" + file, parent));
  }
  return absl::OkStatus();
}

// v2: children get the controllers their parent hands down.
absl::Status HandDownControllers(const std::string& folder) {
  HK_ASSIGN_OR_RETURN(std::string controllers, sys::ReadFile(folder + "/cgroup.controllers"));
  std::istringstream words(controllers);
  for (std::string controller; words >> controller;) {
    HK_RETURN_IF_ERROR(WriteFile(folder + "/cgroup.subtree_control", "+" + controller));
  }
  return absl::OkStatus();
}

bool PureV2(const std::vector<CgroupHierarchy>& hierarchies) { return hierarchies.size() == 1 && hierarchies[0].v2; }

absl::Status MakeIn(const Layout& layout, const CgroupHierarchy& hierarchy, bool pure_v2) {
  const std::string root = hierarchy.mount_point + "/" + kCgroupRoot;
  const std::string lab = hierarchy.mount_point + "/" + layout.Cgroup();
  std::vector<std::string> folders = {root, lab};
  for (Place place : kPlaces) folders.push_back(lab + "/" + Name(place));
  if (pure_v2) HK_RETURN_IF_ERROR(HandDownControllers(hierarchy.mount_point));
  for (const std::string& folder : folders) {
    HK_RETURN_IF_ERROR(MakeFolder(folder));
    const bool cpuset = !hierarchy.v2 && fs::exists(folder + "/cpuset.cpus");
    if (cpuset) HK_RETURN_IF_ERROR(FillCpuset(folder));
    if (pure_v2 && (folder == root || folder == lab)) HK_RETURN_IF_ERROR(HandDownControllers(folder));
  }
  if (!pure_v2) return absl::OkStatus();
  for (Place place : kPlaces) HK_RETURN_IF_ERROR(MakeFolder(lab + "/" + Name(place) + "/" + kLeaf));
  return absl::OkStatus();
}

void Collect(const std::string& folder, std::vector<std::string>& deepest_first) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.is_directory(error)) Collect(entry.path(), deepest_first);
  }
  if (fs::exists(folder, error)) deepest_first.push_back(folder);
}

}  // namespace

std::vector<CgroupHierarchy> ParseCgroupHierarchies(const std::string& mountinfo) {
  // 32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu
  std::vector<CgroupHierarchy> found;
  std::istringstream lines(mountinfo);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string skip, mount_point, type, source, super_options;
    words >> skip >> skip >> skip >> skip >> mount_point;
    while (words >> skip && skip != "-") {
    }
    words >> type >> source >> super_options;
    if (mount_point.rfind("/sys/fs/cgroup", 0) != 0 || (type != "cgroup" && type != "cgroup2")) continue;
    CgroupHierarchy hierarchy{.mount_point = mount_point, .v2 = type == "cgroup2"};
    std::vector<std::string> kept;
    std::istringstream options(super_options);
    for (std::string option; !hierarchy.v2 && std::getline(options, option, ',');) {
      const bool flag = option == "rw" || option == "ro" || option == "xattr" || option == "noprefix" ||
                        option == "clone_children" || option == "cpuset_v2_mode" ||
                        option.rfind("release_agent=", 0) == 0;
      if (flag) continue;
      if (option.rfind("name=", 0) == 0) kept.push_back("none");  // a hierarchy without controllers
      kept.push_back(option);
    }
    hierarchy.options = fmt::format("{}", fmt::join(kept, ","));
    found.push_back(std::move(hierarchy));
  }
  return found;
}

absl::StatusOr<std::vector<CgroupHierarchy>> CgroupHierarchies() {
  HK_ASSIGN_OR_RETURN(std::string mountinfo, sys::ReadFile("/proc/self/mountinfo"));
  std::vector<CgroupHierarchy> found = ParseCgroupHierarchies(mountinfo);
  if (found.empty()) return absl::NotFoundError("no cgroup hierarchy is mounted below /sys/fs/cgroup");
  return found;
}

absl::Status MakeCgroups(const Layout& layout) {
  HK_ASSIGN_OR_RETURN(std::vector<CgroupHierarchy> hierarchies, CgroupHierarchies());
  for (const CgroupHierarchy& hierarchy : hierarchies) {
    absl::Status made;
    // The last lab that goes takes the common root along, perhaps just now: make it again.
    for (int attempt = 0; attempt < 5; ++attempt) {
      made = MakeIn(layout, hierarchy, PureV2(hierarchies));
      if (!absl::IsNotFound(made)) break;
    }
    HK_RETURN_IF_ERROR(made);
  }
  return absl::OkStatus();
}

absl::StatusOr<CgroupProcs> CgroupProcsFiles(const Layout& layout, Place place) {
  HK_ASSIGN_OR_RETURN(std::vector<CgroupHierarchy> hierarchies, CgroupHierarchies());
  CgroupProcs files;
  for (const CgroupHierarchy& hierarchy : hierarchies) {
    const std::string folder = hierarchy.mount_point + "/" + layout.Cgroup(place);
    files.top.push_back(folder + "/cgroup.procs");
    files.home.push_back(PureV2(hierarchies) ? folder + "/" + kLeaf + "/cgroup.procs" : files.top.back());
  }
  return files;
}

absl::Status JoinCgroups(const Layout& layout, Place place) {
  HK_ASSIGN_OR_RETURN(CgroupProcs files, CgroupProcsFiles(layout, place));
  for (const std::string& file : files.home) HK_RETURN_IF_ERROR(WriteFile(file, "0"));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> FindCgroups(const Layout& layout) {
  HK_ASSIGN_OR_RETURN(std::vector<CgroupHierarchy> hierarchies, CgroupHierarchies());
  std::vector<std::string> folders;
  for (const CgroupHierarchy& hierarchy : hierarchies) Collect(hierarchy.mount_point + "/" + layout.Cgroup(), folders);
  return folders;
}

absl::StatusOr<std::vector<pid_t>> CgroupProcesses(const Layout& layout) {
  HK_ASSIGN_OR_RETURN(std::vector<std::string> folders, FindCgroups(layout));
  std::set<pid_t> pids;
  for (const std::string& folder : folders) {
    absl::StatusOr<std::string> text = sys::ReadFile(folder + "/cgroup.procs");
    if (!text.ok()) continue;  // removed meanwhile
    std::istringstream words(*text);
    for (pid_t pid; words >> pid;) {
      if (pid > 0) pids.insert(pid);  // 0: a process outside of our PID namespace
    }
  }
  return std::vector<pid_t>(pids.begin(), pids.end());
}

absl::Status RemoveCgroups(const Layout& layout, std::chrono::milliseconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (true) {
    HK_ASSIGN_OR_RETURN(std::vector<std::string> folders, FindCgroups(layout));
    for (const std::string& folder : folders) rmdir(folder.c_str());
    HK_ASSIGN_OR_RETURN(folders, FindCgroups(layout));
    if (folders.empty()) break;
    if (std::chrono::steady_clock::now() > end) {
      return absl::DeadlineExceededError(fmt::format("cgroups still busy: {}", fmt::join(folders, ", ")));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));  // the kernel tells nobody when a v1 cgroup empties
  }
  HK_ASSIGN_OR_RETURN(std::vector<CgroupHierarchy> hierarchies, CgroupHierarchies());
  for (const CgroupHierarchy& hierarchy : hierarchies) {
    rmdir((hierarchy.mount_point + "/" + kCgroupRoot).c_str());  // stays while another lab is there
  }
  return absl::OkStatus();
}

}  // namespace heterok8s::lab
