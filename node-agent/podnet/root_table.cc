#include "node-agent/podnet/root_table.h"

#include <spdlog/spdlog.h>

#include "node-agent/podnet/hostports.h"

namespace heterok8s::podnet {

absl::Status RootTable::Prepare() {
  std::lock_guard lock(mutex_);
  HK_RETURN_IF_ERROR(PrepareHostPorts(instance_, guard_));
  prepared_ = true;
  return absl::OkStatus();
}

absl::Status RootTable::Ensure(const HostPortSpec& spec) {
  std::lock_guard lock(mutex_);
  absl::Status ensured = EnsureHostPorts(instance_, spec);
  if (absl::IsNotFound(ensured)) {
    HK_RETURN_IF_ERROR(MendLocked().status());
    ensured = EnsureHostPorts(instance_, spec);
  }
  HK_RETURN_IF_ERROR(ensured);
  if (spec.empty()) {
    specs_.erase(spec.pod_key);
  } else {
    specs_[spec.pod_key] = spec;
  }
  return absl::OkStatus();
}

absl::Status RootTable::Remove(const std::string& pod_key) {
  std::lock_guard lock(mutex_);
  specs_.erase(pod_key);
  return RemoveHostPorts(instance_, pod_key);
}

absl::StatusOr<bool> RootTable::Mend() {
  std::lock_guard lock(mutex_);
  return MendLocked();
}

absl::StatusOr<bool> RootTable::MendLocked() {
  if (!prepared_) return false;
  const absl::Status seen = ReadRefusedInRoot(instance_).status();
  const bool missing = absl::IsNotFound(seen);
  if (!missing) HK_RETURN_IF_ERROR(seen);
  if (missing) {
    ++generation_;
    const absl::Status made = PrepareHostPorts(instance_, guard_);
    ++generation_;
    HK_RETURN_IF_ERROR(made);
    ++remade_;
    to_fill_ = true;
    spdlog::warn("nft table '{}' was gone, with its guard and host ports: made again, for {} Pods",
                 HostPortTable(instance_), specs_.size());
  }
  if (!to_fill_) return missing;
  bool all = true;
  for (const auto& [pod_key, spec] : specs_) all &= EnsureHostPorts(instance_, spec).ok();
  to_fill_ = !all;
  return missing;
}

}  // namespace heterok8s::podnet
