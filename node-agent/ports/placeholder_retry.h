// When to try again to hold a port that a socket of this side has.
//
// Purpose: a program that has the port in this moment, such as one that looks for a free one, mostly lets go of it
// within microseconds; one that keeps it may do so for days. Threading, ownership, errors: none; a value.
//
//   if (retry.IsDue(now_ns) && !Hold(port)) retry.Failed(now_ns);
#pragma once

#include <algorithm>
#include <cstdint>

namespace heterok8s::ports {

struct Retry {
  static constexpr uint64_t kFirstNs = 100'000, kLongestNs = 1'000'000'000;

  // `now_ns`: CLOCK_MONOTONIC. A failure before its time changes nothing.
  void Failed(uint64_t now_ns) {
    if (!IsDue(now_ns)) return;
    wait_ns = std::clamp(2 * wait_ns, kFirstNs, kLongestNs);
    at_ns = now_ns + wait_ns;
  }
  bool IsDue(uint64_t now_ns) const { return now_ns >= at_ns; }

  uint64_t wait_ns = 0, at_ns = 0;
};

}  // namespace heterok8s::ports
