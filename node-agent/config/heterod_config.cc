#include "node-agent/config/heterod_config.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/config/yaml.h"
#include "common/net/endpoint.h"
#include "common/sys/file.h"

namespace heterok8s::config {
namespace {

constexpr int64_t kFirstPort = 1024, kLastPort = 65535;
constexpr uint8_t kLongestLinkRange = 24;  // four addresses per split Pod: 64 Pods at least

// Names are not resolved: the two heterods must not depend on a DNS Pod.
std::string EndpointText(Section& section, const std::string& key, const std::string& otherwise) {
  std::string text = otherwise.empty() ? section.String(key, Required{}) : section.String(key, otherwise);
  absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(text);
  if (!text.empty() && !endpoint.ok()) section.Fail(key, Message(endpoint.status()));
  return text;
}

std::string AbsolutePath(Section& section, const std::string& key, const std::string& otherwise) {
  std::string path = otherwise.empty() ? section.String(key, Required{}) : section.String(key, otherwise);
  if (!path.empty() && path.front() != '/') section.Fail(key, fmt::format("'{}' is no absolute path", path));
  return path;
}

std::string OneOf(Section& section, const std::string& key, const std::string& otherwise,
                  const std::vector<std::string>& allowed) {
  std::string text = otherwise.empty() ? section.String(key, Required{}) : section.String(key, otherwise);
  if (std::find(allowed.begin(), allowed.end(), text) == allowed.end()) {
    section.Fail(key, fmt::format("'{}' is none of {}", text, fmt::join(allowed, ", ")));
  }
  return text;
}

podnet::PortRange Ports(Section& section, const std::string& key, const podnet::PortRange& otherwise) {
  const auto [first, last] = section.Range(key, {otherwise.first, otherwise.last}, kFirstPort, kLastPort);
  return {static_cast<uint16_t>(first), static_cast<uint16_t>(last)};
}

void ReadLease(Section section, LeaseConfig& lease) {
  lease.interval = std::chrono::milliseconds(section.Int("interval_ms", lease.interval.count(), 50, 60000));
  lease.duration = std::chrono::milliseconds(section.Int("duration_ms", lease.duration.count(), 100, 600000));
  // One lost heartbeat must not expire the lease.
  if (lease.duration < 2 * lease.interval) section.Fail("duration_ms", "is less than twice interval_ms");
}

}  // namespace

tls::Identity HeterodConfig::self() const {
  return {.node = node_name, .role = role == pu::Side::kHost ? tls::Role::kHost : tls::Role::kDpu};
}
tls::Identity HeterodConfig::peer() const {
  return {.node = node_name, .role = role == pu::Side::kHost ? tls::Role::kDpu : tls::Role::kHost};
}

absl::StatusOr<HeterodConfig> ParseHeterodConfig(const std::string& text, const std::string& name) {
  HK_ASSIGN_OR_RETURN(Document document, Document::Parse(text, name));
  Section root = document.root();
  HeterodConfig config;

  const bool host = OneOf(root, "role", "", {"host", "dpu"}) == "host";
  config.role = host ? pu::Side::kHost : pu::Side::kDpu;
  config.instance = root.String("instance", Required{});
  // It is a part of an ifalias whose parts are joined by colons.
  if (config.instance.size() > 63 || config.instance.find_first_of(": \t\n/") != std::string::npos) {
    root.Fail("instance", "has a ':', '/' or space, or more than 63 characters");
  }
  config.node_name = root.String("node_name", Required{});
  if (absl::Status s = tls::CheckNodeName(config.node_name); !s.ok()) root.Fail("node_name", Message(s));
  config.state_dir = AbsolutePath(root, "state_dir", "/var/lib/heterok8s");
  config.run_dir = AbsolutePath(root, "run_dir", "/run/heterok8s");
  config.listen = EndpointText(root, "listen", "");
  Section peer = root.Child("peer");
  config.peer_address = EndpointText(peer, "address", "");
  Section tls = root.Child("tls");
  config.tls = {.ca = AbsolutePath(tls, "ca", ""),
                .certificate = AbsolutePath(tls, "cert", ""),
                .key = AbsolutePath(tls, "key", "")};
  ReadLease(root.Child("lease"), config.lease);

  Section pu = root.Child("pu");
  config.pu_backend = OneOf(pu, "backend", "netns", {"netns"});
  config.peer_netns = host ? AbsolutePath(pu, "peer_netns", "") : pu.String("peer_netns", "");

  Section ephemeral = root.Child("ephemeral");
  config.host_ephemeral = Ports(ephemeral, "host", config.host_ephemeral);
  config.dpu_ephemeral = Ports(ephemeral, "dpu", config.dpu_ephemeral);
  if (config.host_ephemeral.first <= config.dpu_ephemeral.last &&
      config.dpu_ephemeral.first <= config.host_ephemeral.last) {
    root.Fail("ephemeral", "the ranges of host and dpu overlap");
  }
  const std::string link_range = root.String("link_range", "169.254.64.0/18");
  if (absl::StatusOr<IpPrefix> prefix = IpPrefix::Parse(link_range);
      prefix.ok() && prefix->address.family == Family::kV4 && prefix->length <= kLongestLinkRange) {
    config.link_range = prefix->Masked();
    const IpAddress taken = podnet::LinkAddresses::Localhost(Family::kV4);
    if (prefix->Contains(taken)) {
      root.Fail("link_range", fmt::format("holds {}, which has a meaning of its own on the link", taken.ToString()));
    }
  } else {
    root.Fail("link_range", fmt::format("'{}' is no IPv4 range of at most /{}", link_range, kLongestLinkRange));
  }
  config.mtu = static_cast<int>(root.Int("mtu", 0, 0, 65535));
  if (config.mtu != 0 && config.mtu < 1280) root.Fail("mtu", "is less than the 1280 bytes that IPv6 needs");
  Section ports = root.Child("ports");
  const std::string mechanism = OneOf(ports, "mechanism", "auto", {"auto", "bpf", "placeholder"});
  config.ports_mechanism = mechanism == "auto"  ? ports::Mechanism::kAuto
                           : mechanism == "bpf" ? ports::Mechanism::kBpf
                                                : ports::Mechanism::kPlaceholder;
  Section metrics = root.Child("metrics");
  config.metrics_listen = EndpointText(metrics, "listen", "127.0.0.1:9464");
  config.on_dpu_down =
      OneOf(root, "on_dpu_down", "fail", {"fail", "host"}) == "fail" ? OnDpuDown::kFail : OnDpuDown::kHost;
  Section cri = root.Child("cri");
  config.cri_socket = AbsolutePath(cri, "socket", "/run/containerd/containerd.sock");
  config.pod_log_root = AbsolutePath(cri, "pod_log_root", "/var/log/heterok8s/pods");
  Section image_gc = cri.Child("image_gc");
  config.image_gc_high_percent = static_cast<int>(image_gc.Int("high_percent", 85, 1, 100));
  config.image_gc_low_percent = static_cast<int>(image_gc.Int("low_percent", 80, 0, 100));
  if (config.image_gc_low_percent > config.image_gc_high_percent) {
    image_gc.Fail("low_percent", "is above high_percent");
  }
  config.lost_netns_after = std::chrono::seconds(cri.Int("lost_netns_after_s", 300, 0, 86400));
  Section log = root.Child("log");
  config.log_level = OneOf(log, "level", "info", {"trace", "debug", "info", "warn", "error"});

  HK_RETURN_IF_ERROR(document.Finish());
  return config;
}

absl::StatusOr<HeterodConfig> LoadHeterodConfig(const std::string& path) {
  HK_ASSIGN_OR_RETURN(std::string text, sys::ReadFile(path, 1u << 20));
  return ParseHeterodConfig(text, path);
}

}  // namespace heterok8s::config
