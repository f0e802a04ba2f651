#include "heteroctl/cmd_version.h"

#include <fmt/format.h>

#include "common/version/version.h"

namespace heterok8s::ctl {

void RegisterVersion(CLI::App& app, Context& context) {
  CLI::App* sub = app.add_subcommand("version", "Print the version of this program");
  sub->callback([&context] {
    context.action = [&context]() -> absl::StatusOr<int> {
      if (context.output.json()) {
        context.output.Print(nlohmann::json{{"version", kVersion}});
      } else {
        context.output.Line(fmt::format("heteroctl {}", kVersion));
      }
      return 0;
    };
  });
}

}  // namespace heterok8s::ctl
