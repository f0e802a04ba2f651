#include <fmt/format.h>
#include <strings.h>

#include <algorithm>
#include <cctype>

#include "common/cni/fields.h"
#include "common/cni/types.h"

namespace heterok8s::cni {
namespace {

// Far above any real configuration. Documents are built without recursion but written with it, so depth is the one
// thing that could exhaust a stack.
constexpr int kMaxDepth = 128;

bool IsTooDeep(const std::string& text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) return true;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return false;
}

absl::StatusOr<Json> ParseObject(const std::string& text) {
  if (IsTooDeep(text)) {
    return MakeError(kDecodingFailure, fmt::format("network configuration is nested deeper than {} levels", kMaxDepth));
  }
  try {
    Json json = Json::parse(text);
    if (!json.is_object()) return MakeError(kDecodingFailure, "network configuration is not a JSON object");
    return json;
  } catch (const Json::exception& e) {
    return MakeError(kDecodingFailure, "network configuration is not JSON", e.what());
  }
}

// Go writes a structure without JSON names under its fields' own ("HostPort", as containerd does) and reads names in
// any case, so every plugin written in Go takes both. A name that is right already wins.
Json InOurCase(const Json& object, std::initializer_list<const char*> names) {
  Json renamed = object;
  for (const auto& [key, value] : object.items()) {
    for (const char* name : names) {
      if (key != name && strcasecmp(key.c_str(), name) == 0 && !object.contains(name)) renamed[name] = value;
    }
  }
  return renamed;
}

absl::Status ReadPortMappings(const Json& runtime, NetworkConfig& config) {
  const Json* list = nullptr;
  HK_RETURN_IF_ERROR(ReadArray(runtime, "portMappings", "runtimeConfig", list));
  for (size_t i = 0; list != nullptr && i < list->size(); ++i) {
    const std::string where = fmt::format("runtimeConfig.portMappings[{}]", i);
    if (!(*list)[i].is_object()) return WrongField(where, "must be an object");
    const Json entry = InOurCase((*list)[i], {"hostPort", "containerPort", "protocol", "hostIP"});
    uint64_t host_port = 0, container_port = 0;
    std::string protocol = "tcp", host_ip;
    HK_RETURN_IF_ERROR(ReadUint(entry, "hostPort", where, 65535, host_port));
    HK_RETURN_IF_ERROR(ReadUint(entry, "containerPort", where, 65535, container_port));
    HK_RETURN_IF_ERROR(ReadString(entry, "protocol", where, protocol));
    HK_RETURN_IF_ERROR(ReadString(entry, "hostIP", where, host_ip));
    if (host_port == 0) continue;  // a container port that is only documentation
    if (container_port == 0) return WrongField(where + ".containerPort", "must be from 1 to 65535");
    PortMapping mapping{.host_port = static_cast<uint16_t>(host_port),
                        .container_port = static_cast<uint16_t>(container_port)};
    absl::StatusOr<Protocol> parsed = ParseProtocol(protocol.empty() ? "tcp" : protocol);
    if (!parsed.ok()) return WrongField(where + ".protocol", Message(parsed.status()));
    mapping.protocol = *parsed;
    if (!host_ip.empty()) {
      absl::StatusOr<IpAddress> address = IpAddress::Parse(host_ip);
      if (!address.ok()) return WrongField(where + ".hostIP", Message(address.status()));
      if (!address->is_unspecified()) mapping.host_ip = *address;
    }
    config.port_mappings.push_back(mapping);
  }
  return absl::OkStatus();
}

absl::Status ReadBandwidth(const Json& runtime, NetworkConfig& config) {
  const Json* object = nullptr;
  HK_RETURN_IF_ERROR(ReadObject(runtime, "bandwidth", "runtimeConfig", object));
  if (object == nullptr) return absl::OkStatus();
  const Json entry = InOurCase(*object, {"ingressRate", "ingressBurst", "egressRate", "egressBurst"});
  const std::string where = "runtimeConfig.bandwidth";
  BandwidthEntry bandwidth;
  HK_RETURN_IF_ERROR(ReadUint(entry, "ingressRate", where, INT64_MAX, bandwidth.ingress_rate));
  HK_RETURN_IF_ERROR(ReadUint(entry, "ingressBurst", where, INT64_MAX, bandwidth.ingress_burst));
  HK_RETURN_IF_ERROR(ReadUint(entry, "egressRate", where, INT64_MAX, bandwidth.egress_rate));
  HK_RETURN_IF_ERROR(ReadUint(entry, "egressBurst", where, INT64_MAX, bandwidth.egress_burst));
  if (bandwidth.ingress_rate == 0 && bandwidth.ingress_burst != 0) {
    return WrongField(where + ".ingressBurst", "is set, but ingressRate is not");
  }
  if (bandwidth.egress_rate == 0 && bandwidth.egress_burst != 0) {
    return WrongField(where + ".egressBurst", "is set, but egressRate is not");
  }
  if (bandwidth.ingress_rate != 0 || bandwidth.egress_rate != 0) config.bandwidth = bandwidth;
  return absl::OkStatus();
}

absl::Status ReadRequestedIps(const Json& object, const std::string& prefix, NetworkConfig& config) {
  std::vector<std::string> texts;
  HK_RETURN_IF_ERROR(ReadStrings(object, "ips", prefix, texts));
  for (const std::string& text : texts) {
    HK_ASSIGN_OR_RETURN(IpPrefix ip, ParseAddressOrPrefix(text, prefix + ".ips"));
    config.requested_ips.push_back(ip);
  }
  return absl::OkStatus();
}

absl::Status ReadMac(const Json& object, const std::string& prefix, NetworkConfig& config) {
  std::string text;
  HK_RETURN_IF_ERROR(ReadString(object, "mac", prefix, text));
  if (text.empty()) return absl::OkStatus();
  HK_ASSIGN_OR_RETURN(config.requested_mac, ParseMac(text, prefix + ".mac"));
  return absl::OkStatus();
}

// The runtime's own names for DNS differ from those of a result (CONVENTIONS.md).
absl::Status ReadRuntimeDns(const Json& runtime, NetworkConfig& config) {
  const Json* object = nullptr;
  HK_RETURN_IF_ERROR(ReadObject(runtime, "dns", "runtimeConfig", object));
  if (object == nullptr) return absl::OkStatus();
  const Json dns = InOurCase(*object, {"servers", "searches", "options"});
  HK_RETURN_IF_ERROR(ReadStrings(dns, "servers", "runtimeConfig.dns", config.dns.nameservers));
  HK_RETURN_IF_ERROR(ReadStrings(dns, "searches", "runtimeConfig.dns", config.dns.search));
  return ReadStrings(dns, "options", "runtimeConfig.dns", config.dns.options);
}

absl::Status ReadAnnotations(const Json& runtime, NetworkConfig& config) {
  constexpr char kKey[] = "io.kubernetes.cri.pod-annotations";
  const Json* annotations = nullptr;
  HK_RETURN_IF_ERROR(ReadObject(runtime, kKey, "runtimeConfig", annotations));
  if (annotations == nullptr) return absl::OkStatus();
  for (const auto& [key, value] : annotations->items()) {
    if (!value.is_string()) return WrongField(fmt::format("runtimeConfig.{}[{}]", kKey, key), "must be a string");
    config.pod_annotations[key] = value.get_ref<const std::string&>();
  }
  return absl::OkStatus();
}

absl::Status ReadRuntimeConfig(const Json& document, NetworkConfig& config) {
  const Json* runtime = nullptr;
  HK_RETURN_IF_ERROR(ReadObject(document, "runtimeConfig", "", runtime));
  if (runtime == nullptr) return absl::OkStatus();
  HK_RETURN_IF_ERROR(ReadPortMappings(*runtime, config));
  HK_RETURN_IF_ERROR(ReadBandwidth(*runtime, config));
  HK_RETURN_IF_ERROR(ReadRequestedIps(*runtime, "runtimeConfig", config));
  HK_RETURN_IF_ERROR(ReadMac(*runtime, "runtimeConfig", config));
  HK_RETURN_IF_ERROR(ReadRuntimeDns(*runtime, config));
  return ReadAnnotations(*runtime, config);
}

// args.cni: what a runtime that knows the convention passes instead of CNI_ARGS. runtimeConfig wins.
absl::Status ReadArgs(const Json& document, NetworkConfig& config) {
  const Json* args = nullptr;
  const Json* cni = nullptr;
  HK_RETURN_IF_ERROR(ReadObject(document, "args", "", args));
  if (args != nullptr) HK_RETURN_IF_ERROR(ReadObject(*args, "cni", "args", cni));
  if (cni == nullptr) return absl::OkStatus();
  if (config.requested_ips.empty()) HK_RETURN_IF_ERROR(ReadRequestedIps(*cni, "args.cni", config));
  if (config.requested_mac.empty()) HK_RETURN_IF_ERROR(ReadMac(*cni, "args.cni", config));
  return absl::OkStatus();
}

// The specification had one name, libcni for a while another, so a runtime may send either or both.
absl::Status ReadValidAttachments(const Json& document, NetworkConfig& config) {
  for (const char* key : {"cni.dev/valid-attachments", "cni.dev/attachments"}) {
    auto it = document.find(key);
    if (it == document.end()) continue;
    config.has_valid_attachments = true;
    if (it->is_null()) continue;  // how Go writes an empty list
    if (!it->is_array()) return WrongField(key, "must be a list");
    for (const Json& entry : *it) {
      AttachmentRef ref;
      HK_RETURN_IF_ERROR(ReadString(entry, "containerID", key, ref.container_id));
      HK_RETURN_IF_ERROR(ReadString(entry, "ifname", key, ref.ifname));
      if (ref.container_id.empty() || ref.ifname.empty()) {
        return WrongField(key, "must be a list of {containerID, ifname}");
      }
      config.valid_attachments.push_back(std::move(ref));
    }
  }
  std::sort(config.valid_attachments.begin(), config.valid_attachments.end());
  auto last = std::unique(config.valid_attachments.begin(), config.valid_attachments.end());
  config.valid_attachments.erase(last, config.valid_attachments.end());
  return absl::OkStatus();
}

absl::Status ReadPrevResult(const Json& document, NetworkConfig& config) {
  const Json* previous = Find(document, "prevResult");
  if (previous == nullptr) return absl::OkStatus();
  absl::StatusOr<Result> result = ParseResult(*previous);
  if (!result.ok()) return Annotate(result.status(), "prevResult");
  config.prev_result = *std::move(result);
  return absl::OkStatus();
}

absl::Status ReadOwnFields(const Json& document, NetworkConfig& config) {
  uint64_t mtu = 0, timeout_s = 0;
  const Json* ipam = nullptr;
  const Json* dns = nullptr;
  HK_RETURN_IF_ERROR(ReadString(document, "type", "", config.type));
  HK_RETURN_IF_ERROR(ReadString(document, "socket", "", config.socket));
  HK_RETURN_IF_ERROR(ReadString(document, "queueDir", "", config.queue_dir));
  HK_RETURN_IF_ERROR(ReadUint(document, "timeoutSeconds", "", 3600, timeout_s));
  HK_RETURN_IF_ERROR(ReadBool(document, "ipMasq", "", config.ip_masq));
  HK_RETURN_IF_ERROR(ReadUint(document, "mtu", "", 65535, mtu));
  HK_RETURN_IF_ERROR(ReadObject(document, "ipam", "", ipam));
  if (ipam != nullptr) config.ipam = *ipam;
  if (timeout_s != 0) config.timeout = std::chrono::seconds(timeout_s);
  if (mtu != 0 && mtu < 68) return WrongField("mtu", "must be at least 68 (the least an IPv4 link may have)");
  config.mtu = static_cast<int>(mtu);
  HK_RETURN_IF_ERROR(ReadObject(document, "dns", "", dns));
  if (dns != nullptr) HK_RETURN_IF_ERROR(ReadDns(*dns, "dns", config.dns));
  return absl::OkStatus();
}

}  // namespace

