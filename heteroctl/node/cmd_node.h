// `heteroctl node enable | disable | check`: heterocri between kubelet and its runtime.
//
// Threading: the main thread. Ownership: `context` outlives `app`, whose callbacks borrow it. Errors: the action's
// Status, which main() prints; `check` returns 1 when something is not in order.
//
//   RegisterNode(app, context);  // see command.h
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterNode(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
