// `heteroctl pki init | rotate | show`: the certificates of one Node.
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterPki(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
