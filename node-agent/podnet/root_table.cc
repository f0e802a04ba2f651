#include "node-agent/podnet/root_table.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <iterator>

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
  unfilled_.erase(spec.pod_key);
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
  unfilled_.erase(pod_key);
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
    spdlog::warn("nft table '{}' was gone, with its guard and host ports: made again, for {} Pods",
                 HostPortTable(instance_), specs_.size());
    for (const auto& [pod_key, spec] : specs_) unfilled_.insert(pod_key);
    failures_ = rest_ = 0;
  }
  FillLocked();
  return missing;
}

void RootTable::FillLocked() {
  if (unfilled_.empty() || rest_-- > 0) return;
  for (auto pod_key = unfilled_.begin(); pod_key != unfilled_.end();) {
    const absl::Status filled = EnsureHostPorts(instance_, specs_[*pod_key]);
    if (!filled.ok() && failures_ == 0) spdlog::error("{}: not back in the table; tried again", Message(filled));
    pod_key = filled.ok() ? unfilled_.erase(pod_key) : std::next(pod_key);
  }
  // A Pod that cannot be served costs each attempt a look at all routes and sets, under the lock that ADD needs.
  rest_ = unfilled_.empty() ? 0 : (1 << std::min(failures_++, 6)) - 1;
}

}  // namespace heterok8s::podnet
