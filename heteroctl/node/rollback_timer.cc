#include "heteroctl/node/rollback_timer.h"

#include <fmt/format.h>

namespace heterok8s::ctl {
namespace {

constexpr const char* kUnit = "heterok8s-node-rollback";
constexpr const char* kTimer = "heterok8s-node-rollback.timer";
constexpr const char* kService = "heterok8s-node-rollback.service";

}  // namespace

absl::Status RollbackTimer::Arm() {
  if (options_.own_program.empty()) return absl::OkStatus();
  const auto seconds = options_.ready_within.count() * 2 + 30;
  return machine_
      .Run({"systemd-run",
            "--collect",  // one that failed is not in the way of the next
            fmt::format("--unit={}", kUnit),
            fmt::format("--on-active={}", seconds),
            "--timer-property=AccuracySec=1s",  // by itself a timer may be a minute late
            options_.own_program,
            "node",
            "rollback",
            "--via",
            options_.via == Via::kKubelet ? "kubelet" : "socket",
            "--kubelet-unit",
            options_.kubelet_unit,
            "--runtime-unit",
            options_.runtime_unit,
            "--runtime-socket",
            options_.runtime_socket,
            "--node-name",
            options_.node_name,
            "--kubeconfig",
            options_.kubeconfig,
            "--healthz-port",
            std::to_string(options_.healthz_port)})
      .status();
}

bool RollbackTimer::IsArmed() {
  if (options_.own_program.empty()) return false;
  // While the service waits for an enable to end, or is about to begin, the timer counts as active too.
  return machine_.Systemctl({"is-active", "--quiet", kTimer}).ok();
}

void RollbackTimer::Disarm() {
  if (options_.own_program.empty()) return;
  machine_.Systemctl({"stop", kTimer}).IgnoreError();
  machine_.Systemctl({"stop", kService}).IgnoreError();
}

}  // namespace heterok8s::ctl
