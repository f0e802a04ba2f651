// `heteroctl why POD`: where a Pod's containers run and why, who owns its ports, what was refused.
//
// Threading: the main thread. Ownership: `context` outlives `app`, whose callbacks borrow it. Errors: the action's
// Status, which main() prints; a daemon that does not answer is a warning while another knows the Pod.
//
//   RegisterWhy(app, context);  // see command.h
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterWhy(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
