#include "node-agent/attach/workers.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <latch>
#include <memory>
#include <vector>

#include "node-agent/attach/late_failures.h"

namespace heterok8s::attach {
namespace {

TEST_CASE("jobs that wait for each other all have a thread, more of them than are kept") {
  Workers workers;
  for (int round = 0; round < 3; ++round) {
    constexpr int kJobs = 4 * Workers::kKept;
    std::latch all_there(kJobs);
    std::vector<Workers::Running<int>> running;
    for (int i = 0; i < kJobs; ++i) {
      running.push_back(workers.Start([&all_there, i] {
        all_there.arrive_and_wait();
        return i;
      }));
    }

    int sum = 0;
    for (Workers::Running<int>& job : running) sum += job.Get();

    CHECK(sum == kJobs * (kJobs - 1) / 2);
  }
}

TEST_CASE("a job may start another one and wait for it") {
  Workers workers;

  auto outer = workers.Start([&] { return workers.Start([] { return 7; }).Get(); });

  CHECK(outer.Get() == 7);
}

TEST_CASE("a job is done when its handle goes, asked for or not") {
  Workers workers;
  std::atomic<int> done = 0;
  {
    auto first = workers.Start([&] { return ++done; });
    first = workers.Start([&] { return ++done; });
  }
  CHECK(done == 2);
}

TEST_CASE("what was posted is done when the workers go, and nothing of it is left") {
  std::atomic<int> done = 0;
  auto held = std::make_shared<int>(0);
  {
    Workers workers;
    for (int i = 0; i < 20; ++i) workers.Post(std::packaged_task<void()>([&done, held] { ++done; }));
  }
  CHECK(done == 20);
  CHECK(held.use_count() == 1);
}

TEST_CASE("workers that never had a job end at once") { Workers workers; }

TEST_CASE("a late failure is told once, to the generation that failed, and forgotten after a while") {
  LateFailures failures;
  const auto now = LateFailures::Clock::now();
  failures.Put("uid-1", 7, absl::InternalError("busy"), now);

  CHECK(failures.Take("uid-1", 8).ok());
  CHECK(failures.Take("uid-1", 7).code() == absl::StatusCode::kInternal);
  CHECK(failures.Take("uid-1", 7).ok());

  failures.Put("uid-1", 9, absl::InternalError("busy"), now);
  failures.Put("uid-2", 1, absl::InternalError("busy"), now + LateFailures::kKeep + std::chrono::seconds(1));
  CHECK(failures.size() == 1);
}

}  // namespace
}  // namespace heterok8s::attach
