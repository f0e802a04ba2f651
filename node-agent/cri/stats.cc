#include "node-agent/cri/stats.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "node-agent/cri/annotations.h"

namespace heterok8s::cri {
namespace {

constexpr const char* kPodUidLabel = "io.kubernetes.pod.uid";  // kubelet's, on every container

}  // namespace

namespace rt = runtime::v1;

rt::ContainerStats ForHost(rt::ContainerStats stats) {
  if (stats.has_writable_layer()) stats.mutable_writable_layer()->clear_fs_id();
  return stats;
}

void ChargeVolumes(const v1::UsedByVolumesReply& used, ContainerStatsList* on_dpu) {
  std::map<std::string, rt::ContainerStats*> by_id;
  for (rt::ContainerStats& stats : *on_dpu) by_id[stats.attributes().id()] = &stats;
  for (const v1::UsedByVolumesReply::Volume& volume : used.volumes()) {
    auto mounts = [&](const rt::ContainerAttributes& container) {
      auto uid = container.labels().find(kPodUidLabel);
      auto volumes = container.annotations().find(kDpuVolumes);
      return uid != container.labels().end() && uid->second == volume.pod_uid() &&
             volumes != container.annotations().end() &&
             ("," + volumes->second + ",").find("," + volume.volume() + ",") != std::string::npos;
    };
    for (auto& [id, stats] : by_id) {
      if (!mounts(stats->attributes())) continue;
      auto add = [](uint64_t more, rt::UInt64Value* value) { value->set_value(value->value() + more); };
      add(volume.bytes(), stats->mutable_writable_layer()->mutable_used_bytes());
      add(volume.inodes(), stats->mutable_writable_layer()->mutable_inodes_used());
      break;
    }
  }
}

bool Matches(const rt::ContainerStats& stats, const std::string& sandbox_id, const rt::ContainerStatsFilter& filter) {
  if (stats.attributes().id().compare(0, filter.id().size(), filter.id()) != 0) return false;
  if (sandbox_id.compare(0, filter.pod_sandbox_id().size(), filter.pod_sandbox_id()) != 0) return false;
  for (const auto& [key, value] : filter.label_selector()) {
    auto label = stats.attributes().labels().find(key);
    if (label == stats.attributes().labels().end() || label->second != value) return false;
  }
  return true;
}

void AddTwin(const rt::PodSandboxStats& twin, rt::PodSandboxStats* pod) {
  for (const rt::ContainerStats& container : twin.linux().containers()) {
    *pod->mutable_linux()->add_containers() = ForHost(container);
  }
  if (twin.linux().has_network()) *pod->mutable_linux()->mutable_network() = twin.linux().network();
}

void AddTwin(const rt::PodSandboxMetrics& twin, rt::PodSandboxMetrics* pod) {
  for (const rt::ContainerMetrics& container : twin.container_metrics()) *pod->add_container_metrics() = container;
}

void AddDescriptors(const rt::ListMetricDescriptorsResponse& dpu, rt::ListMetricDescriptorsResponse* host) {
  std::set<std::string> known;
  for (const rt::MetricDescriptor& descriptor : host->descriptors()) known.insert(descriptor.name());
  for (const rt::MetricDescriptor& descriptor : dpu.descriptors()) {
    if (known.insert(descriptor.name()).second) *host->add_descriptors() = descriptor;
  }
}

absl::StatusOr<rt::CgroupDriver> CgroupDriverOf(const std::string& config_json) {
  auto config = nlohmann::json::parse(config_json, nullptr, /*allow_exceptions=*/false);
  auto find = [](const nlohmann::json* at, std::initializer_list<const char*> path) -> const nlohmann::json* {
    for (const char* key : path) {
      if (!at->is_object() || !at->contains(key)) return nullptr;
      at = &(*at)[key];
    }
    return at;
  };
  const nlohmann::json* name = find(&config, {"containerd", "defaultRuntimeName"});
  if (name == nullptr || !name->is_string()) {
    return absl::UnimplementedError("the runtime's configuration names no default runtime");
  }
  const nlohmann::json* runtime =
      find(&config, {"containerd", "runtimes", name->get_ref<const std::string&>().c_str()});
  if (runtime == nullptr) {
    return absl::UnimplementedError(fmt::format("the runtime's configuration has no runtime '{}'", name->dump()));
  }
  // Options that are not set are absent; runc's own default is cgroupfs.
  const nlohmann::json* systemd = find(runtime, {"options", "SystemdCgroup"});
  return systemd != nullptr && systemd->is_boolean() && systemd->get<bool>() ? rt::SYSTEMD : rt::CGROUPFS;
}

}  // namespace heterok8s::cri
