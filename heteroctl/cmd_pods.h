// `heteroctl run | ps | logs | exec | rm`: Pods on this Node, through any CRI socket.
//
// Threading: the main thread. Ownership: `context` outlives `app`, whose callbacks borrow it. Errors: the action's
// Status, which main() prints; `exec` returns the exit code of its command.
//
//   RegisterRun(app, context);  // see command.h
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterRun(CLI::App& app, Context& context);
void RegisterPs(CLI::App& app, Context& context);
void RegisterLogs(CLI::App& app, Context& context);
void RegisterExec(CLI::App& app, Context& context);
void RegisterRm(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
