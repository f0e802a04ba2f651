// Which implementation of Ports this kernel gets.
//
// Purpose: the choice of `ports: {mechanism: …}`, made once at start; features() says what came of it.
// Threading: any. Errors: those of NewBpfPorts; with kAuto a kernel without the hooks is no error.
//
//   HK_ASSIGN_OR_RETURN(ports, NewPorts(config.ports_mechanism, options, listener));
#pragma once

#include "node-agent/ports/ports.h"

namespace heterok8s::ports {

absl::StatusOr<std::unique_ptr<Ports>> NewPorts(Mechanism mechanism, Options options, Listener listener);

}  // namespace heterok8s::ports
