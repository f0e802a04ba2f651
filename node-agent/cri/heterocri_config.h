// heterocri's configuration file.
//
// Threading: values. Errors: kInvalidArgument names file, key and what is wrong with it.
//
//   HK_ASSIGN_OR_RETURN(HeterocriConfig config, LoadHeterocriConfig("/etc/heterok8s/heterocri.yaml"));
#pragma once

#include <chrono>
#include <string>

#include "common/status/status.h"
#include "node-agent/cri/placement.h"
#include "node-agent/cri/twin.h"

namespace heterok8s::cri {

struct HeterocriConfig {
  std::string listen;  // Unix socket that we serve CRI on
  std::string state_dir;
  std::string host_socket;     // of the host's CRI runtime
  std::string heterod_socket;  // of heterod on the host, which says whether the DPU is alive
  std::string dpu_address;     // "address:port" of the DPU's heterod
  std::string ca, certificate, key;
  DpuPaths dpu_paths;
  std::chrono::milliseconds lease_interval{1000}, lease_duration{5000};
  PlacementRules rules;
  std::string metrics_listen;
  std::string log_level;
};

absl::StatusOr<HeterocriConfig> LoadHeterocriConfig(const std::string& path);
absl::StatusOr<HeterocriConfig> ParseHeterocriConfig(const std::string& text, const std::string& name);

}  // namespace heterok8s::cri
