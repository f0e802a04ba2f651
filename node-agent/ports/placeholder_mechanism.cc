#include "node-agent/ports/placeholder_mechanism.h"

#include <spdlog/spdlog.h>

#include "node-agent/ports/placeholder_ports.h"

namespace heterok8s::ports {

absl::StatusOr<std::unique_ptr<Ports>> NewPorts(Mechanism mechanism, Options options, Listener listener) {
  if (mechanism != Mechanism::kPlaceholder) {
    absl::StatusOr<std::unique_ptr<Ports>> bpf = NewBpfPorts(options, listener);
    bool lacking = absl::IsUnimplemented(bpf.status());
    if (!lacking || mechanism == Mechanism::kBpf) return bpf;
    spdlog::warn("ports: {}; using placeholder sockets and NAT instead", Message(bpf.status()));
  }
  return NewPlaceholderPorts(std::move(options), std::move(listener));
}

}  // namespace heterok8s::ports
