#include <fmt/format.h>

#include "node-agent/ports/ports.h"

namespace heterok8s::ports {

std::string PortKey::ToString() const {
  std::string host = address.family == Family::kV4 ? address.ToString() : fmt::format("[{}]", address.ToString());
  return fmt::format("{} {}:{}{}", Name(protocol), host, port, dual_stack ? " (dual stack)" : "");
}

}  // namespace heterok8s::ports
