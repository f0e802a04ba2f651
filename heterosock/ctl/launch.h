// `heterosock run -- CMD`: the environment in which a program uses hetero-socket.
//
// Threading: pure functions but for the files they look at. Errors: kNotFound when the library or the program is
// nowhere.
//
//   HK_ASSIGN_OR_RETURN(Launch launch, PlanLaunch({.argv = {"redis-server"}}));
//   execve(launch.program.c_str(), …, launch.environment …);
#pragma once

#include <string>
#include <vector>

#include "common/status/status.h"

namespace heterok8s::heterosock::ctl {

struct LaunchOptions {
  std::vector<std::string> argv;
  std::string library;     // empty: HETEROSOCK_LIBRARY, else looked for
  std::string agent;       // empty: HETEROSOCK_AGENT, else the default
  std::string own_folder;  // where this program lies: the library is looked for beside it
};

struct Launch {
  std::string program;  // path of argv[0]
  std::vector<std::string> environment;
  std::vector<std::string> warnings;  // why the program will not use the library although it is asked to
};

// `environment` is that of this process ("KEY=value"); an LD_PRELOAD in it is kept behind ours.
absl::StatusOr<Launch> PlanLaunch(const LaunchOptions& options, const std::vector<std::string>& environment);

// Why the dynamic loader would not preload anything into `program`; empty when it would.
std::string WhyNotPreloadable(const std::string& program);

}  // namespace heterok8s::heterosock::ctl
