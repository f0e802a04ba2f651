// Holding the other PU's ports.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "node-agent/ports/clock.h"
#include "node-agent/ports/placeholder_ports.h"

namespace heterok8s::ports {
namespace {

// Of one Pod at a time, while others wait: of the clock, not of a CPU.
constexpr uint64_t kRetriesNs = 1'000'000;

}  // namespace

// In the Pod's namespace.
void PlaceholderPorts::TryLocked(Pod& pod, const PortKey& key, Hold& hold) {
  absl::StatusOr<Placeholder> held = HoldPort(key);
  if (held.ok()) {
    hold.placeholder = *std::move(held);
    return;
  }
  hold.retry.Failed(MonotonicNs());
  pod.retry_at_ns = std::min(pod.retry_at_ns, hold.retry.at_ns);
  if (absl::IsAlreadyExists(held.status()) || !pod.warn_unheld.Now()) return;
  spdlog::warn("ports of Pod '{}': {}; bind is not refused here", pod.ports.pod_key, Message(held.status()));
}

// What cannot be held now, because a socket of this side has the port, is tried again when a claim on it closes, and
// less and less often in any case.
void PlaceholderPorts::HoldLocked(Pod& pod, const std::set<PortNumber>& numbers) {
  const auto is_missing = [&](const auto& entry) {
    return !entry.second.placeholder.has_value() && numbers.contains({entry.first.protocol, entry.first.port});
  };
  if (std::none_of(pod.remote.begin(), pod.remote.end(), is_missing)) return;
  const uint64_t planned = pod.retry_at_ns;
  absl::Status entered = sys::InNetns(pod.ns, [&] {
    for (auto& entry : pod.remote) {
      if (is_missing(entry)) TryLocked(pod, entry.first, entry.second);
    }
    return absl::OkStatus();
  });
  if (!entered.ok()) {
    spdlog::warn("ports of Pod '{}': {}", pod.ports.pod_key, Message(entered));
    pod.retry_at_ns = std::min(pod.retry_at_ns, MonotonicNs() + Retry::kLongestNs);
  }
  if (pod.retry_at_ns < planned) Wake();
}

// Within the time that the Pod's dumps have too: it may keep any number of ports that the other PU owns.
void PlaceholderPorts::RetryLocked(Pod& pod) {
  const uint64_t started = MonotonicNs(), used = CpuNs();
  if (started < pod.retry_at_ns || pod.budget_ns == 0) return;
  pod.retry_at_ns = UINT64_MAX;
  absl::Status entered = sys::InNetns(pod.ns, [&] {
    for (auto& [key, hold] : pod.remote) {
      if (hold.placeholder.has_value()) continue;
      if (hold.retry.IsDue(started) && MonotonicNs() < started + kRetriesNs) {
        TryLocked(pod, key, hold);
      } else {
        pod.retry_at_ns = std::min(pod.retry_at_ns, hold.retry.at_ns);
      }
    }
    return absl::OkStatus();
  });
  if (!entered.ok()) {
    if (pod.warn_unheld.Now()) spdlog::warn("ports of Pod '{}': {}", pod.ports.pod_key, Message(entered));
    pod.retry_at_ns = MonotonicNs() + Retry::kLongestNs;
  }
  pod.budget_ns -= std::min(pod.budget_ns, CpuNs() - used);
}

}  // namespace heterok8s::ports
