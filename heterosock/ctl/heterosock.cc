// heterosock run [--library FILE] [--agent PATH] [-q] -- CMD ARGS…: runs a program, unchanged, with hetero-socket.
//
// Exit code: the program's; 2 for wrong usage, 127 when it cannot be started (stderr says why).
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "common/version/version.h"
#include "heterosock/ctl/launch.h"

namespace heterok8s::heterosock::ctl {
namespace {

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

int Run(LaunchOptions options, bool quiet) {
  std::error_code error;
  options.own_folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.emplace_back(*entry);
  absl::StatusOr<Launch> launch = PlanLaunch(options, environment);
  if (!launch.ok()) {
    fmt::print(stderr, "heterosock: {}\n", Message(launch.status()));
    return 127;
  }
  for (const std::string& warning : launch->warnings) {
    if (!quiet) fmt::print(stderr, "heterosock: {}\n", warning);
  }
  execve(launch->program.c_str(), Pointers(options.argv).data(), Pointers(launch->environment).data());
  fmt::print(stderr, "heterosock: run '{}': {}\n", launch->program, strerror(errno));
  return 127;
}

}  // namespace
}  // namespace heterok8s::heterosock::ctl

int main(int argc, char** argv) {
  using namespace heterok8s;
  heterosock::ctl::LaunchOptions options;
  bool quiet = false;
  CLI::App app("Runs programs, unchanged, with their TCP connections on shared memory where that is possible.",
               "heterosock");
  app.set_version_flag("--version", std::string(kVersion));
  CLI::App* run = app.add_subcommand("run", "heterosock run [options] -- CMD ARGS…");
  run->add_option("--library", options.library, "libheterosock.so (HETEROSOCK_LIBRARY)");
  run->add_option("--agent", options.agent, "heterosockd's socket (HETEROSOCK_AGENT)");
  run->add_flag("-q,--quiet", quiet, "Do not say why a program will stay on TCP");
  run->add_option("command", options.argv, "The program and its arguments")->required();
  run->positionals_at_end();
  app.require_subcommand(1);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return heterosock::ctl::Run(options, quiet);
}
