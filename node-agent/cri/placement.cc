#include "node-agent/cri/placement.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "node-agent/cri/annotations.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

std::string Trim(const std::string& text) {
  size_t first = text.find_first_not_of(" \t\n"), last = text.find_last_not_of(" \t\n");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  size_t start = 0;
  while (true) {
    size_t end = text.find(separator, start);
    parts.push_back(Trim(text.substr(start, end == std::string::npos ? end : end - start)));
    if (end == std::string::npos) return parts;
    start = end + 1;
  }
}

const std::string* Find(const Annotations& annotations, const char* key) {
  auto found = annotations.find(key);
  return found == annotations.end() ? nullptr : &found->second;
}

// Names separated by commas; nothing when one is empty.
std::optional<std::set<std::string>> Names(const std::string& text) {
  std::vector<std::string> parts = Split(text, ',');
  if (std::any_of(parts.begin(), parts.end(), [](const std::string& part) { return part.empty(); }))
    return std::nullopt;
  return std::set<std::string>(parts.begin(), parts.end());
}

// "cache=a,b;run=c"
std::optional<std::map<std::string, std::set<std::string>>> Volumes(const std::string& text) {
  std::map<std::string, std::set<std::string>> volumes;
  for (const std::string& item : Split(text, ';')) {
    size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0) return std::nullopt;
    auto users = Names(item.substr(equals + 1));
    if (!users || !volumes.emplace(Trim(item.substr(0, equals)), *users).second) return std::nullopt;
  }
  return volumes;
}

PodVerdict OnHost(PodVerdict verdict, std::string reason) {
  verdict.split = false;
  verdict.reason = std::move(reason);
  return verdict;
}

PodVerdict BadValue(PodVerdict verdict, const char* key, const std::string& value, const char* known) {
  return OnHost(std::move(verdict), fmt::format("annotation {} has the value '{}'; {}", key, value, known));
}

std::string WhatItShares(const rt::LinuxSandboxSecurityContext& security) {
  const rt::NamespaceOption& namespaces = security.namespace_options();
  if (namespaces.network() == rt::NODE) return "hostNetwork: the Pod has no network of its own to split";
  if (namespaces.pid() == rt::NODE) return "hostPID: the Pod shares the host's processes";
  if (namespaces.pid() == rt::POD)
    return "shareProcessNamespace: processes of two kernels cannot share one PID namespace";
  if (namespaces.ipc() == rt::NODE) return "hostIPC: the Pod shares the host's IPC";
  if (namespaces.has_userns_options() && namespaces.userns_options().mode() == rt::POD) {
    return "hostUsers false: user namespaces are not split yet";
  }
  return "";
}

// The runtime writes a Pod's sysctls when the host's half is made already, and would undo these.
std::string WhatItSets(const rt::LinuxPodSandboxConfig& linux_config) {
  for (const auto& [name, value] : linux_config.sysctls()) {
    std::string dotted = name;  // both forms are accepted
    std::replace(dotted.begin(), dotted.end(), '/', '.');
    if (dotted == "net.ipv4.ip_local_port_range") {
      return fmt::format("sysctl {}: the halves of a split Pod have disjoint ranges of ephemeral ports", dotted);
    }
    if (dotted == "net.ipv4.conf.all.rp_filter") {
      return fmt::format("sysctl {}: packets with the Pod's own address come over the link", dotted);
    }
  }
  return "";
}

// Where a host path is inside the Pod's folder: kubelet's <…>/pods/<uid>/…, heteroctl's <…>/<uid>/….
std::optional<std::string> InsidePod(const std::string& host_path, const std::string& pod_uid) {
  if (pod_uid.empty()) return std::nullopt;
  std::string part = "/" + pod_uid + "/";
  size_t at = host_path.find(part);
  if (at == std::string::npos || host_path.find("/../") != std::string::npos) return std::nullopt;
  return host_path.substr(at + part.size());
}

bool StartsWith(const std::string& text, std::string_view prefix) { return text.rfind(prefix, 0) == 0; }

bool IsSmallVolume(const std::string& kind) {
  return kind == "configmap" || kind == "secret" || kind == "projected" || kind == "downward-api";
}

// A name for copies of this path, one path component, unique by path.
std::string CopyName(const std::string& inside) {
  std::string name;
  for (char c : inside) name += c == '/' ? '+' : c;
  return name.size() <= 200 ? name : fmt::format("{}-{:x}", name.substr(0, 180), std::hash<std::string>{}(inside));
}

}  // namespace

