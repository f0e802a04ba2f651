// Runs a Pod from its manifest: what a kubelet does, once.
//
// Purpose: volumes, sandbox, images, init containers one after the other, containers. All or nothing: a failure removes
// what was made, unless asked to keep it for a look.
// Threading: one thread. Ownership: borrows the client and the progress.
// Errors: name the Pod, the container and the call; an init container's failure carries its last log lines.
//
//   HK_ASSIGN_OR_RETURN(RunningPod pod, RunPod(*cri, manifest, {.root = "/var/lib/heterok8s/pods"}, progress));
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/status/status.h"
#include "heteroctl/manifest/manifest.h"
#include "heteroctl/pod/cri_client.h"

namespace heterok8s::ctl {

struct RunOptions {
  std::string root;  // of all Pod folders; the same path for heteroctl and for the runtime on the host
  std::string cgroup_parent;
  std::string cri_socket;  // the runtime's, for subPaths: see subpath.h
  bool keep_on_failure = false;
};

struct StartedContainer {
  std::string name, id;
};
struct RunningPod {
  std::string uid, sandbox_id, ip;
  std::vector<StartedContainer> containers;
};

using Report = std::function<void(const std::string& what_is_going_on)>;

absl::StatusOr<RunningPod> RunPod(CriClient& cri, manifest::Manifest manifest, const RunOptions& options,
                                  const Report& report);

// A Pod that runs, found by "name", "namespace/name" or a prefix of its UID or sandbox id. Of two with one name (a
// StatefulSet's, whose former one is still going) the younger.
struct FoundPod {
  runtime::v1::PodSandbox sandbox;
  std::vector<runtime::v1::Container> containers;  // oldest first
  // Sandboxes of the same Pod that were made before this one, and what is in them.
  std::vector<runtime::v1::PodSandbox> former_sandboxes;
  std::vector<runtime::v1::Container> former_containers;
};
// kFailedPrecondition when a prefix is that of several Pods.
absl::StatusOr<FoundPod> FindPod(CriClient& cri, const std::string& reference);
absl::StatusOr<FoundPod> PickPod(const runtime::v1::ListPodSandboxResponse& sandboxes,
                                 const runtime::v1::ListContainersResponse& containers, const std::string& reference);
// The one named, or the only one, or the first (as kubectl does) when `name` is empty.
absl::StatusOr<runtime::v1::Container> FindContainer(const FoundPod& pod, const std::string& name);

// Whether the Pod is heteroctl's and its folder is beneath `root`: only then RemovePod removes the folder.
bool HasFolderBeneath(const FoundPod& pod, const std::string& root);
// Whether the Pod says that heteroctl made it, whoever wrote that.
bool SaysFolder(const FoundPod& pod);

// Stops and removes everything of the Pod, former sandboxes too, and its folder beneath `options.root`. Goes on after a
// failure and returns the first one.
absl::Status RemovePod(CriClient& cri, const FoundPod& pod, const RunOptions& options);

}  // namespace heterok8s::ctl
