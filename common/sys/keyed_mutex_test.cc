#include "common/sys/keyed_mutex.h"

#include <catch2/catch.hpp>
#include <future>

#include "common/testing/matchers.h"

namespace heterok8s::sys {
namespace {

using namespace std::chrono_literals;
using testing::Says;

TEST_CASE("whoever waits too long is told what for, and nobody waits for it afterwards") {
  KeyedMutex mutex;
  {
    absl::StatusOr<KeyedMutex::Guard> held = mutex.Lock("a", 1s);
    REQUIRE_OK(held);

    CHECK_THAT(mutex.Lock("a", 5ms).status(), Says("another call for 'a'"));
    CHECK_THAT(mutex.Lock("a", 5ms).status(), Says("another call for 'a'"));
  }

  CHECK_OK(mutex.Lock("a", 1s));
}

TEST_CASE("a waiter behind one that gave up gets its turn") {
  KeyedMutex mutex;
  std::future<absl::Status> patient;
  {
    absl::StatusOr<KeyedMutex::Guard> held = mutex.Lock("a", 1s);
    REQUIRE_OK(held);
    CHECK_FALSE(mutex.Lock("a", 5ms).ok());
    patient = std::async(std::launch::async, [&] { return mutex.Lock("a", 20s).status(); });
    CHECK(patient.wait_for(5ms) == std::future_status::timeout);
  }

  CHECK_OK(patient.get());
}

TEST_CASE("names do not wait for each other") {
  KeyedMutex mutex;
  absl::StatusOr<KeyedMutex::Guard> a = mutex.Lock("a", 1s);

  CHECK_OK(mutex.Lock("b", 5ms));
}

}  // namespace
}  // namespace heterok8s::sys
