// Work beside other work, with and without a thread for it.
#include "node-agent/cri/beside.h"

#include <absl/cleanup/cleanup.h>
#include <pthread.h>

#include <catch2/catch.hpp>
#include <thread>

namespace heterok8s::cri {
namespace {

TEST_CASE("work runs beside its caller, and in the caller where the kernel gives no thread") {
  const bool threads = GENERATE(true, false);
  pthread_attr_t usual, vast;
  REQUIRE(pthread_getattr_default_np(&usual) == 0);
  REQUIRE(pthread_attr_init(&vast) == 0);
  REQUIRE(pthread_attr_setstacksize(&vast, size_t{1} << 47) == 0);  // all of an address space: no thread gets it
  if (!threads) REQUIRE(pthread_setattr_default_np(&vast) == 0);
  auto restore = absl::MakeCleanup([&] {
    pthread_setattr_default_np(&usual);
    pthread_attr_destroy(&usual);
    pthread_attr_destroy(&vast);
  });

  auto ran_in = Beside([] { return std::this_thread::get_id(); });

  CHECK((ran_in.get() == std::this_thread::get_id()) == !threads);
}

}  // namespace
}  // namespace heterok8s::cri
