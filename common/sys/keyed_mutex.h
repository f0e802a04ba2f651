// One mutex per name, made when first wanted and gone when nobody holds or awaits it.
//
// Threading: thread-safe; waiters of one name are served in the order they came. Errors: kUnavailable after `patience`.
//
//   HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, attachments.Lock("podnet@c1@eth0", std::chrono::seconds(60)));
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include "common/status/status.h"

namespace heterok8s::sys {

class KeyedMutex {
 public:
  class Guard {
   public:
    Guard(KeyedMutex& owner, std::string name) : owner_(&owner), name_(std::move(name)) {}
    Guard(Guard&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), name_(std::move(other.name_)) {}
    Guard& operator=(Guard&&) = delete;
    ~Guard() {
      if (owner_ != nullptr) owner_->Release(name_);
    }

   private:
    KeyedMutex* owner_;
    std::string name_;
  };

  absl::StatusOr<Guard> Lock(const std::string& name, std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    Line& line = lines_[name];
    const uint64_t ticket = line.next_ticket++;
    if (changed_.wait_for(lock, patience, [&] { return line.serving == ticket; })) return Guard(*this, name);
    line.given_up.insert(ticket);
    return absl::UnavailableError(
        fmt::format("another call for '{}' has not ended within {} ms", name, patience.count()));
  }

 private:
  struct Line {
    uint64_t next_ticket = 0, serving = 0;
    std::set<uint64_t> given_up;  // tickets whose holders wait no more
  };

  void Release(const std::string& name) {
    std::lock_guard lock(mutex_);
    auto it = lines_.find(name);
    Line& line = it->second;
    do {
      ++line.serving;
    } while (line.given_up.erase(line.serving) != 0);
    if (line.serving == line.next_ticket) lines_.erase(it);
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Line> lines_;  // references stay valid while others come and go
};

}  // namespace heterok8s::sys
