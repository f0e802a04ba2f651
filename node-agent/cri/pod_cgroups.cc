#include "node-agent/cri/pod_cgroups.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <sstream>

#include "common/sys/file.h"
#include "common/sys/process.h"
#include "common/sys/unique_fd.h"
#include "node-agent/cri/confined.h"
#include "node-agent/cri/pod_limits.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;

constexpr std::chrono::seconds kSystemctl{8};  // heterocri waits 10 s

bool IsSlice(const std::string& cgroup) { return cgroup.ends_with(".slice"); }

// As runc has it (ConvertCPUSharesToCgroupV2Value), so that a Pod and its containers count alike.
uint64_t WeightOf(uint64_t shares) {
  if (shares == 0) return 100;  // the kernel's default
  const uint64_t within = std::clamp<uint64_t>(shares, 2, 262144);
  return 1 + ((within - 2) * 9999) / 262142;
}

absl::Status WriteValue(const std::string& path, const std::string& value) {
  sys::UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("open '{}'", path));
  if (write(fd.get(), value.data(), value.size()) != static_cast<ssize_t>(value.size())) {
    if (errno == EBUSY) {  // cgroup v1: less than it holds, after the kernel tried to make room
      spdlog::warn("'{}' keeps its limit: more than {} is in use", path, value);
      return absl::OkStatus();
    }
    return ErrnoToStatus(errno, fmt::format("write '{}' to '{}'", value, path));
  }
  return absl::OkStatus();
}

absl::Status MakeFolder(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  return error ? ErrnoToStatus(error.value(), fmt::format("make cgroup '{}'", path)) : absl::OkStatus();
}

absl::Status RemoveCgroup(const std::string& path) {
  std::error_code error;
  // Containers' folders that their runtime left (it was killed) are empty, or something runs there.
  for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) {
    if (entry.is_directory(error) && !entry.is_symlink(error)) HK_RETURN_IF_ERROR(RemoveCgroup(entry.path()));
  }
  if (rmdir(path.c_str()) == 0 || errno == ENOENT || errno == ENOTDIR) return absl::OkStatus();
  if (errno == EBUSY) return absl::FailedPreconditionError(fmt::format("something runs in cgroup '{}'", path));
  return ErrnoToStatus(errno, fmt::format("remove cgroup '{}'", path));
}

// "a-b-c.slice" is a.slice/a-b.slice/a-b-c.slice: systemd.slice(5).
std::string SlicePath(const std::string& slice) {
  std::string path;
  for (size_t dash = slice.find('-'); dash != std::string::npos; dash = slice.find('-', dash + 1)) {
    path += slice.substr(0, dash) + ".slice/";
  }
  return path + slice;
}

absl::Status RunSystemctl(const std::vector<std::string>& arguments) {
  std::vector<std::string> argv = {"systemctl"};
  argv.insert(argv.end(), arguments.begin(), arguments.end());
  HK_ASSIGN_OR_RETURN(sys::RunResult result, sys::Run({.argv = argv, .deadline = kSystemctl}));
  if (result.exit_code == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(
      fmt::format("`{}`: exit {}: {}", fmt::join(argv, " "), result.exit_code, result.stderr_text));
}

}  // namespace

absl::StatusOr<PodCgroups> PodCgroups::Find() {
  HK_ASSIGN_OR_RETURN(std::string mountinfo, sys::ReadFile("/proc/self/mountinfo"));
  const bool booted = access("/run/systemd/system", F_OK) == 0;  // sd_booted(3)
  return PodCgroups(mountinfo, booted ? Run(RunSystemctl) : nullptr);
}

PodCgroups::PodCgroups(const std::string& mountinfo, Run systemctl) : systemctl_(std::move(systemctl)) {
  std::istringstream lines(mountinfo);
  for (std::string line; std::getline(lines, line);) {
    // 32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
    std::istringstream words(line);
    std::string id, parent, device, root, mount_point, word, type, source, options;
    words >> id >> parent >> device >> root >> mount_point;
    while (words >> word && word != "-") continue;
    words >> type >> source >> options;
    if (type != "cgroup" && type != "cgroup2") continue;
    // A hierarchy that is mounted twice (heterod's own, for BPF) is one.
    if (std::find(mount_points_.begin(), mount_points_.end(), mount_point) != mount_points_.end()) continue;
    mount_points_.push_back(mount_point);
    auto take = [&](Controller& controller, const std::string& name) {
      if (type == "cgroup" && ("," + options + ",").find("," + name + ",") != std::string::npos) {
        controller = {.mount_point = mount_point, .v2 = false};
      } else if (type == "cgroup2" && controller.mount_point.empty()) {
        controller = {.mount_point = mount_point, .v2 = true};  // unless v1 has it: a controller is in one of both
      }
    };
    take(cpu_, "cpu");
    take(memory_, "memory");
  }
}

