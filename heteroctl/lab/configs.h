// Every file that a lab's daemons read, and what their init is told.
//
// WriteConfigs writes below layout.State(); paths inside the texts are as the PU sees them.
// Threading: any. Ownership: only files. Errors: errno with the path.
//
//   HK_RETURN_IF_ERROR(WriteConfigs(layout, {.log_level = "debug"}));
#pragma once

#include <string>
#include <vector>

#include "common/status/status.h"
#include "heteroctl/lab/init_spec.h"
#include "heteroctl/lab/layout.h"

namespace heterok8s::lab {

struct ConfigOptions {
  std::string log_level = "info";
  std::string on_dpu_down = "fail";  // heterod's on_dpu_down
  std::string ports = "auto";        // heterod's ports.mechanism
  std::string snapshotter = "overlayfs";
  bool agents = true;      // false: only the two containerds
  std::string kubernetes;  // folder of Kubernetes's programs; empty: no Kubernetes
};

std::string ContainerdToml(const ConfigOptions& options);
std::string HeterodYaml(const Layout& layout, Place pu, const ConfigOptions& options);
std::string HeterocriYaml(const Layout& layout, const ConfigOptions& options);
std::string CniConflist(const Layout& layout);
// The places that have an init: both PUs; in a lab with Kubernetes also the first Node's client.
std::vector<Place> PlacesWithInit(const Layout& layout, const ConfigOptions& options);
InitSpec MakeInitSpec(const Layout& layout, Place pu, const ConfigOptions& options);

// Makes the folders of the run and state trees as well.
absl::Status WriteConfigs(const Layout& layout, const ConfigOptions& options);

// Where to find everything from the machine's own mount namespace, for people, programs and tests.
std::string EnvJson(const Layout& layout, const ConfigOptions& options);

}  // namespace heterok8s::lab
