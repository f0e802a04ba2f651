// Names and hardware addresses that follow from an OwnerTag alone.
//
// Purpose: both PUs, and every repetition of a call, find the same names without asking each other.
// Threading: pure functions. Ownership: values. Errors: none.
//
//   std::string mac = DerivedMac(tag, 'u');  // the root end of the uplink
#pragma once

#include <cstdint>
#include <string>

#include "node-agent/pu/backend.h"

namespace heterok8s::pu {

// 64 well mixed bits of the tag and `role`.
uint64_t TagHash(const OwnerTag& tag, char role);

// A locally administered unicast address. Roles in use: 'h' and 'd' (LinkMac), 'p' and 'u' (uplink: Pod, root).
std::string DerivedMac(const OwnerTag& tag, char role);

}  // namespace heterok8s::pu
