// `heteroctl lab up | down | list | exec | start | stop | kill`, and lab-init, which only `lab up` calls.
#pragma once

#include "heteroctl/command.h"

namespace heterok8s::ctl {

void RegisterLab(CLI::App& app, Context& context);

}  // namespace heterok8s::ctl
