// `heteroctl lab up | down | list | exec | start | stop | kill`, and lab-init and lab-forward, which only `lab up`
// calls.
//
// Threading: the main thread. Ownership: `context` outlives `app`, whose callbacks borrow it. Errors: the action's
// Status, which main() prints; `lab exec` returns the exit code of its command.
//
//   RegisterLab(app, context);  // see command.h
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterLab(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
