// Which implementation of Ports this kernel gets.
//
// Purpose: the choice of `ports: {mechanism: …}`, made once at start; features() says what came of it. What the other
// mechanism has left goes: the pins of BPF at once, the NAT of placeholders Pod by Pod.
// Threading: any. Ownership: the caller's. Errors: those of NewBpfPorts; with kAuto a kernel without the hooks is no
// error.
//
//   HK_ASSIGN_OR_RETURN(ports, NewPorts(config.ports_mechanism, options, listener));
#pragma once

#include "node-agent/ports/ports.h"

namespace heterok8s::ports {

absl::StatusOr<std::unique_ptr<Ports>> NewPorts(Mechanism mechanism, Options options, Listener listener);

// With BPF, at start, for each split Pod of the ledger: the table that placeholders made in its namespace would
// translate what BPF has decided. OK when there is no table, or no Pod.
absl::Status RemovePlaceholderNat(const std::string& netns_path);

}  // namespace heterok8s::ports
