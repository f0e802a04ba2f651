// `heteroctl version`: which version this program is.
//
// Threading: the main thread. Ownership: `context` outlives `app`, whose callbacks borrow it. Errors: the action's
// Status, which main() prints; none of its own.
//
//   RegisterVersion(app, context);  // see command.h
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterVersion(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
