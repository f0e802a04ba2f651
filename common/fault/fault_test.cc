#include "common/fault/fault.h"

#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <chrono>

#include "common/testing/matchers.h"

namespace heterok8s::fault {
namespace {

using heterok8s::testing::HasCode;
using heterok8s::testing::Says;

absl::Status Journal() {
  HK_FAULT_POINT("fault-test.first");
  HK_FAULT_POINT("fault-test.second");
  return absl::OkStatus();
}

[[maybe_unused]] absl::StatusOr<int> NeverCalled() {
  HK_FAULT_POINT("fault-test.never-called");
  return 1;
}

struct Disarm {
  ~Disarm() { DisarmAll(); }
};

TEST_CASE("every point of the binary is listed before its code has run") {
  CHECK(List() == std::vector<std::string>{"fault-test.first", "fault-test.never-called", "fault-test.second"});
}

TEST_CASE("a point that is not armed does nothing") { CHECK_OK(Journal()); }

TEST_CASE("an armed error stops the journal at its point and says which") {
  Disarm disarm;
  REQUIRE_OK(Arm("fault-test.second=error"));

  CHECK_THAT(Journal(), Says("fault-test.second"));

  DisarmAll();
  CHECK_OK(Journal());
}

TEST_CASE("@N fails the N-th pass only") {
  Disarm disarm;
  REQUIRE_OK(Arm("fault-test.first=error@2"));

  CHECK_OK(Journal());
  CHECK_THAT(Journal(), HasCode(absl::StatusCode::kInternal));
  CHECK_OK(Journal());
}

TEST_CASE("several points are armed at once and a delay goes through") {
  Disarm disarm;
  REQUIRE_OK(Arm("fault-test.first=delay:20,fault-test.second=error"));

  auto start = std::chrono::steady_clock::now();
  CHECK_THAT(Journal(), Says("fault-test.second"));
  CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(20));
}

TEST_CASE("kill ends the process as kill -9 does") {
  pid_t child = fork();
  if (child == 0) {
    if (!Arm("fault-test.first=kill").ok()) _exit(2);
    (void)Journal();
    _exit(3);
  }

  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFSIGNALED(status));
  CHECK(WTERMSIG(status) == SIGKILL);
}

TEST_CASE("a specification that cannot work is refused with its text") {
  struct Case {
    const char* text;
    const char* says;
  };
  const Case cases[] = {
      {.text = "fault-test.first", .says = "no '='"},
      {.text = "fault-test.first=explode", .says = "'explode' is no action"},
      {.text = "fault-test.first=delay:soon", .says = "'delay:soon' is no action"},
      {.text = "fault-test.first=error@0", .says = "number from 1"},
      {.text = "no.such.point=kill", .says = "no such point"},
  };
  Disarm disarm;
  for (const Case& c : cases) {
    INFO(c.text);
    CHECK_THAT(Arm(c.text), Says(c.says));
    CHECK_THAT(Arm(c.text), HasCode(absl::StatusCode::kInvalidArgument));
  }
}

TEST_CASE("a scoped action decides the point's result and ends with its scope") {
  {
    ScopedAction scoped("fault-test.first", [] { return absl::AbortedError("by the test"); });
    CHECK_THAT(Journal(), HasCode(absl::StatusCode::kAborted));
  }
  CHECK_OK(Journal());
}

TEST_CASE("where no Status is returned the point is a value") {
  CHECK_OK(Pass<"fault-test.first">());

  ScopedAction scoped("fault-test.first", [] { return absl::AbortedError("by the test"); });
  CHECK_THAT(Pass<"fault-test.first">(), HasCode(absl::StatusCode::kAborted));
}

}  // namespace
}  // namespace heterok8s::fault
