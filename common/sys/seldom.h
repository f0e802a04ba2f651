// Keeps what strangers can cause without end, mostly lines of the log, to once in a while.
//
// Purpose: a Pod or a peer that fails again and again is said once a minute; counters count on. Threading:
// thread-compatible. Ownership, errors: none.
//
//   if (warn_.Now()) spdlog::warn("pod {}: …", pod);
#pragma once

#include <chrono>
#include <optional>

namespace heterok8s::sys {

class Seldom {
 public:
  using Clock = std::chrono::steady_clock;

  Seldom() = default;
  explicit Seldom(Clock::duration pause) : pause_(pause) {}

  // True the first time, and then when `pause` has passed since it was last true.
  bool Now(Clock::time_point now = Clock::now()) {
    if (last_.has_value() && now - *last_ < pause_) return false;
    last_ = now;
    return true;
  }

 private:
  Clock::duration pause_ = std::chrono::minutes(1);
  std::optional<Clock::time_point> last_;
};

}  // namespace heterok8s::sys
