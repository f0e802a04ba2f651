// What every subcommand gets: the output, where the daemons listen, and a slot for what it will do.
//
// A command is one pair of files cmd_NAME.{h,cc} with one function `void RegisterNAME(CLI::App& app, Context& context)`
// that adds its subcommand and sets `context.action` in the subcommand's callback. main() runs the action after all
// flags are parsed, prints its error and exits: 0 done, 1 failed, 2 wrong usage, or the code the action returned.
//
//   void RegisterPs(CLI::App& app, Context& context) {
//     CLI::App* sub = app.add_subcommand("ps", "List Pods and their containers");
//     auto all = std::make_shared<bool>(false);
//     sub->add_flag("-a,--all", *all, "Also those that have ended");
//     sub->callback([=, &context] { context.action = [=, &context] { return Ps(context, *all); }; });
//   }
//
// Flags of the whole program (-o, --lab, the sockets) may stand before or after the subcommand.
// Threading: the main thread. Ownership: main()'s Context outlives the CLI::App, whose callbacks borrow it.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

#include "common/status/status.h"
#include "heteroctl/endpoints.h"
#include "heteroctl/output.h"

namespace heterok8s::ctl {

// The exit code, or why it failed (exit code 1).
using Action = std::function<absl::StatusOr<int>()>;

struct Context {
  Output output;
  EndpointFlags endpoint_flags;
  Action action;
};

}  // namespace heterok8s::ctl
