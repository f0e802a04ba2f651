#include "common/netlink/delete_link.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

namespace heterok8s::netlink {
namespace {

using std::chrono::steady_clock;

// The kernel's answer, given by the requesting thread to whoever still waits.
struct Answer {
  std::mutex mutex;
  std::condition_variable given;
  std::optional<absl::Status> status;
};

}  // namespace

absl::Status DeleteLinkSoon(std::unique_ptr<Netlink> requester, Netlink& observer, const Link& link) {
  constexpr auto kLimit = std::chrono::seconds(10);
  constexpr auto kLongestPause = std::chrono::microseconds(5000);
  auto answer = std::make_shared<Answer>();
  std::thread([requester = std::move(requester), index = link.index, answer] {
    absl::Status status = requester->Do(DeleteLink{index}, absl::StatusCode::kNotFound);
    std::lock_guard<std::mutex> lock(answer->mutex);
    answer->status = status;
    answer->given.notify_all();
  }).detach();

  auto deadline = steady_clock::now() + kLimit;
  auto pause = std::chrono::microseconds(200);
  while (true) {
    {
      std::unique_lock<std::mutex> lock(answer->mutex);
      if (answer->given.wait_for(lock, pause, [&] { return answer->status.has_value(); })) return *answer->status;
    }
    absl::StatusOr<Link> still = observer.FindLink(link.name);
    if (absl::IsNotFound(still.status()) || (still.ok() && still->index != link.index)) return absl::OkStatus();
    if (!still.ok()) return still.status();
    if (steady_clock::now() >= deadline) {
      return absl::DeadlineExceededError(
          fmt::format("link '{}' is still there {} s after its deletion", link.name, kLimit.count()));
    }
    pause = std::min(pause * 2, kLongestPause);
  }
}

}  // namespace heterok8s::netlink
