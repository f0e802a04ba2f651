// `heteroctl status`: how the Node's two heterods are.
//
// Threading: the main thread. Ownership: `context` outlives `app`, whose callbacks borrow it. Errors: the action's
// Status, which main() prints; exit code 1 also when a heterod is not ready.
//
//   RegisterStatus(app, context);  // see command.h
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterStatus(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
