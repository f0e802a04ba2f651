// Where the daemons of the Node listen.
//
// Order: the flag, the environment variable, the lab's env file, the packaged default.
// Threading: any. Ownership: values. Errors: kNotFound when --lab names no running lab, kInvalidArgument when its file
// is no JSON.
//
//   HK_ASSIGN_OR_RETURN(Endpoints endpoints, FindEndpoints(context.endpoint_flags));
#pragma once

#include <string>

#include "common/status/status.h"

namespace heterok8s::ctl {

inline constexpr const char* kLabRunDir = "/run/heterok8s-lab";  // one folder per running lab, with env.json

struct EndpointFlags {
  std::string lab;          // --lab, HETEROK8S_LAB
  std::string host_socket;  // --host-socket, HETEROK8S_HOST_SOCKET: Admin of heterod --role=host
  std::string dpu_socket;   // --dpu-socket, HETEROK8S_DPU_SOCKET: Admin of heterod --role=dpu
  std::string cri_socket;   // --cri-socket, HETEROK8S_CRI_SOCKET: heterocri, or any CRI runtime
};

struct Endpoints {
  std::string host_admin, dpu_admin;  // paths; dpu_admin is empty when this machine cannot reach the DPU's
  std::string cri;
  std::string pod_root;       // folder for volumes and logs of `run`: the same path for the runtime on the host
  std::string cgroup_parent;  // of the Pods of `run`; empty: the runtime's default
};

// `lab_run_dir` holds NAME/env.json: {"host_admin","dpu_admin","cri","pod_root","cgroup_parent"}.
absl::StatusOr<Endpoints> FindEndpoints(const EndpointFlags& flags, const std::string& lab_run_dir = kLabRunDir);

// Where `run` keeps Pods, absolute: `flag`, else what `endpoints` says. kInvalidArgument when neither says it, errno
// when it begins in a working directory that is gone.
absl::StatusOr<std::string> PodRoot(const std::string& flag, const Endpoints& endpoints);

// A path as a gRPC target: "unix:/run/…". One that has a scheme already stays as it is.
std::string GrpcTarget(const std::string& socket);

}  // namespace heterok8s::ctl
