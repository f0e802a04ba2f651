// `heteroctl pki init | rotate | show`: the certificates of one Node.
//
// Threading: the main thread. Ownership: `context` outlives `app`, whose callbacks borrow it. Errors: the action's
// Status, which main() prints; exit code 1 also when a certificate that is shown is not in order.
//
//   RegisterPki(app, context);  // see command.h
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterPki(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
