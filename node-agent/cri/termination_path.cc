#include "node-agent/cri/termination_path.h"

#include "node-agent/cri/annotations.h"

namespace heterok8s::cri {

namespace rt = runtime::v1;

std::optional<TerminationPath> TerminationPathOf(const rt::Container& listed, const std::string& pod_uid) {
  auto found = listed.annotations().find(kTerminationLog);
  if (found == listed.annotations().end() || pod_uid.empty()) return std::nullopt;
  const size_t equals = found->second.find('=');
  if (equals == std::string::npos) return std::nullopt;
  TerminationPath path{.inside = found->second.substr(0, equals), .on_host = found->second.substr(equals + 1)};
  if (path.on_host.find("/" + pod_uid + "/containers/") == std::string::npos ||
      path.on_host.find("/..") != std::string::npos) {
    return std::nullopt;
  }
  return path;
}

void ShowOnHost(const TerminationPath& path, rt::ContainerStatus* status) {
  for (rt::Mount& mount : *status->mutable_mounts()) {
    if (mount.container_path() == path.inside) mount.set_host_path(path.on_host);
  }
}

}  // namespace heterok8s::cri
