// One end of a transport protocol: an address and a port.
//
// Purpose: what configurations call ADDRESS:PORT, as a value; names are not resolved. Threading: values.
// Errors: kInvalidArgument that names the text.
//
//   HK_ASSIGN_OR_RETURN(Endpoint listen, Endpoint::Parse("192.0.2.1:7443"));
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/net/ip.h"
#include "common/status/status.h"

namespace heterok8s {

struct Endpoint {
  IpAddress address;
  uint16_t port = 0;

  static absl::StatusOr<Endpoint> Parse(std::string_view text);  // "192.0.2.1:80", "[2001:db8::1]:80"
  std::string ToString() const;                                  // the same

  auto operator<=>(const Endpoint&) const = default;
};

}  // namespace heterok8s
