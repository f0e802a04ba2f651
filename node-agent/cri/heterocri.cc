// heterocri: the CRI router between kubelet and the runtimes of host and DPU. See README.md.
#include <fmt/format.h>
#include <linux/capability.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <thread>

#include "common/fault/fault.h"
#include "common/sys/capabilities.h"
#include "common/sys/heap.h"
#include "common/sys/notify.h"
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
  std::string listen, host_socket;
  app.add_option("--listen", listen, "Instead of the file's `listen`");
  app.add_option("--host-socket", host_socket, "Instead of the file's `host.socket`");
  bool list_fault_points = false;
  app.add_flag("--list-fault-points", list_fault_points, "Print the names of HETEROK8S_FAULT, and exit");
  app.set_version_flag("--version", std::string("heterocri ") + heterok8s::kVersion);
  CLI11_PARSE(app, argc, argv);
  if (list_fault_points) {
    for (const std::string& name : heterok8s::fault::List()) fmt::print("{}\n", name);
    return 0;
  }
  if (absl::Status armed = heterok8s::fault::ArmFromEnvironment(); !armed.ok()) return Fail(armed);

  absl::StatusOr<HeterocriConfig> config = heterok8s::cri::LoadHeterocriConfig(path);
  if (!config.ok()) return Fail(config.status());
  if (!listen.empty()) config->listen = listen;
  if (!host_socket.empty()) config->host_socket = host_socket;
  spdlog::set_level(spdlog::level::from_str(config->log_level));

  heterok8s::sys::BoundArenas();
  // Volumes for the DPU belong to whom their Pod says, and are read here; all that is written is root's. A metrics port
  // may be below 1024.
  if (absl::Status kept = heterok8s::sys::KeepCapabilities({CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE}); !kept.ok())
    return Fail(kept);
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
  heterok8s::sys::NotifyReady();
  const std::chrono::milliseconds period = heterok8s::sys::WatchdogPeriod(std::chrono::seconds(10));
  const timespec pause = {.tv_sec = period.count() / 1000, .tv_nsec = period.count() % 1000 * 1000000};
  int signal = 0;
  while ((signal = sigtimedwait(&ends, nullptr, &pause)) < 0) {
    heterok8s::sys::TrimHeap();
    // Of one that answers nobody kubelet cannot say what is wrong; systemd can end it.
    if ((*daemon)->Answers()) heterok8s::sys::NotifyAlive();
  }
  heterok8s::sys::NotifyEnding();
  spdlog::info("signal {}: ending", signal);
  (*daemon)->Stop();
  return 0;
}
