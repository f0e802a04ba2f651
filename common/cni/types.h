// The Container Network Interface as values: what a plugin is called with and what it answers.
// Source: containernetworking/cni SPEC.md, tags spec-v1.0.0 and spec-v1.1.0.
//
// Purpose: one parse of the environment and the network configuration, one writer of results in every supported
// version (0.3.0 to 1.1.0), one error type. Used by the shim and by heterod.
// Threading: values. Errors: a Status that carries a CNI error code (see MakeError), so that the outermost layer can
// print it; any other Status becomes code 999.
//
//   HK_ASSIGN_OR_RETURN(Request request, ParseRequest(environment, stdin_text));
//   std::string out = ToJson(result, request.config.cni_version);
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "common/net/ip.h"
#include "common/status/status.h"

namespace heterok8s::cni {

// SPEC "Error": 0-99 reserved. 8 and 999 are what the Go library uses (pkg/types/types.go).
enum ErrorCode : int {
  kIncompatibleVersion = 1,
  kUnsupportedField = 2,
  kUnknownContainer = 3,
  kInvalidEnvironment = 4,
  kIoFailure = 5,
  kDecodingFailure = 6,
  kInvalidConfig = 7,
  kInvalidNetns = 8,
  kTryAgainLater = 11,
  kNotAvailable = 50,
  kNotAvailableLimited = 51,
  kInternal = 999,
  // 100 and above are ours.
  kDpuUnavailable = 100,  // the lease has expired; a split Pod cannot be made
  kAddressExhausted = 101,
  kHostPortTaken = 102,
  kInterfaceExists = 103,
};

// A Status with this CNI code; `details` is for a second line.
absl::Status MakeError(ErrorCode code, std::string message, std::string details = "");
// The code carried by `status`, else the nearest one for its absl code (kNotFound of a namespace is not guessed: 999).
int CodeOf(const absl::Status& status);
// {"cniVersion","code","msg","details"}
std::string ErrorJson(const absl::Status& status, const std::string& cni_version);

inline constexpr const char* kSupportedVersions[] = {"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"};
inline constexpr const char* kLatestVersion = "1.1.0";
// Shorter than the runtimes' own limits (containerd and kubelet: 2 to 4 minutes), so that a slow agent becomes our
// error text instead of a silent kill.
inline constexpr int kDefaultTimeoutSeconds = 60;
bool IsSupported(const std::string& version);
// <0, 0, >0 as strcmp; unparsable sorts lowest.
int CompareVersions(const std::string& a, const std::string& b);

enum class Command { kAdd, kDel, kCheck, kGc, kStatus, kVersion };
std::string_view Name(Command command);

struct PortMapping {
  uint16_t host_port = 0, container_port = 0;
  Protocol protocol = Protocol::kTcp;
  std::optional<IpAddress> host_ip;
};

struct BandwidthEntry {  // bits per second, bits
  uint64_t ingress_rate = 0, ingress_burst = 0, egress_rate = 0, egress_burst = 0;
};

struct AttachmentRef {  // an entry of cni.dev/valid-attachments
  std::string container_id, ifname;
  auto operator<=>(const AttachmentRef&) const = default;
};

struct Route {
  IpPrefix dst;
  std::optional<IpAddress> gw;
  int mtu = 0;  // bytes; 0: unset
};

struct Dns {
  std::vector<std::string> nameservers, search, options;
  std::string domain;
};

struct Interface {
  std::string name, mac, sandbox;
  int mtu = 0;
  std::string pci_id, socket_path;  // 1.1.0
};

struct ResultIp {
  IpPrefix address;
  std::optional<IpAddress> gateway;
  std::optional<size_t> interface;  // index into interfaces
};

struct Result {
  std::vector<Interface> interfaces;
  std::vector<ResultIp> ips;
  std::vector<Route> routes;
  Dns dns;
};

// The network configuration of one plugin, with the runtime's additions.
struct NetworkConfig {
  std::string cni_version, name, type;
  nlohmann::json raw;   // the whole document, unknown keys included
  nlohmann::json ipam;  // "ipam", null when absent
  bool ip_masq = false;
  int mtu = 0;                                           // bytes; 0: derived from the links
  std::string socket;                                    // heterod's CNI socket
  std::string queue_dir;                                 // where the shim leaves a DEL while heterod is away
  std::chrono::seconds timeout{kDefaultTimeoutSeconds};  // "timeoutSeconds": the shim's wait for heterod
  Dns dns;
  // runtimeConfig
  std::vector<PortMapping> port_mappings;
  std::optional<BandwidthEntry> bandwidth;
  std::vector<IpPrefix> requested_ips;
  std::string requested_mac;
  std::map<std::string, std::string> pod_annotations;  // io.kubernetes.cri.pod-annotations
  std::optional<Result> prev_result;
  std::vector<AttachmentRef> valid_attachments;  // GC; sorted, each once
  bool has_valid_attachments = false;            // false: the runtime named no list, so nothing is known stale
};

struct Request {
  Command command = Command::kVersion;
  std::string container_id, netns, ifname, path;
  std::map<std::string, std::string> args;         // CNI_ARGS
  std::map<std::string, std::string> environment;  // CNI_* and trace variables, as received (for delegation)
  std::string stdin_text;                          // as received (for delegation)
  NetworkConfig config;

  std::string pod_uid() const { return Arg("K8S_POD_UID"); }
  std::string pod_name() const { return Arg("K8S_POD_NAME"); }
  std::string pod_namespace() const { return Arg("K8S_POD_NAMESPACE"); }
  std::string Arg(const std::string& name) const {
    auto it = args.find(name);
    return it == args.end() ? "" : it->second;
  }
};

// Everything that can be wrong with a call before anybody looks at the kernel, in the order of the reference library:
// environment (4), JSON (6), name (7), version (1), CNI_ARGS (4), fields (7). DEL is parsed forgivingly: only the
// document, its name and its version can fail it.
absl::StatusOr<Request> ParseRequest(const std::map<std::string, std::string>& environment,
                                     const std::string& stdin_text);
absl::StatusOr<NetworkConfig> ParseConfig(const std::string& text);
absl::StatusOr<Result> ParseResult(const nlohmann::json& json);  // any supported version
nlohmann::json ToJson(const Result& result, const std::string& cni_version);
// The answer of a chained plugin: `previous` with our interfaces, addresses and routes after its own.
Result Amend(Result previous, const Result& ours);
std::string VersionJson();  // the answer to VERSION

}  // namespace heterok8s::cni
