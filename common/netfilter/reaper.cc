#include "common/netfilter/reaper.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

namespace heterok8s::netfilter {
namespace {

class Reaper {
 public:
  void Add(std::function<void()> close) {
    {
      std::lock_guard lock(mutex_);
      queue_.push_back({std::chrono::steady_clock::now() + kCloseDelay, std::move(close)});
    }
    wake_.notify_one();
  }

 private:
  struct Item {
    std::chrono::steady_clock::time_point due;
    std::function<void()> close;
  };

  void Loop() {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return !queue_.empty(); });
      std::chrono::steady_clock::time_point due = queue_.front().due;
      lock.unlock();
      std::this_thread::sleep_until(due);
      lock.lock();
      std::function<void()> close = std::move(queue_.front().close);
      queue_.pop_front();
      lock.unlock();
      close();
      close = nullptr;  // what it holds ends here too, not under the lock
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Item> queue_;                  // by `due`, since the delay is always the same
  std::thread thread_{[this] { Loop(); }};  // last: it uses all of the above
};

}  // namespace

void CloseLater(std::function<void()> close) {
  static Reaper* reaper = new Reaper;  // never destroyed: its thread works until the process ends
  reaper->Add(std::move(close));
}

}  // namespace heterok8s::netfilter
