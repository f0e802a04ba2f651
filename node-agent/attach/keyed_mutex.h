// One lock per key: calls for the same Pod wait for each other, calls for different Pods do not.
//
// Threading: thread-safe. Ownership: an entry lives while somebody holds or awaits it.
// Errors: kUnavailable when the lock is not free within the timeout; the text names the key.
//
//   HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, mutex_.Lock(pod_key, kPodLockTimeout));
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "common/status/status.h"

namespace heterok8s::attach {

class KeyedMutex {
 public:
  class Guard {
   public:
    Guard(Guard&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), key_(std::move(other.key_)) {}
    Guard& operator=(Guard&&) = delete;
    ~Guard() {
      if (owner_ != nullptr) owner_->Unlock(key_);
    }

   private:
    friend class KeyedMutex;
    Guard(KeyedMutex* owner, std::string key) : owner_(owner), key_(std::move(key)) {}

    KeyedMutex* owner_;
    std::string key_;
  };

  absl::StatusOr<Guard> Lock(const std::string& key, std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    Entry& entry = entries_[key];  // stays where it is while there are users
    ++entry.users;
    if (!entry.freed.wait_for(lock, timeout, [&] { return !entry.held; })) {
      Leave(key);
      return absl::UnavailableError(
          fmt::format("another call for Pod {} is still running after {} ms", key, timeout.count()));
    }
    entry.held = true;
    return Guard(this, key);
  }

 private:
  struct Entry {
    bool held = false;
    int users = 0;  // the holder and those who wait
    std::condition_variable freed;
  };

  void Unlock(const std::string& key) {
    std::lock_guard lock(mutex_);
    Entry& entry = entries_.find(key)->second;
    entry.held = false;
    entry.freed.notify_one();
    Leave(key);
  }

  void Leave(const std::string& key) {  // with mutex_ held
    auto entry = entries_.find(key);
    if (--entry->second.users == 0) entries_.erase(entry);
  }

  std::mutex mutex_;
  std::map<std::string, Entry> entries_;  // guarded by mutex_
};

}  // namespace heterok8s::attach
