// Asks a running heterosockd.
//
// Threading: one thread. Errors: kUnavailable when nobody serves the path, kDeadlineExceeded when there is no answer,
// kInvalidArgument with the agent's own words.
//
//   HK_ASSIGN_OR_RETURN(nlohmann::json status, Ask("/run/heterosock/admin.sock", {{"command", "status"}}));
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "common/status/status.h"

namespace heterok8s::heterosock::ctl {

absl::StatusOr<nlohmann::json> Ask(const std::string& path, const nlohmann::json& request);

// Calls `each` for every event until it returns false or the agent ends.
absl::Status Follow(const std::string& path, const std::function<bool(const nlohmann::json&)>& each);

}  // namespace heterok8s::heterosock::ctl
