#include "heteroctl/lab/init_spec.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/sys/file.h"

namespace heterok8s::lab {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DaemonSpec, name, argv, env)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(BindSpec, from, to, recursive)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(InitSpec, hostname, etc_upper, etc_work, binds, control, log_folder, log_prefix,
                                   daemons)

std::string ToJson(const InitSpec& spec) { return nlohmann::json(spec).dump(2); }

absl::StatusOr<InitSpec> ReadInitSpec(const std::string& path) {
  HK_ASSIGN_OR_RETURN(std::string text, sys::ReadFile(path));
  try {
    return nlohmann::json::parse(text).get<InitSpec>();
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(fmt::format("'{}': {}", path, error.what()));
  }
}

}  // namespace heterok8s::lab
