#include "node-agent/attach/workers.h"

#include <system_error>

namespace heterok8s::attach {

Workers::~Workers() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wanted_.notify_all();
  // Whoever ends moves itself from one list to the other.
  while (true) {
    Threads ending;
    {
      std::unique_lock lock(mutex_);
      if (threads_.empty() && ended_.empty()) return;
      ended_changed_.wait(lock, [this] { return !ended_.empty(); });
      ending.swap(ended_);
    }
    for (std::thread& thread : ending) thread.join();
  }
}

void Workers::Post(std::packaged_task<void()> job) {
  Threads ended;
  {
    std::lock_guard lock(mutex_);
    ended.swap(ended_);
    if (idle_ > jobs_.size()) {
      jobs_.push_back(std::move(job));
      job = {};
    } else {
      auto self = threads_.emplace(threads_.end());
      try {
        *self = std::thread([this, self] { Work(self); });
        jobs_.push_back(std::move(job));
        job = {};
      } catch (const std::system_error&) {
        threads_.erase(self);
      }
    }
  }
  wanted_.notify_one();
  for (std::thread& thread : ended) thread.join();
  if (job.valid()) job();
}

void Workers::Work(Threads::iterator self) {
  std::unique_lock lock(mutex_);
  while (true) {
    if (jobs_.empty() && (stop_ || idle_ >= kKept)) break;
    ++idle_;
    wanted_.wait_for(lock, kRest, [this] { return stop_ || !jobs_.empty(); });
    --idle_;
    if (jobs_.empty()) break;  // nothing is left to do, or came for long
    std::packaged_task<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
    job = {};  // what it holds goes before it counts as done
    lock.lock();
  }
  ended_.splice(ended_.end(), threads_, self);
  ended_changed_.notify_one();
}

}  // namespace heterok8s::attach
