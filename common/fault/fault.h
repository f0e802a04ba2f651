// Named places where a program can be made to fail, for the tests that kill it at each step of its journal.
//
// Purpose: HK_FAULT_POINT("host.add.after-ledger") in a function that returns Status or StatusOr. Nothing happens there
// unless the point is armed, at start from the environment:
//   HETEROK8S_FAULT="host.add.after-ledger=kill"            SIGKILL to this process, as kill -9 would
//   HETEROK8S_FAULT="host.add.after-ledger=error@3"         the third pass returns kInternal; others go through
//   HETEROK8S_FAULT="a=delay:200,b=error"                   200 ms; several points, by comma
// Every point of the binary is registered before main(), whether its code runs or not: `heterod --list-fault-points`.
// Threading: thread-safe. Ownership: points are static and live as long as the program. Costs one relaxed load and a
// branch while nothing is armed. Errors: kInvalidArgument for a specification that does not parse or names a point that
// this binary does not have.
//
//   if (absl::Status armed = fault::ArmFromEnvironment(); !armed.ok()) return Fail(armed);   // in main
//   HK_FAULT_POINT("host.add.after-ledger");                                                 // in the journal
//   if (done.ok()) done = fault::Pass<"host.add.after-ledger">();                            // where none is returned
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status/status.h"

namespace heterok8s::fault {

// All names in this binary, sorted.
std::vector<std::string> List();

// Arms the points of `specification` (grammar above) on top of those already armed.
absl::Status Arm(std::string_view specification);
// Arm($HETEROK8S_FAULT); OK when it is unset or empty.
absl::Status ArmFromEnvironment();
void DisarmAll();

// Arms `name` for the scope's life: `action` runs at the `nth` pass (0: at every one) and its Status is the point's
// result. What a test uses to see, or to become, the crash. Aborts when the binary has no such point.
class ScopedAction {
 public:
  ScopedAction(std::string name, std::function<absl::Status()> action, unsigned nth = 0);
  ~ScopedAction();
  ScopedAction(const ScopedAction&) = delete;
  ScopedAction& operator=(const ScopedAction&) = delete;

 private:
  std::string name_;
};

namespace internal {

class Point {
 public:
  explicit Point(const char* name);  // registers
  absl::Status Pass() {
    if (!armed_.load(std::memory_order_relaxed)) [[likely]]
      return absl::OkStatus();
    return PassArmed();
  }
  const char* name() const { return name_; }
  void set_armed(bool armed) { armed_.store(armed, std::memory_order_relaxed); }

 private:
  absl::Status PassArmed();

  const char* name_;
  std::atomic<bool> armed_{false};
};

template <size_t N>
struct Literal {
  constexpr Literal(const char (&text)[N]) { std::copy_n(text, N, chars); }
  char chars[N];
};

// One object per name however often the name is used. Being a static member of a template that is used, it is
// constructed before main() even when the code around its use never runs; that is what makes List() complete.
template <Literal name>
struct Registered {
  static inline Point point{name.chars};
};

}  // namespace internal

// The point as a value: OK unless it is armed to fail.
template <internal::Literal name>
absl::Status Pass() {
  return internal::Registered<name>::point.Pass();
}

}  // namespace heterok8s::fault

#define HK_FAULT_POINT(name) HK_RETURN_IF_ERROR(::heterok8s::fault::Pass<name>())
