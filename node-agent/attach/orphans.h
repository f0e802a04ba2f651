// Kernel objects of this installation that no row of the ledger speaks of.
//
// Purpose: after a lost ledger or a half-done removal; the owner is on the object (its alias), not in a database.
// Threading: before anything is served, so that no ADD is between its row and its objects.
// Errors: the first one, after everything was tried.
//
//   HK_RETURN_IF_ERROR(RemoveOrphans(identity, live, podnet, backend, ports));
#pragma once

#include <vector>

#include "node-agent/attach/details.h"
#include "node-agent/podnet/podnet.h"
#include "node-agent/ports/ports.h"
#include "node-agent/pu/backend.h"

namespace heterok8s::attach {

absl::Status RemoveOrphans(const Identity& identity, const std::vector<ledger::Attachment>& live,
                           podnet::PodNet& podnet, pu::Backend& backend, ports::Ports& ports);

}  // namespace heterok8s::attach
