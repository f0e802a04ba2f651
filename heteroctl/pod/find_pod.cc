// Which Pod somebody means.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "heteroctl/output.h"
#include "heteroctl/pod/runner.h"

namespace heterok8s::ctl {
namespace {

namespace cri = runtime::v1;

constexpr size_t kShortestPrefix = 6;

std::string FullName(const cri::PodSandbox& sandbox) {
  return fmt::format("{}/{}", sandbox.metadata().namespace_(), sandbox.metadata().name());
}

// A sandbox without one is a Pod of its own.
const std::string& UidOf(const cri::PodSandbox& sandbox) {
  return sandbox.metadata().uid().empty() ? sandbox.id() : sandbox.metadata().uid();
}

// Of the Pod that is meant. A name comes first, even if it looks like a prefix.
absl::StatusOr<std::string> PickUid(const std::vector<cri::PodSandbox>& newest_first, const std::string& reference) {
  std::map<std::string, std::string> by_prefix;  // to the name
  for (const cri::PodSandbox& sandbox : newest_first) {
    const auto& metadata = sandbox.metadata();
    const bool in_default = reference == metadata.name() && metadata.namespace_() == "default";
    if (in_default || reference == FullName(sandbox)) return UidOf(sandbox);
    if (reference.size() < kShortestPrefix) continue;
    if (metadata.uid().starts_with(reference) || sandbox.id().starts_with(reference)) {
      by_prefix[UidOf(sandbox)] = FullName(sandbox);
    }
  }
  if (by_prefix.empty()) {
    return WithHint(absl::NotFoundError(fmt::format("no Pod '{}'", reference)), "`heteroctl ps` lists the Pods");
  }
  if (by_prefix.size() == 1) return by_prefix.begin()->first;
  std::string names;
  for (const auto& [uid, name] : by_prefix) names += fmt::format("{}{} ({})", names.empty() ? "" : ", ", name, uid);
  return WithHint(absl::FailedPreconditionError(fmt::format("'{}' is the beginning of several: {}", reference, names)),
                  "name the Pod, or more of its UID");
}

}  // namespace

absl::StatusOr<FoundPod> FindPod(CriClient& client, const std::string& reference) {
  HK_ASSIGN_OR_RETURN(cri::ListPodSandboxResponse sandboxes, client.ListPodSandbox());
  HK_ASSIGN_OR_RETURN(cri::ListContainersResponse containers, client.ListContainers());
  return PickPod(sandboxes, containers, reference);
}

absl::StatusOr<FoundPod> PickPod(const cri::ListPodSandboxResponse& sandboxes,
                                 const cri::ListContainersResponse& containers, const std::string& reference) {
  std::vector<cri::PodSandbox> all(sandboxes.items().begin(), sandboxes.items().end());
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.created_at() > b.created_at(); });
  HK_ASSIGN_OR_RETURN(const std::string uid, PickUid(all, reference));
  FoundPod pod;
  for (const cri::PodSandbox& sandbox : all) {
    if (UidOf(sandbox) != uid) continue;
    const bool newest = pod.sandbox.id().empty();
    if (newest) {
      pod.sandbox = sandbox;
    } else {
      pod.former_sandboxes.push_back(sandbox);
    }
    for (const cri::Container& container : containers.containers()) {
      if (container.pod_sandbox_id() != sandbox.id()) continue;
      (newest ? pod.containers : pod.former_containers).push_back(container);
    }
  }
  std::sort(pod.containers.begin(), pod.containers.end(),
            [](const auto& a, const auto& b) { return a.created_at() < b.created_at(); });
  return pod;
}

}  // namespace heterok8s::ctl
