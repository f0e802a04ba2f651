// heterosockd's configuration file.
//
// Purpose: one read of heterosockd.yaml into values that are right. docs/heterosock.md explains each key. The policy
// can be read again while the agent runs; everything else needs a restart, which no connection notices. Threading:
// values. Errors: kInvalidArgument names the file, each key that is wrong, and why; kNotFound when there is no file.
//
//   HK_ASSIGN_OR_RETURN(Config config, LoadConfig("/etc/heterok8s/heterosockd.yaml"));
#pragma once

#include <string>
#include <vector>

#include "common/status/status.h"
#include "heterosock/agent/agent.h"

namespace heterok8s::heterosock::agent {

enum class TokenMode { kAuto, kOff };

struct Config {
  Agent::Options agent;  // all but what is made from the rest
  TokenMode tokens = TokenMode::kAuto;
  std::string token_cgroup;  // empty: all sockets
  std::string bpffs;
  std::string metrics_listen;  // empty: none
  std::string log_level;
};

absl::StatusOr<Config> LoadConfig(const std::string& path);
absl::StatusOr<Config> ParseConfig(const std::string& text, const std::string& name);

}  // namespace heterok8s::heterosock::agent