bool IsValidName(const std::string& name) {
  auto alnum = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; };
  return !name.empty() && alnum(name[0]) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return alnum(c) || c == '_' || c == '.' || c == '-'; });
}

absl::Status ReadDns(const Json& object, const std::string& prefix, Dns& out) {
  HK_RETURN_IF_ERROR(ReadStrings(object, "nameservers", prefix, out.nameservers));
  HK_RETURN_IF_ERROR(ReadStrings(object, "search", prefix, out.search));
  HK_RETURN_IF_ERROR(ReadStrings(object, "options", prefix, out.options));
  return ReadString(object, "domain", prefix, out.domain);
}

absl::StatusOr<IpPrefix> ParseAddressOrPrefix(const std::string& text, const std::string& where) {
  if (text.find('/') != std::string::npos) {
    absl::StatusOr<IpPrefix> prefix = IpPrefix::Parse(text);
    if (!prefix.ok()) return WrongField(where, Message(prefix.status()));
    return prefix;
  }
  absl::StatusOr<IpAddress> address = IpAddress::Parse(text);
  if (!address.ok()) return WrongField(where, Message(address.status()));
  return IpPrefix::Host(*address);
}

absl::StatusOr<std::string> ParseMac(const std::string& text, const std::string& where) {
  std::string mac;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = static_cast<char>(std::tolower(static_cast<unsigned char>(text[i])));
    bool separator = i % 3 == 2;
    if (separator ? c != ':' && c != '-' : !std::isxdigit(static_cast<unsigned char>(c))) break;
    mac += separator ? ':' : c;
  }
  if (mac.size() != 17 || text.size() != 17) return WrongField(where, fmt::format("'{}' is not a MAC address", text));
  if (std::stoi(mac.substr(0, 2), nullptr, 16) & 1) {
    return WrongField(where, fmt::format("'{}' is a group address; an interface cannot have it", text));
  }
  return mac;
}

absl::StatusOr<NetworkConfig> ParseConfigText(const std::string& text, bool forgiving) {
  HK_ASSIGN_OR_RETURN(Json document, ParseObject(text));
  NetworkConfig config;
  for (auto [key, out] : {std::pair{"cniVersion", &config.cni_version}, std::pair{"name", &config.name}}) {
    absl::Status read = ReadString(document, key, "", *out);
    if (!read.ok()) return MakeError(kDecodingFailure, Message(read));
  }
  // What libcni assumes of a configuration that does not say.
  if (config.cni_version.empty()) config.cni_version = "0.1.0";
  if (config.name.empty()) return MakeError(kInvalidConfig, "missing network name");
  if (!IsValidName(config.name)) {
    return MakeError(kInvalidConfig, "invalid characters found in network name", config.name);
  }
  for (auto read : {ReadOwnFields, ReadRuntimeConfig, ReadArgs, ReadValidAttachments, ReadPrevResult}) {
    absl::Status status = read(document, config);
    if (!status.ok() && !forgiving) return status;
  }
  config.raw = std::move(document);
  return config;
}

absl::StatusOr<NetworkConfig> ParseConfig(const std::string& text) { return ParseConfigText(text, false); }

}  // namespace heterok8s::cni
