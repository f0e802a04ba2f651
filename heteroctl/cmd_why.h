// `heteroctl why POD`: where a Pod's containers run and why, who owns its ports, what was refused.
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterWhy(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
