// Spare namespaces: that they are there, are taken, and come back; and what happens while none can be made.
#include "node-agent/attach/spare_namespaces.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <latch>
#include <mutex>
#include <set>

#include "common/testing/eventually.h"
#include "common/testing/matchers.h"

namespace heterok8s::attach {
namespace {

using heterok8s::testing::Eventually;
using std::chrono::milliseconds;

// Paths that no other test uses, gone at the end.
class Paths {
 public:
  ~Paths() {
    for (const std::string& path : made_) (void)sys::DeleteNetns(path);
  }
  std::string New() {
    made_.push_back(fmt::format("/run/netns/hkspare{}-{}", getpid(), made_.size()));
    return made_.back();
  }

 private:
  std::vector<std::string> made_;
};

// Remembers what it was given.
class Furnisher {
 public:
  absl::Status operator()(const sys::NetnsRef& ns) {
    std::lock_guard lock(mutex_);
    inodes_.insert(ns.inode());
    return absl::OkStatus();
  }
  bool Knows(const sys::NetnsRef& ns) const {
    std::lock_guard lock(mutex_);
    return inodes_.contains(ns.inode());
  }

 private:
  mutable std::mutex mutex_;
  std::set<uint64_t> inodes_;
};

std::unique_ptr<SpareNamespaces> Spare(Furnish furnish) {
  return NewSpareNamespaces(NewKernelNamespaces(), std::move(furnish));
}

void AwaitReady(const SpareNamespaces& spare, size_t wanted) {
  REQUIRE(Eventually([&] { return spare.counters().ready == wanted; }));
}

TEST_CASE("two namespaces are there and furnished; those that are taken come back", "[netns]") {
  Paths paths;
  Furnisher furnisher;
  auto spare = Spare(std::ref(furnisher));
  AwaitReady(*spare, 2);

  absl::StatusOr<sys::NetnsRef> one = spare->Ensure(paths.New()), two = spare->Ensure(paths.New());

  REQUIRE_OK(one);
  REQUIRE_OK(two);
  CHECK(one->inode() != two->inode());
  CHECK(furnisher.Knows(*one));
  CHECK(furnisher.Knows(*two));
  AwaitReady(*spare, 2);
  CHECK(spare->counters().failures == 0);
}

TEST_CASE("a namespace that is there is opened, and no spare one is taken for it", "[netns]") {
  Paths paths;
  auto spare = Spare([](const sys::NetnsRef&) { return absl::OkStatus(); });
  AwaitReady(*spare, 2);
  const std::string path = paths.New();
  absl::StatusOr<sys::NetnsRef> made = spare->Ensure(path);
  REQUIRE_OK(made);
  AwaitReady(*spare, 2);

  absl::StatusOr<sys::NetnsRef> again = spare->Ensure(path);

  REQUIRE_OK(again);
  CHECK(again->inode() == made->inode());
  CHECK(spare->counters().ready == 2);
}

TEST_CASE("who finds no spare namespace gets one of its own, without waiting", "[netns]") {
  Paths paths;
  std::latch asked(1);
  Furnisher furnisher;
  auto spare = Spare([&](const sys::NetnsRef& ns) {
    asked.wait();  // nothing is ready before the test has asked
    return furnisher(ns);
  });

  absl::StatusOr<sys::NetnsRef> own = spare->Ensure(paths.New());
  asked.count_down();

  REQUIRE_OK(own);
  CHECK_FALSE(furnisher.Knows(*own));
  AwaitReady(*spare, 2);
}

TEST_CASE("one that cannot be furnished is none, is counted, and is tried again", "[netns]") {
  Paths paths;
  std::atomic<int> failures_left = 3;
  std::atomic<bool> has_failed = false;
  auto spare = Spare([&](const sys::NetnsRef&) -> absl::Status {
    if (failures_left <= 0) return absl::OkStatus();
    --failures_left;
    has_failed = true;
    return absl::ResourceExhaustedError("no buffer space");
  });
  REQUIRE(Eventually([&] { return has_failed.load(); }));
  CHECK_OK(spare->Ensure(paths.New()));

  AwaitReady(*spare, 2);

  CHECK(spare->counters().failures == 3);
}

TEST_CASE("the thread that makes them has the priority of those that wait for what it holds", "[netns]") {
  std::atomic<int> priority = 1000;
  auto spare = Spare([&](const sys::NetnsRef&) {
    priority = getpriority(PRIO_PROCESS, static_cast<id_t>(gettid()));
    return absl::OkStatus();
  });

  AwaitReady(*spare, 2);

  CHECK(priority == getpriority(PRIO_PROCESS, static_cast<id_t>(gettid())));
}

TEST_CASE("what fails again and again is tried less and less often") {
  CHECK(SpareNamespaces::PauseAfter(1) == milliseconds(50));
  CHECK(SpareNamespaces::PauseAfter(2) == milliseconds(100));
  CHECK(SpareNamespaces::PauseAfter(5) == milliseconds(800));
  CHECK(SpareNamespaces::PauseAfter(11) == milliseconds(30000));
  CHECK(SpareNamespaces::PauseAfter(1000000) == milliseconds(30000));
}

}  // namespace
}  // namespace heterok8s::attach
