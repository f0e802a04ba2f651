// A thread that does one job when it is asked to, and again later when the job did not succeed.
//
// Threading: Poke() from any thread; the job runs on this object's own thread, one run at a time. The destructor waits
// for a run in progress, which must therefore have a deadline of its own.
// A job of many steps asks stopping() between two of them. Errors: a failed run is repeated after `retry`; the job
// itself logs.
//
//   Background resync([this] { return Resync(); }, options.retry_interval);
//   resync.Poke();
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "common/status/status.h"

namespace heterok8s::attach {

class Background {
 public:
  Background(std::function<absl::Status()> job, std::chrono::milliseconds retry)
      : job_(std::move(job)), retry_(retry), thread_([this] { Run(); }) {}
  ~Background() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }

  void Poke() {
    {
      std::lock_guard lock(mutex_);
      wanted_ = true;
    }
    wake_.notify_one();
  }

  bool stopping() const {
    std::lock_guard lock(mutex_);
    return stop_;
  }

 private:
  void Run() {
    std::unique_lock lock(mutex_);
    bool failed = false;
    for (;;) {
      auto called = [this] { return wanted_ || stop_; };
      if (failed) {
        wake_.wait_for(lock, retry_, called);
      } else {
        wake_.wait(lock, called);
      }
      if (stop_) return;
      wanted_ = false;
      lock.unlock();
      failed = !job_().ok();
      lock.lock();
    }
  }

  const std::function<absl::Status()> job_;
  const std::chrono::milliseconds retry_;
  mutable std::mutex mutex_;
  std::condition_variable wake_;
  bool wanted_ = false, stop_ = false;  // guarded by mutex_
  std::thread thread_;                  // last: it uses all of the above
};

}  // namespace heterok8s::attach
