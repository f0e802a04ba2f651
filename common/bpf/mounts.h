// The two file systems that BPF needs: one to pin in, one to attach to.
//
// Threading: any thread; works in the mount namespace of the calling thread. Ownership: what is mounted stays when the
// process ends. Errors: errno as a Status with the path.
//
//   HK_RETURN_IF_ERROR(EnsureBpffs("/run/heterok8s/bpf"));
//   HK_ASSIGN_OR_RETURN(std::string root, EnsureCgroup2("/run/heterok8s/cgroup2"));
#pragma once

#include <string>

#include "common/status/status.h"

namespace heterok8s::bpf {

// Makes the folder and mounts a bpffs there, unless it lies on one already.
absl::Status EnsureBpffs(const std::string& folder);

// The root of the cgroup v2 hierarchy: where it is mounted, else mounted at `fallback`, which works beside cgroup v1
// controllers as well.
absl::StatusOr<std::string> EnsureCgroup2(const std::string& fallback);

}  // namespace heterok8s::bpf
