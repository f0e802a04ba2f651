// `heteroctl run | ps | logs | exec | rm`: Pods on this Node, through any CRI socket.
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterRun(CLI::App& app, Context& context);
void RegisterPs(CLI::App& app, Context& context);
void RegisterLogs(CLI::App& app, Context& context);
void RegisterExec(CLI::App& app, Context& context);
void RegisterRm(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
