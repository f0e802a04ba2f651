// heterocri: the CRI router between kubelet and the runtimes of host and DPU. See README.md.
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <thread>

#include "common/version/version.h"
#include "node-agent/cri/daemon.h"

namespace {

using heterok8s::cri::Daemon;
using heterok8s::cri::HeterocriConfig;

int Fail(const absl::Status& status) {
  spdlog::error("{}", heterok8s::ToString(status));
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("CRI router between kubelet and the runtimes of host and DPU");
  std::string path = "/etc/heterok8s/heterocri.yaml";
  app.add_option("--config", path, "Configuration file");
  app.set_version_flag("--version", std::string("heterocri ") + heterok8s::kVersion);
  CLI11_PARSE(app, argc, argv);

  absl::StatusOr<HeterocriConfig> config = heterok8s::cri::LoadHeterocriConfig(path);
  if (!config.ok()) return Fail(config.status());
  spdlog::set_level(spdlog::level::from_str(config->log_level));

  // Before any thread: all of them leave these two to the one that waits for them.
  sigset_t ends;
  sigemptyset(&ends);
  sigaddset(&ends, SIGTERM);
  sigaddset(&ends, SIGINT);
  pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  std::signal(SIGPIPE, SIG_IGN);

  absl::StatusOr<std::shared_ptr<grpc::Channel>> dpu = heterok8s::cri::DpuChannel(*config);
  if (!dpu.ok()) return Fail(dpu.status());
  auto stopping = [] {
    sigset_t pending;
    sigpending(&pending);
    return sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1;
  };
  absl::StatusOr<std::unique_ptr<Daemon>> daemon = Daemon::Start(*config, *dpu, stopping);
  if (!daemon.ok()) return Fail(daemon.status());
  int signal = 0;
  sigwait(&ends, &signal);
  spdlog::info("signal {}: ending", signal);
  (*daemon)->Stop();
  return 0;
}
