// The cgroups that Pods have on this PU, one each, in which the runtime makes those of their containers.
//
// Purpose: on the host kubelet makes, limits and removes a Pod's cgroup; here nobody else does. cgroup v1 (one folder
// in each hierarchy) and v2; folders as they are, or, for a name that ends in ".slice", a slice of systemd's, which
// must be told by systemd: it writes the files of its slices again as it thinks they are.
// Threading: thread-safe. Ownership: keeps nothing of a Pod. Errors: kInvalidArgument for a path that is not below the
// root or not of this Pod, kFailedPrecondition when systemd does not do it, errno with the file.
//
//   HK_ASSIGN_OR_RETURN(PodCgroups cgroups, PodCgroups::Find());
//   HK_ASSIGN_OR_RETURN(std::vector<std::string> missing, cgroups.Limit(request));   // {"memory"}: no such controller
//   HK_RETURN_IF_ERROR(cgroups.Remove("/kubepods/pod0a1b…", uid));
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "proto/heterok8s/v1/runtime.pb.h"

namespace heterok8s::cri {

class PodCgroups {
 public:
  using Run = std::function<absl::Status(const std::vector<std::string>& argv)>;

  // From /proc/self/mountinfo; systemd by `systemctl`.
  static absl::StatusOr<PodCgroups> Find();
  // `mountinfo` as proc(5) describes it; `systemctl` null: no systemd runs this machine.
  PodCgroups(const std::string& mountinfo, Run systemctl);

  absl::StatusOr<std::vector<std::string>> Limit(const v1::LimitPodRequest& request) const;
  // runc refuses files of cgroup v2 where v1 has a controller (ErrV1NoUnified).
  bool only_v2() const { return cpu_.v2 && memory_.v2; }
  // OK when it is gone. Where something still runs in a folder, it stays: kFailedPrecondition.
  absl::Status Remove(const std::string& cgroup_parent, const std::string& pod_uid) const;

 private:
  struct Controller {
    std::string mount_point;  // empty: this kernel has none
    bool v2 = false;
  };

  // Of the Pod's cgroup below a mount point.
  static absl::StatusOr<std::string> PathOf(const std::string& cgroup_parent, const std::string& pod_uid);
  absl::Status LimitSlice(const v1::LimitPodRequest& request, const std::string& slice) const;

  std::vector<std::string> mount_points_;  // of all hierarchies
  Controller cpu_, memory_;
  Run systemctl_;
};

}  // namespace heterok8s::cri
