// Why a connection is on TCP, under the names the library uses. The list is heterosock/protocol/reasons.h.
#pragma once

#include "heterosock/protocol/reasons.h"

namespace heterok8s::heterosock {

using Reason = protocol::Reason;
constexpr const char* Text(Reason reason) { return protocol::ReasonText(reason); }

}  // namespace heterok8s::heterosock