const char* Name(Fallback fallback) {
  switch (fallback) {
    case Fallback::kHost:
      return "host";
    case Fallback::kPending:
      return "pending";
    case Fallback::kFail:
      return "fail";
  }
  return "?";
}

std::optional<Fallback> FallbackOf(const std::string& name) {
  for (Fallback each : {Fallback::kHost, Fallback::kPending, Fallback::kFail}) {
    if (name == Name(each)) return each;
  }
  return std::nullopt;
}

std::optional<std::string> EmptyDirOf(const std::string& host_path, const std::string& pod_uid) {
  std::optional<std::string> inside = InsidePod(host_path, pod_uid);
  if (!inside) return std::nullopt;
  auto name_of = [](const std::string& rest) -> std::optional<std::string> {
    std::string name = rest.substr(0, rest.find('/'));
    if (name.empty() || name == "." || name == "..") return std::nullopt;  // a folder is made of it
    return name;
  };
  for (std::string_view prefix : {"volumes/kubernetes.io~empty-dir/", "volume-subpaths/"}) {
    if (StartsWith(*inside, prefix)) return name_of(inside->substr(prefix.size()));
  }
  // heteroctl's in-memory emptyDirs: /dev/shm/heterok8s-pods/<uid>/<volume>
  if (StartsWith(host_path, "/dev/shm/")) return name_of(*inside);
  return std::nullopt;
}

PodVerdict DecideByAnnotations(const Annotations& annotations, const PlacementRules& rules) {
  PodVerdict verdict;
  const std::string* offload = Find(annotations, kOffload);
  if (offload == nullptr) return verdict;
  verdict.wanted = true;
  verdict.fallback = rules.fallback;
  if (Trim(*offload) != "dpu") return BadValue(verdict, kOffload, *offload, "only 'dpu' is known");
  if (const std::string* fallback = Find(annotations, kFallback)) {
    std::optional<Fallback> known = FallbackOf(*fallback);
    if (!known) return BadValue(verdict, kFallback, *fallback, "'host', 'pending' and 'fail' are known");
    verdict.fallback = *known;
  }
  if (const std::string* volumes = Find(annotations, kVolumes)) {
    auto parsed = Volumes(*volumes);
    if (!parsed) return BadValue(verdict, kVolumes, *volumes, "'volume=container,container;volume=…' is expected");
    verdict.volumes = *std::move(parsed);
  }
  if (const std::string* names = Find(annotations, kOffloadContainers)) {
    auto parsed = Names(*names);
    if (!parsed)
      return BadValue(verdict, kOffloadContainers, *names, "names of containers, separated by commas, are expected");
    verdict.containers = *std::move(parsed);
    verdict.reason = fmt::format("annotation {}: {}", kOffloadContainers, fmt::join(verdict.containers, ","));
  } else {
    verdict.containers = {rules.offload_containers.begin(), rules.offload_containers.end()};
    verdict.reason = fmt::format("annotation {}: dpu, for the containers that the configuration lists", kOffload);
    if (verdict.containers.empty()) return OnHost(verdict, "the configuration lists no containers for the DPU");
  }
  verdict.split = true;
  return verdict;
}

PodVerdict DecidePod(const rt::PodSandboxConfig& config, const std::string& runtime_handler,
                     const PlacementRules& rules) {
  PodVerdict verdict = DecideByAnnotations(config.annotations(), rules);
  if (!verdict.split) return verdict;
  // It may be a sandbox of another kind, gVisor's or Kata's, which somebody demands of the Pod; the DPU's default
  // runtime would be the way out of it.
  if (!runtime_handler.empty()) {
    return OnHost(verdict, fmt::format("runtimeClassName: handler '{}' is the host's", runtime_handler));
  }
  std::string why = WhatItShares(config.linux().security_context());
  if (why.empty()) why = WhatItSets(config.linux());
  return why.empty() ? verdict : OnHost(verdict, why);
}

