// heterosockctl status|fence|resume|trace: what heterosockd knows, and one thing to do about it.
//
// Exit code: 0 done, 1 failed (stderr says why), 2 wrong usage.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdlib>
#include <functional>

#include "common/json/whole.h"
#include "common/terminal/output.h"
#include "common/version/version.h"
#include "heterosock/ctl/admin_client.h"
#include "heterosock/ctl/show.h"

namespace heterok8s::heterosock::ctl {
namespace {

using nlohmann::json;
using terminal::Output;
using terminal::Style;

constexpr char kDefaultAdmin[] = "/run/heterosock/admin.sock";
constexpr char kAdminVariable[] = "HETEROSOCK_ADMIN";

int64_t NowMs() {
  using namespace std::chrono;
  return duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
}

absl::Status WithAdvice(const absl::Status& status) {
  if (absl::IsPermissionDenied(status)) return terminal::WithHint(status, "heterosockd answers root only: try sudo");
  if (absl::IsNotFound(status) || absl::IsUnavailable(status)) {
    return terminal::WithHint(status, "is heterosockd running? --admin PATH names another one's socket");
  }
  return status;
}

absl::Status Status(const Output& output, const std::string& admin, bool counters) {
  HK_ASSIGN_OR_RETURN(json status, Ask(admin, {{"command", "status"}, {"counters", counters}}));
  if (output.json()) {
    output.Print(status);
    return absl::OkStatus();
  }
  const auto section = [&](const char* title, const terminal::Table& table) {
    if (table.empty()) return;
    output.Line(fmt::format("\n{}", title), Style::kStrong);
    output.Print(table);
  };
  output.Line(Headline(status, NowMs()));
  section("mechanisms", MechanismTable(status));
  section("connections on shared memory", ConnectionTable(status, NowMs()));
  if (counters) section("counters", CounterTable(status));
  section("processes with the library", ProcessTable(status));
  section("limits", DomainTable(status));
  section("stayed on TCP (the last ones)", DeclineTable(status));
  return absl::OkStatus();
}

struct Which {
  uint64_t channel = 0;
  int pid = 0;
  bool all = false, stay = false;
};

// An agent of an earlier version knows nothing of staying, and says nothing of it.
bool Stays(const json& answer) { return answer.value("stays_on_tcp", json()) == json(true); }

absl::Status Fence(const Output& output, const std::string& admin, const Which& which) {
  const auto& [channel, pid, all, stay] = which;
  if ((channel != 0) + (pid != 0) + all != 1) {
    return absl::InvalidArgumentError("say which: --channel N, --pid N or --all");
  }
  json request = {{"command", "fence"}, {"stay", stay}};
  if (channel != 0) request["channel"] = channel;
  if (pid != 0) request["pid"] = pid;
  HK_ASSIGN_OR_RETURN(json answer, Ask(admin, request));
  HK_ASSIGN_OR_RETURN(const int count, Whole<int>(answer.value("fenced", json()), "fenced"));
  if (output.json()) {
    output.Print(answer);
  } else {
    output.Line(
        fmt::format("asked {} to go back to TCP", count == 1 ? "1 connection" : fmt::format("{} connections", count)));
    if (Stays(answer))
      output.Line("no other one moves until `heterosockctl resume`, or until heterosockd is restarted");
  }
  if (stay && !Stays(answer)) return absl::UnimplementedError("this heterosockd lets others move all the same");
  if (count == 0 && !all) return absl::NotFoundError("no such connection is on shared memory");
  return absl::OkStatus();
}

absl::Status Resume(const Output& output, const std::string& admin) {
  HK_ASSIGN_OR_RETURN(json answer, Ask(admin, {{"command", "resume"}}));
  if (output.json()) {
    output.Print(answer);
  } else {
    output.Line("connections may move to shared memory");
  }
  return absl::OkStatus();
}

absl::Status Trace(const Output& output, const std::string& admin) {
  return Follow(admin, [&](const json& event) {
    if (output.json()) {
      fmt::print("{}\n", event.dump());
      fflush(stdout);
    } else {
      output.Line(EventLine(event));
    }
    return !ferror(stdout);
  });
}

int Main(int argc, char** argv) {
  Output output;
  std::string format = "text", admin;
  std::function<absl::Status()> action;
  bool counters = false;
  Which which;

  CLI::App app("What hetero-socket does on this PU: who talks over what, and why not.", "heterosockctl");
  app.set_version_flag("--version", std::string(kVersion));
  app.require_subcommand(0, 1);
  app.fallthrough();
  app.add_option("-o,--output", format, "text or json")->check(CLI::IsMember({"text", "json"}));
  app.add_option("--admin", admin,
                 fmt::format("heterosockd's admin socket ({}, else {})", kAdminVariable, kDefaultAdmin));
  CLI::App* status = app.add_subcommand("status", "Connections, processes, limits, and what stayed on TCP");
  status->add_flag("--counters", counters, "Each end's counters as well");
  status->callback([&] { action = [&] { return Status(output, admin, counters); }; });
  CLI::App* fence = app.add_subcommand("fence", "Have connections go back to TCP");
  CLI::Option* one = fence->add_option("--channel", which.channel, "This one (a CHANNEL of status)");
  CLI::Option* process = fence->add_option("--pid", which.pid, "Those with an end in this process");
  CLI::Option* all = fence->add_flag("--all", which.all, "Every one");
  fence->add_flag("--stay", which.stay, "And none moves any more, until resume or heterosockd's restart")
      ->needs(all)
      ->excludes(one)
      ->excludes(process);
  fence->callback([&] { action = [&] { return Fence(output, admin, which); }; });
  CLI::App* resume = app.add_subcommand("resume", "Let connections move again after fence --all --stay");
  resume->callback([&] { action = [&] { return Resume(output, admin); }; });
  CLI::App* trace = app.add_subcommand("trace", "Follow offers, pairs, declines and ends as they happen");
  trace->callback([&] { action = [&] { return Trace(output, admin); }; });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!action) {
    fmt::print(stderr, "{}", app.help());
    return 2;
  }
  if (format == "json") output.format = terminal::Format::kJson;
  if (admin.empty()) {
    const char* variable = std::getenv(kAdminVariable);
    admin = variable != nullptr && *variable != '\0' ? variable : kDefaultAdmin;
  }
  absl::Status done = action();
  if (done.ok()) return 0;
  output.Error(WithAdvice(done));
  return 1;
}

}  // namespace
}  // namespace heterok8s::heterosock::ctl

int main(int argc, char** argv) { return heterok8s::heterosock::ctl::Main(argc, argv); }
