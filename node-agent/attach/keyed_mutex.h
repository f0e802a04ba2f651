// One lock per key: calls for the same Pod wait for each other, calls for different Pods do not.
//
// Threading: thread-safe. Ownership: an entry lives while somebody holds or awaits it.
// Errors: kUnavailable when the lock is not free within the timeout; the text names the key.
//
//   HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, mutex_.Lock(pod_key, kPodLockTimeout));
#pragma once

#include <fmt/format.h>

#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "common/status/status.h"

namespace heterok8s::attach {

class KeyedMutex {
  struct Entry {
    std::timed_mutex mutex;
    int users = 0;  // guarded by KeyedMutex::mutex_
  };

 public:
  class Guard {
   public:
    Guard(Guard&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), key_(std::move(other.key_)), entry_(other.entry_) {}
    Guard& operator=(Guard&&) = delete;
    ~Guard() {
      if (owner_ == nullptr) return;
      entry_->mutex.unlock();
      owner_->Leave(key_);
    }

   private:
    friend class KeyedMutex;
    Guard(KeyedMutex* owner, std::string key, Entry* entry) : owner_(owner), key_(std::move(key)), entry_(entry) {}

    KeyedMutex* owner_;
    std::string key_;
    Entry* entry_;
  };

  absl::StatusOr<Guard> Lock(const std::string& key, std::chrono::milliseconds timeout) {
    Entry* entry = nullptr;
    {
      std::lock_guard lock(mutex_);
      std::unique_ptr<Entry>& slot = entries_[key];
      if (slot == nullptr) slot = std::make_unique<Entry>();
      entry = slot.get();
      ++entry->users;
    }
    if (!entry->mutex.try_lock_for(timeout)) {
      Leave(key);
      return absl::UnavailableError(
          fmt::format("another call for Pod {} is still running after {} ms", key, timeout.count()));
    }
    return Guard(this, key, entry);
  }

 private:
  void Leave(const std::string& key) {
    std::lock_guard lock(mutex_);
    auto it = entries_.find(key);
    if (--it->second->users == 0) entries_.erase(it);
  }

  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<Entry>> entries_;
};

}  // namespace heterok8s::attach
