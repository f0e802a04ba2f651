#include "node-agent/cri/tasks.h"

#include <system_error>
#include <thread>

namespace heterok8s::cri {

bool Tasks::Run(std::function<void()> task) {
  {
    std::lock_guard lock(mutex_);
    if (closed_ || running_ >= kMostAtOnce) return false;
    ++running_;
  }
  auto done = [this] {
    std::lock_guard lock(mutex_);
    --running_;
    changed_.notify_all();
  };
  try {
    std::thread([task = std::move(task), done]() mutable {
      task();
      task = nullptr;  // what it holds goes before the count says so
      done();
    }).detach();
  } catch (const std::system_error&) {
    done();
    return false;
  }
  return true;
}

void Tasks::Wait() {
  std::unique_lock lock(mutex_);
  closed_ = true;
  changed_.wait(lock, [this] { return running_ == 0; });
}

}  // namespace heterok8s::cri
