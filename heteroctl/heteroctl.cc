// The command line of HeteroK8s. Each subcommand lives in a file of its own; this one only collects them.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <string_view>

#include "heteroctl/cmd_pki.h"
#include "heteroctl/cmd_pods.h"
#include "heteroctl/cmd_status.h"
#include "heteroctl/cmd_version.h"
#include "heteroctl/cmd_why.h"
#include "heteroctl/command.h"
#include "heteroctl/lab/cmd_lab.h"
#include "heteroctl/node/cmd_node.h"

namespace heterok8s::ctl {
namespace {

// Whether -o json is among the program's own words. The parser cannot say when it has just failed.
bool AsksForJson(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--") return false;
    if (word == "-ojson" || word == "--output=json") return true;
    if ((word == "-o" || word == "--output") && i + 1 < argc && std::string_view(argv[i + 1]) == "json") return true;
  }
  return false;
}

// Exit code 2, and the words of the error in the form that was asked for.
int WrongUsage(const Context& context, const CLI::App& app, const CLI::ParseError& error) {
  if (error.get_exit_code() == 0) return app.exit(error);  // --help
  if (context.output.json()) {
    context.output.Error(
        WithHint(absl::InvalidArgumentError(error.what()), "heteroctl COMMAND --help lists the flags"));
  } else {
    app.exit(error);
  }
  return 2;
}

int Main(int argc, char** argv) {
  Context context;
  if (AsksForJson(argc, argv)) context.output.format = Format::kJson;
  std::string format = "text";

  CLI::App app("One Pod over host and DPU: run, look, explain, repair.", "heteroctl");
  app.require_subcommand(0, 1);  // none is our own error below; CLI11's would hide that a name is misspelt
  app.fallthrough();             // the program's own flags may follow the subcommand
  app.option_defaults()->always_capture_default(false);
  app.add_option("-o,--output", format, "text or json; errors are then objects on stderr")
      ->check(CLI::IsMember({"text", "json"}));
  app.add_option("--lab", context.endpoint_flags.lab, "Use the running lab of this name (HETEROK8S_LAB)");
  app.add_option("--host-socket", context.endpoint_flags.host_socket, "heterod on the host (HETEROK8S_HOST_SOCKET)");
  app.add_option("--dpu-socket", context.endpoint_flags.dpu_socket, "heterod on the DPU (HETEROK8S_DPU_SOCKET)");
  app.add_option("--cri-socket", context.endpoint_flags.cri_socket,
                 "heterocri, or any CRI runtime (HETEROK8S_CRI_SOCKET)");
  RegisterRun(app, context);
  RegisterPs(app, context);
  RegisterLogs(app, context);
  RegisterExec(app, context);
  RegisterRm(app, context);
  RegisterStatus(app, context);
  RegisterWhy(app, context);
  RegisterPki(app, context);
  RegisterLab(app, context);
  RegisterNode(app, context);
  RegisterVersion(app, context);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return WrongUsage(context, app, error);
  }
  context.output.format = format == "json" ? Format::kJson : Format::kText;
  if (!context.action) {
    if (context.output.json()) return WrongUsage(context, app, CLI::RequiredError("a command"));
    fmt::print(stderr, "{}", app.help());
    return 2;
  }

  absl::StatusOr<int> code = context.action();
  if (!code.ok()) {
    context.output.Error(code.status());
    return 1;
  }
  return *code;
}

}  // namespace
}  // namespace heterok8s::ctl

int main(int argc, char** argv) { return heterok8s::ctl::Main(argc, argv); }
