// heterod --config FILE: the node agent. Runs until SIGTERM or SIGINT; Pods keep running without it.
//
// Exit code: 0 after a signal, 1 when it cannot start or its disk fails (stderr says why), 2 for wrong usage.
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>

#include "common/fault/fault.h"
#include "common/sys/heap.h"
#include "common/sys/notify.h"
#include "common/tls/grpc_log.h"
#include "common/version/version.h"
#include "node-agent/heterod.h"
#include "node-agent/start.h"

namespace heterok8s::agent {
namespace {

int Fail(const absl::Status& status) {
  spdlog::critical("{}", ToString(status));
  return 1;
}

// Often enough that what a burst of Pods took is back before anybody looks; a look costs some microseconds.
constexpr std::chrono::seconds kTrimEvery{10};

int Main(int argc, char** argv) {
  sys::BoundArenas();
  std::string config_path;
  bool check_only = false, list_fault_points = false, show_version = false;
  CLI::App app("The node agent of HeteroK8s: one per processing unit.", "heterod");
  app.add_option("--config", config_path, "heterod.yaml");
  app.add_flag("--check-config", check_only, "Say what is wrong with the config and its certificates, and exit");
  app.add_flag("--list-fault-points", list_fault_points, "Print the names of HETEROK8S_FAULT, and exit");
  app.add_flag("--version", show_version, "Print the version, and exit");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (show_version) {
    fmt::print("heterod {}\n", kVersion);
    return 0;
  }
  if (list_fault_points) {
    for (const std::string& name : fault::List()) fmt::print("{}\n", name);
    return 0;
  }
  if (config_path.empty()) {
    fmt::print(stderr, "--config is required\n");
    return 2;
  }

  // Before any thread: they all inherit the mask, and the signal waits for sigtimedwait below.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
  if (absl::Status armed = fault::ArmFromEnvironment(); !armed.ok()) return Fail(armed);

  absl::StatusOr<config::HeterodConfig> config = config::LoadHeterodConfig(config_path);
  if (!config.ok()) return Fail(config.status());
  spdlog::set_level(spdlog::level::from_str(config->log_level));
  spdlog::flush_on(spdlog::level::info);
  tls::TakeGrpcLog();
  if (check_only) {
    if (absl::Status checked = CheckConfig(*config); !checked.ok()) return Fail(checked);
    fmt::print("{}: ok\n", config_path);
    return 0;
  }
  if (absl::Status dropped = DropCapabilities(); !dropped.ok()) return Fail(dropped);

  absl::StatusOr<std::unique_ptr<Heterod>> heterod = Heterod::Start(*config);
  if (!heterod.ok()) return Fail(heterod.status());
  sys::NotifyReady();
  const std::chrono::milliseconds period = sys::WatchdogPeriod(kTrimEvery);
  const timespec pause{.tv_sec = period.count() / 1000, .tv_nsec = period.count() % 1000 * 1000000};
  int signal_number = 0;
  while ((signal_number = sigtimedwait(&signals, nullptr, &pause)) < 0) {
    sys::TrimHeap();
    // Pods keep running, and the one that systemd starts instead knows by its own sync whether the disk is well again.
    if (absl::Status health = (*heterod)->Health(); !health.ok()) {
      spdlog::critical("{}: ending; Pods keep running", Message(health));
      sys::NotifyEnding();
      return 1;
    }
    sys::NotifyAlive();
  }
  sys::NotifyEnding();
  spdlog::info("signal {}: ending; Pods keep running", signal_number);
  heterod->reset();
  return 0;
}

}  // namespace
}  // namespace heterok8s::agent

int main(int argc, char** argv) { return heterok8s::agent::Main(argc, argv); }
