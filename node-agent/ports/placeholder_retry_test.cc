#include "node-agent/ports/placeholder_retry.h"

#include <catch2/catch.hpp>
#include <vector>

namespace heterok8s::ports {
namespace {

constexpr uint64_t kUs = 1000, kFirst = 100 * kUs;

TEST_CASE("a port is tried again soon, then less and less often, each second in the end") {
  Retry retry;
  CHECK(retry.IsDue(0));
  uint64_t now = 5'000'000 * kUs;
  std::vector<uint64_t> waits;
  for (int i = 0; i < 16; ++i) {
    retry.Failed(now);
    CHECK_FALSE(retry.IsDue(retry.at_ns - 1));
    waits.push_back((retry.at_ns - now) / kUs);
    now = retry.at_ns;
  }

  CHECK(waits == std::vector<uint64_t>{100, 200, 400, 800, 1600, 3200, 6400, 12'800, 25'600, 51'200, 102'400, 204'800,
                                       409'600, 819'200, 1'000'000, 1'000'000});
}

TEST_CASE("a try out of turn neither hastens nor delays the next one") {
  Retry retry;
  retry.Failed(10 * kFirst);
  retry.Failed(10 * kFirst + 1);

  CHECK(retry.at_ns == 11 * kFirst);
  CHECK(retry.wait_ns == kFirst);
}

}  // namespace
}  // namespace heterok8s::ports
