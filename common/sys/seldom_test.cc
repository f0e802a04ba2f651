#include "common/sys/seldom.h"

#include <catch2/catch.hpp>

namespace heterok8s::sys {
namespace {

using namespace std::chrono_literals;

TEST_CASE("what happens all the time is said once in a while, the first time at once") {
  Seldom seldom(1min);
  const Seldom::Clock::time_point start{1h};

  CHECK(seldom.Now(start));
  CHECK_FALSE(seldom.Now(start));
  CHECK_FALSE(seldom.Now(start + 59s));
  CHECK(seldom.Now(start + 60s));
  CHECK_FALSE(seldom.Now(start + 119s));
}

}  // namespace
}  // namespace heterok8s::sys
