// `heteroctl status`: how the Node's two heterods are.
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterStatus(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
