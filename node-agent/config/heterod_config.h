// heterod's configuration file.
//
// Purpose: one read of heterod.yaml into values that are right: every key is known, every value has its type and range,
// addresses parse, what one role needs is there. docs/operations.md explains each key.
// Threading: values. Errors: kInvalidArgument names file, key and what is wrong with it.
//
//   HK_ASSIGN_OR_RETURN(HeterodConfig config, LoadHeterodConfig("/etc/heterok8s/heterod.yaml"));
#pragma once

#include <chrono>
#include <string>

#include "common/net/ip.h"
#include "common/status/status.h"
#include "common/tls/identity.h"
#include "node-agent/podnet/podnet.h"
#include "node-agent/ports/ports.h"
#include "node-agent/pu/backend.h"

namespace heterok8s::config {

enum class OnDpuDown { kFail, kHost };  // what ADD of a split Pod does while the lease is expired

struct TlsConfig {
  std::string ca, certificate, key;
};
struct LeaseConfig {
  std::chrono::milliseconds interval{1000};
  std::chrono::milliseconds duration{5000};
};

struct HeterodConfig {
  pu::Side role = pu::Side::kHost;
  std::string instance;
  std::string node_name;
  std::string state_dir;
  std::string run_dir;
  std::string listen;        // "address:port"
  std::string peer_address;  // "address:port"
  TlsConfig tls;
  LeaseConfig lease;
  std::string pu_backend;  // "netns"
  std::string peer_netns;  // host role with the netns back end
  podnet::PortRange host_ephemeral{32768, 47103}, dpu_ephemeral{47104, 60999};
  IpPrefix link_range;
  int mtu = 0;  // bytes; 0: what the devices of both PUs' default routes carry
  std::string metrics_listen;
  ports::Mechanism ports_mechanism = ports::Mechanism::kAuto;
  OnDpuDown on_dpu_down = OnDpuDown::kFail;
  std::string cri_socket;                                     // DPU role
  std::string pod_log_root;                                   // DPU role
  int image_gc_high_percent = 85, image_gc_low_percent = 80;  // DPU role, see cri::ImageKeeper
  std::chrono::seconds lost_netns_after{300};                 // DPU role, see cri::LostNamespaces
  std::string log_level;

  tls::Identity self() const;
  tls::Identity peer() const;
};

absl::StatusOr<HeterodConfig> LoadHeterodConfig(const std::string& path);
absl::StatusOr<HeterodConfig> ParseHeterodConfig(const std::string& text, const std::string& name);

}  // namespace heterok8s::config
