#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>

#include "common/cni/fields.h"
#include "common/cni/types.h"

namespace heterok8s::cni {
namespace {

constexpr std::pair<Command, const char*> kCommands[] = {
    {Command::kAdd, "ADD"}, {Command::kDel, "DEL"},       {Command::kCheck, "CHECK"},
    {Command::kGc, "GC"},   {Command::kStatus, "STATUS"}, {Command::kVersion, "VERSION"},
};

std::string Get(const std::map<std::string, std::string>& environment, const char* name) {
  auto it = environment.find(name);
  return it == environment.end() ? "" : it->second;
}

absl::StatusOr<Command> ParseCommand(const std::string& text) {
  if (text.empty()) return MakeError(kInvalidEnvironment, "required env variables [CNI_COMMAND] missing");
  for (auto [command, name] : kCommands) {
    if (text == name) return command;
  }
  return MakeError(kInvalidEnvironment, fmt::format("unknown CNI_COMMAND: {}", text));
}

bool IsAttachmentCommand(Command command) {
  return command == Command::kAdd || command == Command::kDel || command == Command::kCheck;
}

// The kernel's rules for an interface name, without which a bad one would come back as a puzzling netlink error.
absl::Status CheckIfname(const std::string& ifname) {
  if (ifname.size() > 15) {
    return MakeError(kInvalidEnvironment, fmt::format("CNI_IFNAME '{}' is longer than 15 characters", ifname));
  }
  if (ifname == "." || ifname == "..") return MakeError(kInvalidEnvironment, "CNI_IFNAME is . or ..");
  for (unsigned char c : ifname) {
    if (c == '/' || c == ':' || std::isspace(c)) {
      return MakeError(kInvalidEnvironment, fmt::format("CNI_IFNAME '{}' contains / or : or whitespace", ifname));
    }
  }
  return absl::OkStatus();
}

// CNI_PATH is not asked for here: only a delegated IPAM plugin needs it.
absl::Status CheckEnvironment(const Request& request) {
  if (!IsAttachmentCommand(request.command)) return absl::OkStatus();
  std::vector<std::string> missing;
  if (request.container_id.empty()) missing.push_back("CNI_CONTAINERID");
  if (request.netns.empty() && request.command != Command::kDel) missing.push_back("CNI_NETNS");
  if (request.ifname.empty()) missing.push_back("CNI_IFNAME");
  if (!missing.empty()) {
    return MakeError(kInvalidEnvironment, fmt::format("required env variables [{}] missing", fmt::join(missing, ",")));
  }
  if (!IsValidName(request.container_id)) {
    return MakeError(kInvalidEnvironment, "invalid characters in CNI_CONTAINERID", request.container_id);
  }
  return CheckIfname(request.ifname);
}

absl::Status CheckVersion(const Request& request) {
  const std::string& version = request.config.cni_version;
  if (!IsSupported(version)) {
    return MakeError(kIncompatibleVersion, "incompatible CNI versions",
                     fmt::format("config is \"{}\", plugin supports {}", version, kSupportedVersions));
  }
  const bool needs_11 = request.command == Command::kGc || request.command == Command::kStatus;
  const char* least = request.command == Command::kCheck ? "0.4.0" : needs_11 ? "1.1.0" : "0.3.0";
  if (CompareVersions(version, least) >= 0) return absl::OkStatus();
  return MakeError(kIncompatibleVersion, fmt::format("config version does not allow {}", Name(request.command)),
                   fmt::format("config is \"{}\", {} came with {}", version, Name(request.command), least));
}

bool IsKnownArg(const std::string& key) {
  return key == "IgnoreUnknown" || key == "IP" || key == "MAC" || key.rfind("K8S_", 0) == 0;
}

// What CNI_ARGS asks for counts when neither runtimeConfig nor args.cni does.
absl::Status MergeArgs(const std::map<std::string, std::string>& args, NetworkConfig& config) {
  auto ip = args.find("IP");
  if (ip != args.end() && !ip->second.empty() && config.requested_ips.empty()) {
    absl::StatusOr<IpPrefix> prefix = ParseAddressOrPrefix(ip->second, "IP");
    if (!prefix.ok()) return MakeError(kInvalidEnvironment, "CNI_ARGS: " + Message(prefix.status()));
    config.requested_ips.push_back(*prefix);
  }
  auto mac = args.find("MAC");
  if (mac != args.end() && !mac->second.empty() && config.requested_mac.empty()) {
    absl::StatusOr<std::string> parsed = ParseMac(mac->second, "MAC");
    if (!parsed.ok()) return MakeError(kInvalidEnvironment, "CNI_ARGS: " + Message(parsed.status()));
    config.requested_mac = *parsed;
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view Name(Command command) {
  for (auto [candidate, name] : kCommands) {
    if (candidate == command) return name;
  }
  return "UNKNOWN";
}

absl::StatusOr<std::map<std::string, std::string>> ParseArgs(const std::string& text, bool forgiving) {
  std::map<std::string, std::string> args;
  for (size_t at = 0; at < text.size();) {
    size_t end = std::min(text.find(';', at), text.size());
    std::string pair = text.substr(at, end - at);
    at = end + 1;
    size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0) {
      if (forgiving) continue;
      return MakeError(kInvalidEnvironment, fmt::format("CNI_ARGS: '{}' is not KEY=value", pair));
    }
    args[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  auto flag = args.find("IgnoreUnknown");
  std::string ignore = flag == args.end() ? "" : flag->second;
  std::transform(ignore.begin(), ignore.end(), ignore.begin(), [](unsigned char c) { return std::tolower(c); });
  const bool ignored = forgiving || ignore == "1" || ignore == "true";
  for (const auto& [key, value] : args) {
    if (ignored || IsKnownArg(key)) continue;
    return MakeError(kInvalidEnvironment,
                     fmt::format("CNI_ARGS: unknown key '{}' (and IgnoreUnknown is not set)", key));
  }
  return args;
}

absl::StatusOr<Request> ParseRequest(const std::map<std::string, std::string>& environment,
                                     const std::string& stdin_text) {
  Request request;
  HK_ASSIGN_OR_RETURN(request.command, ParseCommand(Get(environment, "CNI_COMMAND")));
  request.container_id = Get(environment, "CNI_CONTAINERID");
  request.netns = Get(environment, "CNI_NETNS");
  request.ifname = Get(environment, "CNI_IFNAME");
  request.path = Get(environment, "CNI_PATH");
  request.environment = environment;
  request.stdin_text = stdin_text;
  HK_RETURN_IF_ERROR(CheckEnvironment(request));
  if (request.command == Command::kVersion) return request;

  const bool forgiving = request.command == Command::kDel;
  HK_ASSIGN_OR_RETURN(request.config, ParseConfigText(stdin_text, forgiving));
  HK_RETURN_IF_ERROR(CheckVersion(request));
  HK_ASSIGN_OR_RETURN(request.args, ParseArgs(Get(environment, "CNI_ARGS"), forgiving));
  absl::Status merged = MergeArgs(request.args, request.config);
  if (!merged.ok() && !forgiving) return merged;
  if (request.command == Command::kCheck && !request.config.prev_result) {
    return MakeError(kInvalidConfig, "CHECK needs 'prevResult'");
  }
  return request;
}

}  // namespace heterok8s::cni
