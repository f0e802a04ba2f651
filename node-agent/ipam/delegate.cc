#include "node-agent/ipam/delegate.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "common/json/whole.h"
#include "common/sys/process.h"
#include "node-agent/ipam/ipam.h"
#include "node-agent/ipam/routes.h"

namespace heterok8s::ipam {
namespace {

using Json = nlohmann::json;

absl::StatusOr<std::string> FindPlugin(const cni::Request& request) {
  const Json& ipam = request.config.ipam;
  auto found = ipam.is_object() ? ipam.find("type") : ipam.end();
  const std::string type = found != ipam.end() && found->is_string() ? found->get<std::string>() : "";
  if (type.empty() || type.find('/') != std::string::npos) {
    return cni::MakeError(cni::kInvalidConfig, fmt::format("'ipam.type' is '{}'; it must be a plugin's name", type));
  }
  if (request.path.empty()) {
    return cni::MakeError(cni::kInvalidEnvironment,
                          fmt::format("required env variables [CNI_PATH] missing: needed to find '{}'", type));
  }
  for (size_t at = 0; at <= request.path.size();) {
    size_t end = std::min(request.path.find(':', at), request.path.size());
    std::string candidate = request.path.substr(at, end - at) + "/" + type;
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
    at = end + 1;
  }
  return cni::MakeError(cni::kInvalidConfig, fmt::format("IPAM plugin '{}' is not in CNI_PATH", type), request.path);
}

std::vector<std::string> Environment(const cni::Request& request, const std::string& command) {
  std::vector<std::string> environment;
  for (const auto& [key, value] : request.environment) {
    if (key != "CNI_COMMAND") environment.push_back(fmt::format("{}={}", key, value));
  }
  environment.push_back("CNI_COMMAND=" + command);
  return environment;
}

// What a failed plugin printed on stdout, as our error.
absl::Status OwnError(const std::string& plugin, const sys::RunResult& run) {
  Json json = Json::parse(run.stdout_text, nullptr, /*allow_exceptions=*/false);
  absl::StatusOr<int> code = Whole<int>(json.is_object() ? json.value("code", Json()) : Json(), "code");
  // 0 is no error's code: whoever reads it would take this failure for a success.
  if (code.ok() && *code > 0 && json.contains("msg") && json["msg"].is_string()) {
    auto details = json.find("details");
    return cni::MakeError(static_cast<cni::ErrorCode>(*code), json["msg"].get<std::string>(),
                          details != json.end() && details->is_string() ? details->get<std::string>() : "");
  }
  return cni::MakeError(cni::kInternal,
                        fmt::format("IPAM plugin '{}' ended with {} and no CNI error", plugin, run.exit_code),
                        run.stderr_text.substr(0, 1000));
}

}  // namespace

absl::StatusOr<cni::Result> RunIpamPlugin(const cni::Request& request, const std::string& command) {
  HK_ASSIGN_OR_RETURN(std::string plugin, FindPlugin(request));
  absl::StatusOr<sys::RunResult> run = sys::Run({.argv = {plugin},
                                                 .env = Environment(request, command),
                                                 .stdin_text = request.stdin_text,
                                                 .deadline = kDelegateDeadline});
  if (!run.ok()) return Annotate(run.status(), "IPAM " + command);
  if (run->exit_code != 0) return OwnError(plugin, *run);
  if (command != "ADD") return cni::Result{};

  Json json = Json::parse(run->stdout_text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) {
    return cni::MakeError(cni::kInternal, fmt::format("IPAM plugin '{}' answered no JSON", plugin));
  }
  absl::StatusOr<cni::Result> result = cni::ParseResult(json);
  if (json.is_object() && result.ok()) {
    absl::Status keys = CheckRouteKeys(json.value("routes", Json()), "routes");
    if (!keys.ok()) result = keys;
  }
  if (!result.ok()) return Annotate(result.status(), fmt::format("answer of IPAM plugin '{}'", plugin));
  if (result->ips.empty()) {
    return cni::MakeError(cni::kInternal, fmt::format("IPAM plugin '{}' answered no address", plugin));
  }
  return result;
}

}  // namespace heterok8s::ipam
