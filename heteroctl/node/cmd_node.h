// `heteroctl node enable|disable|check`: heterocri between kubelet and its runtime.
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterNode(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
