// Waiting for an event that nothing announces, in tests.
//
// Purpose: a condition that another thread, another process or the kernel makes true is asked again until it holds. The
// limit says when a test has failed, not what is expected: on a machine short of processors seconds pass between two
// lines. Threading: asks on the caller's thread. Ownership: borrows `condition` for the call. Errors: false when the
// time was over.
//
//   REQUIRE(Eventually([&] { return lease.state().word == Word::kAlive; }));
#pragma once

#include <chrono>
#include <functional>
#include <thread>

namespace heterok8s::testing {

inline constexpr std::chrono::seconds kPatience{60};

inline bool Eventually(const std::function<bool()>& condition, std::chrono::milliseconds patience = kPatience) {
  const auto give_up = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

}  // namespace heterok8s::testing
