// A Pod manifest as kubectl's users write it, read into values.
//
// Purpose: the part of core/v1 Pod and ConfigMap that a node without an apiserver can run. A field that exists in
// Kubernetes and has no effect here is a warning; a field that does not exist is an error that names its path.
// Threading: values. Errors: kInvalidArgument: "web.yaml: spec.containers[1].ports[0].containerPort: '99999' is not a
// port (1 to 65535)".
//
//   HK_ASSIGN_OR_RETURN(Manifest manifest, ParseManifest(text, "web.yaml"));
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/net/ip.h"
#include "common/status/status.h"

namespace heterok8s::manifest {

struct EnvVar {
  std::string name, value;
  std::string field_path;  // valueFrom.fieldRef.fieldPath, e.g. "status.podIP"; empty: `value` holds
};

struct ContainerPort {
  std::string name, host_ip;
  Protocol protocol = Protocol::kTcp;
  uint16_t container_port = 0, host_port = 0;  // host_port 0: none
};

struct VolumeMount {
  std::string name, mount_path, sub_path;
  bool read_only = false;
};

struct SecurityContext {
  std::optional<int64_t> run_as_user, run_as_group;
  bool privileged = false;
  bool read_only_root_filesystem = false;
  std::vector<std::string> add_capabilities, drop_capabilities;
};

struct Resources {
  int64_t cpu_limit_milli = 0, cpu_request_milli = 0;  // 0: none
  int64_t memory_limit_bytes = 0;
};

struct Container {
  std::string name, image, working_dir;
  std::vector<std::string> command, args;
  std::vector<EnvVar> env;
  std::vector<ContainerPort> ports;
  std::vector<VolumeMount> mounts;
  SecurityContext security;
  Resources resources;
  bool tty = false, stdin = false;
  bool is_sidecar = false;  // an init container with restartPolicy: Always
};

struct Volume {
  enum class Kind { kEmptyDir, kConfigMap, kHostPath };
  std::string name;
  Kind kind = Kind::kEmptyDir;
  bool in_memory = false;                    // emptyDir.medium: Memory
  std::string config_map;                    // name
  std::map<std::string, std::string> items;  // key -> path; empty: every key under its own name
  int default_mode = 0644;
  std::string host_path;
};

struct Pod {
  std::string name, pod_namespace = "default", uid, hostname;
  std::map<std::string, std::string> labels, annotations;
  std::vector<Container> init_containers, containers;
  std::vector<Volume> volumes;
  bool host_network = false, host_pid = false, host_ipc = false, share_process_namespace = false;
  SecurityContext security;
  int64_t termination_grace_seconds = 30;
};

struct Manifest {
  Pod pod;
  std::map<std::string, std::map<std::string, std::string>> config_maps;  // name -> key -> text
  std::vector<std::string> warnings;                                      // fields without effect, with their path
};

// `source` is the file's name, for messages. Exactly one Pod document; any number of ConfigMaps.
absl::StatusOr<Manifest> ParseManifest(const std::string& text, const std::string& source);

}  // namespace heterok8s::manifest
