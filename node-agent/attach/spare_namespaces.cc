#include "node-agent/attach/spare_namespaces.h"

#include <sys/resource.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "common/sys/unbound_netns.h"

namespace heterok8s::attach {
namespace {

using Clock = std::chrono::steady_clock;

// Longer than the rest of the attach that has taken the spare one: making a namespace holds locks that it needs.
constexpr std::chrono::milliseconds kRefillDelay{50};

// Pods come in pairs more often than not: the next one soon after the first.
constexpr size_t kSpare = 2;

// What `furnish` writes may keep a CPU busy until a lock is free (sys::EnsureSysctl), and nobody waits for it.
constexpr int kLowestPriority = 19;

class SpareNamespaces : public Namespaces {
 public:
  SpareNamespaces(std::unique_ptr<Namespaces> kernel, Furnish furnish)
      : kernel_(std::move(kernel)), furnish_(std::move(furnish)), refill_([this] { Refill(); }) {}
  ~SpareNamespaces() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    changed_.notify_all();
    refill_.join();
  }

  absl::StatusOr<sys::NetnsRef> Open(const std::string& path) override { return kernel_->Open(path); }

  absl::StatusOr<sys::NetnsRef> Ensure(const std::string& path) override {
    absl::StatusOr<sys::NetnsRef> present = kernel_->Open(path);
    if (!absl::IsNotFound(present.status())) return present;
    std::optional<sys::NetnsRef> spare = Take();
    return spare.has_value() ? sys::BindNetns(*spare, path) : kernel_->Ensure(path);
  }

  absl::Status Delete(const std::string& path) override { return kernel_->Delete(path); }
  absl::StatusOr<std::vector<std::string>> List(const std::string& folder) override { return kernel_->List(folder); }

 private:
  std::optional<sys::NetnsRef> Take() {
    std::lock_guard lock(mutex_);
    asked_ = Clock::now();
    changed_.notify_all();
    if (spare_.empty()) return std::nullopt;
    sys::NetnsRef taken = std::move(spare_.back());
    spare_.pop_back();
    return taken;
  }

  absl::StatusOr<sys::NetnsRef> Make() {
    HK_ASSIGN_OR_RETURN(sys::NetnsRef made, sys::CreateUnboundNetns());
    HK_RETURN_IF_ERROR(furnish_(made));
    return made;
  }

  void Refill() {
    setpriority(PRIO_PROCESS, 0, kLowestPriority);  // of this thread
    std::unique_lock lock(mutex_);
    while (!stop_) {
      if (spare_.size() >= kSpare) {
        changed_.wait(lock);
        continue;
      }
      // Not while others are asked for: in a burst of Pods each makes its own.
      const Clock::time_point due = asked_ + kRefillDelay;
      if (Clock::now() < due) {
        changed_.wait_until(lock, due);
        continue;
      }
      lock.unlock();
      absl::StatusOr<sys::NetnsRef> made = Make();
      lock.lock();
      if (made.ok()) {
        spare_.push_back(*std::move(made));
      } else {
        asked_ = Clock::now();  // not again at once
      }
    }
  }

  const std::unique_ptr<Namespaces> kernel_;
  const Furnish furnish_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<sys::NetnsRef> spare_;  // guarded by mutex_, as the next two
  Clock::time_point asked_{};         // when a namespace was last asked for
  bool stop_ = false;
  std::thread refill_;  // last: it uses all of the above
};

}  // namespace

std::unique_ptr<Namespaces> NewSpareNamespaces(std::unique_ptr<Namespaces> kernel, Furnish furnish) {
  return std::make_unique<SpareNamespaces>(std::move(kernel), std::move(furnish));
}

}  // namespace heterok8s::attach
