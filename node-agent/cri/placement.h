// Where a Pod and its containers run, and why.
//
// Purpose: every rule of placement, as pure functions over CRI messages. What cannot be split runs on the host, never
// with an error, and always with a reason that a person understands.
// Threading: pure. Errors: none; a bad annotation is a reason.
//
//   PodVerdict verdict = DecidePod(config, request.runtime_handler(), rules);
//   if (verdict.split) … make the twin …
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "proto/cri/v1/cri.pb.h"

namespace heterok8s::cri {

// What becomes of a container that should be on the DPU and cannot be.
enum class Fallback {
  kHost,     // it runs on the host
  kPending,  // it is not made; kubelet asks again until the DPU takes it
  kFail,     // with the DPU away it ends before it begins, and the Pod's restart policy decides; else as kPending
};
const char* Name(Fallback fallback);
std::optional<Fallback> FallbackOf(const std::string& name);

struct PlacementRules {
  std::vector<std::string> offload_containers;  // for Pods that do not list theirs
  Fallback fallback = Fallback::kHost;
};

struct PodVerdict {
  bool wanted = false;  // the Pod asks for a split; nothing else is set without it
  bool split = false;
  std::string reason;
  std::set<std::string> containers;                      // that go to the DPU
  std::map<std::string, std::set<std::string>> volumes;  // emptyDir -> containers that use it, as far as declared
  Fallback fallback = Fallback::kHost;
  std::string refused;  // not split, because the DPU was away and the fallback is kFail: what is said of it
};

// By annotations alone: what can be known of a sandbox that exists.
using Annotations = google::protobuf::Map<std::string, std::string>;
PodVerdict DecideByAnnotations(const Annotations& annotations, const PlacementRules& rules);
// And by what the Pod's sandbox shares with its computer, and by its RuntimeClass's handler (empty: the default one).
PodVerdict DecidePod(const runtime::v1::PodSandboxConfig& config, const std::string& runtime_handler,
                     const PlacementRules& rules);

// How one mount of a DPU container becomes possible there.
struct MountPlan {
  enum class Kind {
    kCopy,         // a small file or folder, as it is now
    kDpuLocal,     // an emptyDir that only containers on the DPU use
    kTermination,  // a small file that goes back to the host at the end
  } kind;
  std::string volume;  // name in the Pod, unique by host path
};

struct ContainerVerdict {
  bool dpu = false;
  std::string reason;
  std::vector<MountPlan> mounts;  // one per mount of the config, when dpu
};

// `emptydir_users`: emptyDir -> a container on the host that mounts it, of those that exist.
// `target_on_dpu`: of an ephemeral container with a target: whether that is on the DPU.
// `subpath_kinds`: host path of a subPath -> kind of its volume ("configmap"), of those that are known: see subpath.h.
ContainerVerdict DecideContainer(const PodVerdict& pod, const std::string& pod_uid,
                                 const runtime::v1::ContainerConfig& config,
                                 const std::map<std::string, std::string>& emptydir_users,
                                 std::optional<bool> target_on_dpu,
                                 const std::map<std::string, std::string>& subpath_kinds = {});

// The emptyDir that this path is in, for a path as kubelet and heteroctl lay Pods out; nothing for other paths.
std::optional<std::string> EmptyDirOf(const std::string& host_path, const std::string& pod_uid);

}  // namespace heterok8s::cri
