// `heteroctl version`.
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterVersion(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
