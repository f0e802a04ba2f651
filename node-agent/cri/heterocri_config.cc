#include "node-agent/cri/heterocri_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "common/config/yaml.h"
#include "common/sys/file.h"

namespace heterok8s::cri {
namespace {

using config::Document;
using config::Required;
using config::Section;

std::string AbsolutePath(Section& section, const std::string& key, const std::string& otherwise = "") {
  std::string path = otherwise.empty() ? section.String(key, Required{}) : section.String(key, otherwise);
  if (!path.empty() && path.front() != '/') section.Fail(key, fmt::format("'{}' is no absolute path", path));
  return path;
}

std::string OneOf(Section& section, const std::string& key, const std::string& otherwise,
                  const std::vector<std::string>& allowed) {
  std::string text = section.String(key, otherwise);
  if (std::find(allowed.begin(), allowed.end(), text) == allowed.end()) {
    section.Fail(key, fmt::format("'{}' is none of {}", text, fmt::join(allowed, ", ")));
  }
  return text;
}

}  // namespace

absl::StatusOr<HeterocriConfig> ParseHeterocriConfig(const std::string& text, const std::string& name) {
  HK_ASSIGN_OR_RETURN(Document document, Document::Parse(text, name));
  Section root = document.root();
  HeterocriConfig config;
  config.listen = AbsolutePath(root, "listen", "/run/heterok8s/cri.sock");
  config.state_dir = AbsolutePath(root, "state_dir", "/var/lib/heterok8s");
  Section host = root.Child("host");
  config.host_socket = AbsolutePath(host, "socket", "/run/containerd/containerd.sock");
  config.heterod_socket = AbsolutePath(host, "heterod", "/run/heterok8s/admin.sock");
  Section dpu = root.Child("dpu");
  config.dpu_address = dpu.String("address", Required{});
  Section tls = dpu.Child("tls");
  config.ca = AbsolutePath(tls, "ca");
  config.certificate = AbsolutePath(tls, "cert");
  config.key = AbsolutePath(tls, "key");
  config.dpu_paths.pod_log_root = AbsolutePath(dpu, "pod_log_root", "/var/log/heterok8s/pods");
  config.dpu_paths.cgroup_parent = dpu.String("cgroup_parent", "");
  while (config.dpu_paths.pod_log_root.size() > 1 && config.dpu_paths.pod_log_root.back() == '/') {
    config.dpu_paths.pod_log_root.pop_back();
  }
  Section lease = root.Child("lease");
  config.lease_interval = std::chrono::milliseconds(lease.Int("interval_ms", 1000, 50, 60000));
  config.lease_duration = std::chrono::milliseconds(lease.Int("duration_ms", 5000, 100, 600000));
  if (config.lease_duration < 2 * config.lease_interval) lease.Fail("duration_ms", "is less than twice interval_ms");
  config.rules.offload_containers = root.Strings("offload_containers", {});
  config.rules.fallback =
      FallbackOf(OneOf(root, "fallback", "host", {"host", "pending", "fail"})).value_or(Fallback::kHost);
  config.metrics_listen = root.Child("metrics").String("listen", "127.0.0.1:0");
  Section log = root.Child("log");
  config.log_level = OneOf(log, "level", "info", {"debug", "info", "warn", "error"});
  HK_RETURN_IF_ERROR(document.Finish());
  return config;
}

absl::StatusOr<HeterocriConfig> LoadHeterocriConfig(const std::string& path) {
  HK_ASSIGN_OR_RETURN(std::string text, sys::ReadFile(path, 1u << 20));
  return ParseHeterocriConfig(text, path);
}

}  // namespace heterok8s::cri
