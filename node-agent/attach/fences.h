// Generations that were removed, so that a Prepare that was overtaken by its Remove cannot bring them back.
//
// Purpose: the host gives up on a Prepare at its deadline and sends Remove; the Prepare may still be on its way. In
// memory only: a request cannot outlive the process that received it. Entries are kept for much longer than any call
// lives, then dropped.
// Threading: thread-safe. Errors: none.
//
//   fences_.Raise(pod.pod_key, pod.generation);
//   if (fences_.Refuses(request.pod_key, request.generation)) …
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace heterok8s::attach {

class Fences {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::minutes kKeep{10};

  void Raise(const std::string& pod_key, uint64_t generation, Clock::time_point now = Clock::now()) {
    std::lock_guard lock(mutex_);
    if (now - swept_ > kKeep) {
      std::erase_if(fences_, [&](const auto& entry) { return now - entry.second.raised > kKeep; });
      swept_ = now;
    }
    Fence& fence = fences_[pod_key];
    if (generation >= fence.generation) fence = {generation, now};
  }

  bool Refuses(const std::string& pod_key, uint64_t generation) const {
    std::lock_guard lock(mutex_);
    auto fence = fences_.find(pod_key);
    return fence != fences_.end() && generation <= fence->second.generation;
  }

  size_t size() const {
    std::lock_guard lock(mutex_);
    return fences_.size();
  }

 private:
  struct Fence {
    uint64_t generation = 0;
    Clock::time_point raised;
  };
  mutable std::mutex mutex_;
  std::map<std::string, Fence> fences_;  // both guarded by mutex_
  Clock::time_point swept_ = Clock::now();
};

}  // namespace heterok8s::attach
