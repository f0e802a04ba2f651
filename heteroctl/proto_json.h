// A message of ours as JSON, with the names of the .proto files and defaults shown.
#pragma once

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>

namespace heterok8s::ctl {

nlohmann::json ToJson(const google::protobuf::Message& message);

}  // namespace heterok8s::ctl
