// What a Pod's author says of its placement, paths of its mounts, and heterocri.yaml. See tools/fuzz.
#include <cstdlib>

#include "node-agent/cri/annotations.h"
#include "node-agent/cri/heterocri_config.h"
#include "node-agent/cri/placement.h"

namespace {

using namespace heterok8s::cri;

bool IsName(const std::string& name) { return !name.empty() && name.find(',') == std::string::npos; }

// A folder of ours will have this name.
bool IsFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos;
}

}  // namespace

// Lines of the input: which annotations, the containers, the volumes, a path.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  std::string lines[4];
  size_t start = 0;
  for (std::string& line : lines) {
    size_t end = std::min(text.find('\n', start), text.size());
    line = text.substr(std::min(start, text.size()), end - std::min(start, text.size()));
    start = end + 1;
  }

  Annotations annotations;
  annotations[kOffload] = lines[0].empty() ? "dpu" : lines[0];
  annotations[kOffloadContainers] = lines[1];
  if (!lines[2].empty()) annotations[kVolumes] = lines[2];
  const PodVerdict pod = DecideByAnnotations(annotations, {});
  if (!pod.wanted || pod.reason.empty() || (pod.split && pod.containers.empty())) abort();
  for (const std::string& name : pod.containers) {
    if (!IsName(name)) abort();
  }
  for (const auto& [volume, users] : pod.volumes) {
    if (users.empty()) abort();
    for (const std::string& user : users) {
      if (!IsName(user)) abort();
    }
  }

  if (auto volume = EmptyDirOf(lines[3], "uid"); volume && !IsFileName(*volume)) abort();
  runtime::v1::ContainerConfig container;
  container.mutable_metadata()->set_name(pod.containers.empty() ? "a" : *pod.containers.begin());
  container.add_mounts()->set_host_path(lines[3]);
  container.mutable_mounts(0)->set_container_path("/data");
  const ContainerVerdict verdict = DecideContainer(pod, "uid", container, {}, std::nullopt);
  for (const MountPlan& mount : verdict.mounts) {
    if (!IsFileName(mount.volume)) abort();
  }
  (void)ParseHeterocriConfig(text, "fuzz.yaml");
  return 0;
}
