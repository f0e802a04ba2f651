// What the init of a PU is told to do: one JSON file, written by `lab up`, read by PID 1 before it changes its mounts.
//
// Threading: values. Errors: kInvalidArgument with the file's name.
//
//   HK_ASSIGN_OR_RETURN(InitSpec spec, ReadInitSpec("/run/lab/host-init.json"));
#pragma once

#include <string>
#include <vector>

#include "common/status/status.h"

namespace heterok8s::lab {

struct DaemonSpec {
  std::string name;               // "heterod"
  std::vector<std::string> argv;  // argv[0] is a path as the PU sees it
  std::vector<std::string> env;   // "KEY=value", added to the init's own
};

struct BindSpec {
  std::string from, to;
  bool recursive = false;  // with the mounts below `from`
};

struct InitSpec {
  std::string hostname;
  std::string etc_upper, etc_work;  // of the overlay over /etc
  std::vector<BindSpec> binds;      // in this order
  std::string control;              // Unix socket for ControlRequests
  std::string log_folder;
  std::string log_prefix;  // "host-": logs are <log_folder>/<log_prefix><daemon>.log
  std::vector<DaemonSpec> daemons;
};

std::string ToJson(const InitSpec& spec);
absl::StatusOr<InitSpec> ReadInitSpec(const std::string& path);

}  // namespace heterok8s::lab
