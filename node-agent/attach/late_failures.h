// Why halves failed after their Prepare was answered, until the host asks for them by Commit.
//
// Purpose: Prepare is answered before all of the half is made; what goes wrong then is undone at once, and this is what
// is left of it. In memory only: after a restart the Commit hears that there is no such half. Entries that nobody asks
// for are dropped after a while.
// Threading: thread-safe. Errors: none of its own.
//
//   late_failures_.Put(row.pod_key, row.generation, failed);
//   HK_RETURN_IF_ERROR(late_failures_.Take(pod.pod_key, pod.generation));
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "common/status/status.h"

namespace heterok8s::attach {

class LateFailures {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::minutes kKeep{10};  // much longer than any ADD lives

  void Put(const std::string& pod_key, uint64_t generation, absl::Status why, Clock::time_point now = Clock::now()) {
    std::lock_guard lock(mutex_);
    std::erase_if(failures_, [&](const auto& entry) { return now - entry.second.when > kKeep; });
    failures_[{pod_key, generation}] = {std::move(why), now};
  }

  // OK when there is none.
  absl::Status Take(const std::string& pod_key, uint64_t generation) {
    std::lock_guard lock(mutex_);
    auto found = failures_.find({pod_key, generation});
    if (found == failures_.end()) return absl::OkStatus();
    absl::Status why = std::move(found->second.why);
    failures_.erase(found);
    return why;
  }

  size_t size() const {
    std::lock_guard lock(mutex_);
    return failures_.size();
  }

 private:
  struct Failure {
    absl::Status why;
    Clock::time_point when;
  };
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, uint64_t>, Failure> failures_;  // guarded by mutex_
};

}  // namespace heterok8s::attach
