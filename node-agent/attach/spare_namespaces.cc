#include "node-agent/attach/spare_namespaces.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "common/sys/seldom.h"
#include "common/sys/unbound_netns.h"

namespace heterok8s::attach {
namespace {

using Clock = std::chrono::steady_clock;

// Longer than the rest of the attach that has taken the spare one: making a namespace holds locks that it needs.
constexpr std::chrono::milliseconds kRefillDelay{50};

// Pods come in pairs more often than not: the next one soon after the first.
constexpr size_t kSpare = 2;

constexpr std::chrono::milliseconds kFirstPause{50}, kLongestPause{30000};

class KernelSpareNamespaces final : public SpareNamespaces {
 public:
  KernelSpareNamespaces(std::unique_ptr<Namespaces> kernel, Furnish furnish)
      : kernel_(std::move(kernel)), furnish_(std::move(furnish)), refill_([this] { Refill(); }) {}
  ~KernelSpareNamespaces() override {
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

  Counters counters() const override {
    std::lock_guard lock(mutex_);
    return {.ready = spare_.size(), .failures = failures_};
  }

 private:
  std::optional<sys::NetnsRef> Take() {
    std::lock_guard lock(mutex_);
    due_ = std::max(due_, Clock::now() + kRefillDelay);
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
    sys::Seldom warn;
    int failed = 0;  // one after the other
    std::unique_lock lock(mutex_);
    while (!stop_) {
      if (spare_.size() >= kSpare) {
        changed_.wait(lock);
        continue;
      }
      // Not while others are asked for: in a burst of Pods each makes its own.
      if (Clock::now() < due_) {
        changed_.wait_until(lock, due_);
        continue;
      }
      lock.unlock();
      absl::StatusOr<sys::NetnsRef> made = Make();
      failed = made.ok() ? 0 : failed + 1;
      const std::chrono::milliseconds pause = made.ok() ? std::chrono::milliseconds(0) : PauseAfter(failed);
      if (!made.ok() && warn.Now()) {
        spdlog::warn("make the namespace of a DPU half ahead: {}; each half makes its own, trying again in {} ms",
                     Message(made.status()), pause.count());
      }
      lock.lock();
      if (made.ok()) {
        spare_.push_back(*std::move(made));
      } else {
        ++failures_;
        due_ = std::max(due_, Clock::now() + pause);
      }
    }
  }

  const std::unique_ptr<Namespaces> kernel_;
  const Furnish furnish_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<sys::NetnsRef> spare_;  // guarded by mutex_, as the next three
  Clock::time_point due_{};           // when the next one may be made
  uint64_t failures_ = 0;
  bool stop_ = false;
  std::thread refill_;  // last: it uses all of the above
};

}  // namespace

std::chrono::milliseconds SpareNamespaces::PauseAfter(int failures) {
  std::chrono::milliseconds pause = kFirstPause;
  for (int i = 1; i < failures && pause < kLongestPause; ++i) pause *= 2;
  return std::min(pause, kLongestPause);
}

std::unique_ptr<SpareNamespaces> NewSpareNamespaces(std::unique_ptr<Namespaces> kernel, Furnish furnish) {
  return std::make_unique<KernelSpareNamespaces>(std::move(kernel), std::move(furnish));
}

}  // namespace heterok8s::attach