absl::StatusOr<std::string> PodCgroups::PathOf(const std::string& cgroup_parent, const std::string& pod_uid) {
  if (IsSlice(cgroup_parent)) {
    const std::string slice = cgroup_parent.substr(cgroup_parent.rfind('/') + 1);  // as containerd takes it
    HK_RETURN_IF_ERROR(CheckName(slice));
    if (slice[0] == '-' || !NamesPod(slice, pod_uid))
      return absl::InvalidArgumentError(fmt::format("slice '{}' is not of Pod '{}'", slice, pod_uid));
    return SlicePath(slice);
  }
  const std::string path = cgroup_parent.substr(cgroup_parent.starts_with("/") ? 1 : 0);
  HK_RETURN_IF_ERROR(CheckRelativePath(path));
  if (!NamesPod(path, pod_uid))
    return absl::InvalidArgumentError(fmt::format("cgroup '{}' is not of Pod '{}'", cgroup_parent, pod_uid));
  return path;
}

absl::StatusOr<std::vector<std::string>> PodCgroups::Limit(const v1::LimitPodRequest& request) const {
  HK_ASSIGN_OR_RETURN(const std::string path, PathOf(request.cgroup_parent(), request.pod_uid()));
  const bool slice = IsSlice(path);
  if (slice && !systemctl_) return std::vector<std::string>{"systemd"};
  if (slice) HK_RETURN_IF_ERROR(LimitSlice(request, path.substr(path.rfind('/') + 1)));
  std::vector<std::string> missing;
  // `values`: file and value of v1, then of v2.
  auto set = [&](const Controller& controller, const std::string& name,
                 const std::vector<std::pair<std::string, std::string>>& values) -> absl::Status {
    const std::string folder = controller.mount_point + "/" + path;
    if (!slice && !controller.mount_point.empty()) HK_RETURN_IF_ERROR(MakeFolder(folder));
    for (const auto& [file, value] : values) {
      if (controller.mount_point.empty() || (!slice && access((folder + "/" + file).c_str(), F_OK) != 0)) {
        missing.push_back(name);
        return absl::OkStatus();
      }
      if (!slice) HK_RETURN_IF_ERROR(WriteValue(folder + "/" + file, value));
    }
    return absl::OkStatus();
  };
  const uint64_t quota = request.cpu_quota(), shares = request.cpu_shares(), memory = request.memory_bytes();
  if (cpu_.v2) {
    HK_RETURN_IF_ERROR(
        set(cpu_, "cpu",
            {{"cpu.weight", std::to_string(WeightOf(shares))},
             {"cpu.max", fmt::format("{} {}", quota == 0 ? "max" : std::to_string(quota), kQuotaPeriod)}}));
  } else {
    HK_RETURN_IF_ERROR(set(cpu_, "cpu",
                           {{"cpu.shares", std::to_string(shares == 0 ? 1024 : shares)},
                            {"cpu.cfs_period_us", std::to_string(kQuotaPeriod)},
                            {"cpu.cfs_quota_us", quota == 0 ? "-1" : std::to_string(quota)}}));
  }
  HK_RETURN_IF_ERROR(
      set(memory_, "memory",
          {memory_.v2 ? std::pair("memory.max", memory == 0 ? "max" : std::to_string(memory))
                      : std::pair("memory.limit_in_bytes", memory == 0 ? "-1" : std::to_string(memory))}));
  return missing;
}

absl::Status PodCgroups::LimitSlice(const v1::LimitPodRequest& request, const std::string& slice) const {
  const uint64_t quota = request.cpu_quota(), shares = request.cpu_shares(), memory = request.memory_bytes();
  // systemd counts in hundredths of a percent: 10 microseconds of each 100 ms.
  const uint64_t hundredths = (quota + 9) / 10;
  std::vector<std::string> arguments = {"set-property", "--runtime", slice};
  arguments.push_back(quota == 0 ? "CPUQuota=" : fmt::format("CPUQuota={}.{:02}%", hundredths / 100, hundredths % 100));
  arguments.push_back(cpu_.v2 ? fmt::format("CPUWeight={}", WeightOf(shares))
                              : fmt::format("CPUShares={}", shares == 0 ? 1024 : shares));
  arguments.push_back(memory == 0 ? "MemoryMax=infinity" : fmt::format("MemoryMax={}", memory));
  return systemctl_(arguments);
}

absl::Status PodCgroups::Remove(const std::string& cgroup_parent, const std::string& pod_uid) const {
  HK_ASSIGN_OR_RETURN(const std::string path, PathOf(cgroup_parent, pod_uid));
  if (IsSlice(path)) {
    if (!systemctl_) return absl::OkStatus();  // a runtime that takes the name for a folder's removes it
    const std::string slice = path.substr(path.rfind('/') + 1);
    HK_RETURN_IF_ERROR(systemctl_({"stop", slice}));
    return systemctl_({"revert", slice});
  }
  absl::Status removed = absl::OkStatus();
  for (const std::string& mount_point : mount_points_) removed.Update(RemoveCgroup(mount_point + "/" + path));
  return removed;
}

}  // namespace heterok8s::cri
