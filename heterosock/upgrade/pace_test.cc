#include "heterosock/upgrade/pace.h"

#include <catch2/catch.hpp>

namespace heterok8s::heterosock {
namespace {

constexpr uint64_t kMs = 1'000'000;

TEST_CASE("as many offers as the agent takes, for as long as there is room for their channels") {
  Pace pace;
  CHECK(pace.Allows(0, 0));
  CHECK(pace.Allows(1'000'000, 0));
  pace.Mapped();
  CHECK(pace.Allows(1'000'000, 0));
}

TEST_CASE("without room for a channel no offer is made for a while, a longer one each time") {
  Pace pace;
  uint64_t now = 5 * kMs;
  for (uint32_t pause : {1000u, 2000u, 4000u, 8000u, 16'000u, 32'000u, 60'000u, 60'000u}) {
    CAPTURE(pause);
    CHECK(pace.Allows(0, now));
    CHECK(pace.NoRoom(now));
    CHECK(pace.pause_ms() == pause);
    CHECK_FALSE(pace.Allows(0, now + (pause - 1) * kMs));
    now += pause * kMs;
  }
}

TEST_CASE("offers that were under way when the pause began do not prolong it") {
  Pace pace;
  CHECK(pace.NoRoom(0));
  CHECK_FALSE(pace.NoRoom(1));
  CHECK_FALSE(pace.NoRoom(2));
  CHECK(pace.pause_ms() == Pace::kFirstMs);
  CHECK(pace.Allows(0, Pace::kFirstMs * kMs));
}

TEST_CASE("after a pause one offer is under way at a time, and one more for each that found room") {
  Pace pace;
  pace.NoRoom(0);
  const uint64_t now = Pace::kFirstMs * kMs;

  CHECK(pace.Allows(0, now));
  CHECK_FALSE(pace.Allows(1, now));
  pace.Mapped();
  CHECK(pace.Allows(1, now));
  CHECK_FALSE(pace.Allows(2, now));

  // And again from the start: the next pause is a short one.
  CHECK(pace.NoRoom(now));
  CHECK(pace.pause_ms() == Pace::kFirstMs);
  CHECK_FALSE(pace.Allows(1, now + Pace::kFirstMs * kMs));
}

TEST_CASE("offers that are never mapped hold up the next ones for a few seconds only") {
  Pace pace;
  pace.NoRoom(0);
  const uint64_t now = Pace::kFirstMs * kMs;

  CHECK(pace.Allows(1, now + 1000 * kMs));
  CHECK_FALSE(pace.Allows(2, now + 1999 * kMs));
  CHECK(pace.Allows(1000, now + 10'000 * kMs));
  CHECK(pace.Allows(1'000'000, now + uint64_t{86'400'000} * kMs));

  // Until there is no room again.
  CHECK(pace.NoRoom(now + 10'000 * kMs));
  CHECK_FALSE(pace.Allows(1, now + 12'000 * kMs));
}

}  // namespace
}  // namespace heterok8s::heterosock
