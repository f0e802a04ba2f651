#include "node-agent/ports/placeholder_retry.h"

#include <catch2/catch.hpp>
#include <vector>

namespace heterok8s::ports {
namespace {

constexpr uint64_t kMs = 1'000'000;

TEST_CASE("a port is tried again soon, then less and less often, each second in the end") {
  Retry retry;
  CHECK(retry.IsDue(0));
  uint64_t now = 5000 * kMs;
  std::vector<uint64_t> waits;
  for (int i = 0; i < 13; ++i) {
    retry.Failed(now);
    CHECK_FALSE(retry.IsDue(retry.at_ns - 1));
    waits.push_back((retry.at_ns - now) / kMs);
    now = retry.at_ns;
  }

  CHECK(waits == std::vector<uint64_t>{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 1000, 1000});
}

TEST_CASE("a try out of turn neither hastens nor delays the next one") {
  Retry retry;
  retry.Failed(10 * kMs);
  retry.Failed(10 * kMs + 1);

  CHECK(retry.at_ns == 11 * kMs);
  CHECK(retry.wait_ns == kMs);
}

}  // namespace
}  // namespace heterok8s::ports
