// A message of ours as JSON, with the names of the .proto files and defaults shown; 64-bit numbers are texts, as in
// protobuf's JSON.
//
// Threading: pure. Ownership: a copy. Errors: none; a message that protobuf cannot print (no UTF-8 in a string) is {}.
//
//   context.output.Print(ToJson(reply));
#pragma once

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>

namespace heterok8s::ctl {

nlohmann::json ToJson(const google::protobuf::Message& message);

}  // namespace heterok8s::ctl