ContainerVerdict DecideContainer(const PodVerdict& pod, const std::string& pod_uid, const rt::ContainerConfig& config,
                                 const std::map<std::string, std::string>& emptydir_users,
                                 std::optional<bool> target_on_dpu,
                                 const std::map<std::string, std::string>& subpath_kinds) {
  const std::string& name = config.metadata().name();
  auto host = [](std::string reason) { return ContainerVerdict{.dpu = false, .reason = std::move(reason)}; };
  if (!pod.split && pod.refused.empty()) return host(pod.reason);
  if (target_on_dpu.has_value()) {
    if (!*target_on_dpu) return host("its target is on the host");
  } else if (!pod.containers.contains(name)) {
    return host(fmt::format("application container: not among {}", fmt::join(pod.containers, ",")));
  }

  const rt::LinuxContainerSecurityContext& security = config.linux().security_context();
  if (security.privileged()) return host("privileged: it would own the DPU");
  if (config.devices_size() > 0) return host(fmt::format("device '{}' of the host", config.devices(0).host_path()));
  if (config.cdi_devices_size() > 0) return host(fmt::format("device '{}' of the host", config.cdi_devices(0).name()));
  for (const rt::HugepageLimit& pages : config.linux().resources().hugepage_limits()) {
    if (pages.limit() > 0)
      return host(fmt::format("huge pages of the host: {} of {}", pages.limit(), pages.page_size()));
  }
  // A seccomp profile is a file and can be copied; this one is in the host's kernel.
  if (security.apparmor().profile_type() == rt::SecurityProfile::Localhost) {
    return host(fmt::format("AppArmor profile '{}' of the host", security.apparmor().localhost_ref()));
  }

  ContainerVerdict verdict{.dpu = true, .reason = target_on_dpu ? "its target is on the DPU" : pod.reason};
  for (const rt::Mount& mount : config.mounts()) {
    std::string what = fmt::format("mount '{}'", mount.container_path());
    if (mount.has_image() && !mount.image().image().empty()) return host(what + ": image volumes are not split yet");
    if (mount.propagation() != rt::PROPAGATION_PRIVATE) return host(what + ": it propagates mounts of the host");
    std::optional<std::string> inside = InsidePod(mount.host_path(), pod_uid);
    if (!inside) return host(fmt::format("{}: host path '{}'", what, mount.host_path()));
    if (StartsWith(*inside, "volume-subpaths/")) {
      // Of a small volume: kubelet itself gives a running container no newer version of it.
      auto kind = subpath_kinds.find(mount.host_path());
      if (kind == subpath_kinds.end() || !IsSmallVolume(kind->second) || !mount.readonly())
        return host(what + ": a subPath of a volume");
      verdict.mounts.push_back({MountPlan::Kind::kCopy, CopyName(*inside)});
      continue;
    }
    if (auto volume = EmptyDirOf(mount.host_path(), pod_uid)) {
      auto declared = pod.volumes.find(*volume);
      if (declared != pod.volumes.end()) {
        for (const std::string& user : declared->second) {
          if (!pod.containers.contains(user)) {
            return host(fmt::format("shared volume '{}' with {} on the host", *volume, user));
          }
        }
      }
      if (auto user = emptydir_users.find(*volume); user != emptydir_users.end()) {
        return host(fmt::format("shared volume '{}' with {} on the host", *volume, user->second));
      }
      if (declared == pod.volumes.end()) {
        return host(fmt::format("volume '{}' may be shared with the host: annotation {} does not say who uses it",
                                *volume, kVolumes));
      }
      if (!inside->ends_with("/" + *volume) && *inside != *volume) return host(what + ": a subPath of a volume");
      verdict.mounts.push_back({MountPlan::Kind::kDpuLocal, *volume});
      continue;
    }
    bool termination = StartsWith(*inside, "containers/") && !mount.readonly();
    constexpr std::string_view kVolumeOf = "volumes/kubernetes.io~";
    bool small_volume =
        StartsWith(*inside, kVolumeOf) &&
        IsSmallVolume(inside->substr(kVolumeOf.size(), inside->find('/', kVolumeOf.size()) - kVolumeOf.size()));
    if (small_volume && !mount.readonly()) return host(what + ": a volume that is written");
    if (!small_volume && !termination && *inside != "etc-hosts")
      return host(fmt::format("{}: host path '{}'", what, mount.host_path()));
    verdict.mounts.push_back({termination ? MountPlan::Kind::kTermination : MountPlan::Kind::kCopy, CopyName(*inside)});
  }
  return verdict;
}

}  // namespace heterok8s::cri
