// The cgroups of a lab: one per place in every hierarchy, so that nothing of a lab can hide and none meets another.
//
// Works on v1, hybrid and pure v2. A PU runs in a cgroup namespace whose root is its place's cgroup: whatever path a
// kubelet or a Pod manifest asks for ends below it.
// Threading: any. Errors: errno with the path; Remove gives kDeadlineExceeded with the processes that are still there.
//
//   HK_RETURN_IF_ERROR(MakeCgroups(layout));
//   HK_RETURN_IF_ERROR(JoinCgroups(layout, Place::kHost));   // the calling process
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "heteroctl/lab/layout.h"

namespace heterok8s::lab {

// One mounted hierarchy, as this process sees it.
struct CgroupHierarchy {
  std::string mount_point;  // "/sys/fs/cgroup/cpuset", or "/sys/fs/cgroup" when all is v2
  bool v2 = false;
  std::string options;  // to mount the same hierarchy again: "cpuset", "none,name=systemd"; empty for v2
};
absl::StatusOr<std::vector<CgroupHierarchy>> CgroupHierarchies();
// From the text of a mountinfo file.
std::vector<CgroupHierarchy> ParseCgroupHierarchies(const std::string& mountinfo);

// The folders of all places. On pure v2 also a leaf "lab" in each, because a v2 cgroup with controllers may not hold
// processes itself.
absl::Status MakeCgroups(const Layout& layout);

// The cgroup.procs files that a process writes its pid to: `top` those of the place's own cgroup, where a PU's cgroup
// namespace is made, `home` those where processes stay (the leaf on pure v2, else the same).
struct CgroupProcs {
  std::vector<std::string> top, home;
};
absl::StatusOr<CgroupProcs> CgroupProcsFiles(const Layout& layout, Place place);
// Moves the calling process to its home.
absl::Status JoinCgroups(const Layout& layout, Place place);

// Every process in any cgroup of the lab.
absl::StatusOr<std::vector<pid_t>> CgroupProcesses(const Layout& layout);
// Removes all folders; OK when there are none. Waits for processes that are dying until the deadline.
absl::Status RemoveCgroups(const Layout& layout, std::chrono::milliseconds deadline);
// The lab's cgroup folders that exist (leak check).
absl::StatusOr<std::vector<std::string>> FindCgroups(const Layout& layout);

}  // namespace heterok8s::lab
