// One mutex per name, made when first wanted and gone when nobody holds or awaits it.
//
// Threading: thread-safe; waiters of one name are served in the order they came. Errors: none.
//
//   KeyedMutex::Lock lock = attachments.Acquire("podnet/c1/eth0");
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace heterok8s::cni_server {

class KeyedMutex {
 public:
  class Lock {
   public:
    Lock(KeyedMutex& owner, std::string name) : owner_(&owner), name_(std::move(name)) {}
    Lock(Lock&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), name_(std::move(other.name_)) {}
    Lock& operator=(Lock&&) = delete;
    ~Lock() {
      if (owner_ != nullptr) owner_->Release(name_);
    }

   private:
    KeyedMutex* owner_;
    std::string name_;
  };

  Lock Acquire(const std::string& name) {
    std::unique_lock lock(mutex_);
    Line& line = lines_[name];
    const uint64_t ticket = line.next_ticket++;
    changed_.wait(lock, [&] { return line.serving == ticket; });
    return Lock(*this, name);
  }

 private:
  struct Line {
    uint64_t next_ticket = 0, serving = 0;
  };

  void Release(const std::string& name) {
    std::lock_guard lock(mutex_);
    auto it = lines_.find(name);
    if (++it->second.serving == it->second.next_ticket) lines_.erase(it);
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Line> lines_;  // references stay valid while others come and go
};

}  // namespace heterok8s::cni_server
