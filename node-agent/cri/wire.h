// The little of protobuf's wire format that routing needs: field 1 of a message, without parsing the rest.
//
// Threading: pure functions. Errors: kInvalidArgument for bytes that are no protobuf message.
//
//   HK_ASSIGN_OR_RETURN(std::string id, FirstField(request_bytes));   // container_id or pod_sandbox_id
#pragma once

#include <string>
#include <string_view>

#include "common/status/status.h"

namespace heterok8s::cri {

// The value of the string field number 1; empty when it is absent (as proto3 says). As protobuf does, the last of
// several counts, and fields in any order are accepted.
absl::StatusOr<std::string> FirstField(std::string_view message);

}  // namespace heterok8s::cri
