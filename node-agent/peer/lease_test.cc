#include "node-agent/peer/lease.h"

#include <catch2/catch.hpp>

namespace heterok8s::peer {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

struct Watcher final : attach::PeerWatcher {
  void PeerReturned() override { ++returned; }
  void PeerHas(const std::vector<attach::PodGeneration>& now) override { halves = now; }
  int returned = 0;
  std::vector<attach::PodGeneration> halves;
};

const Lease::Clock::time_point kStart = Lease::Clock::now();

}  // namespace

TEST_CASE("a lease that never had a heartbeat is not valid and says so") {
  Lease lease({.duration = seconds(5), .address = "192.0.2.2:7443"});

  const attach::LeaseState state = lease.StateAt(kStart);

  CHECK_FALSE(state.valid);
  CHECK_FALSE(state.age.has_value());
  CHECK(state.last_error == "no heartbeat yet");
  CHECK(state.address == "192.0.2.2:7443");
}

TEST_CASE("the lease is valid for its duration after the last good heartbeat, whatever fails meanwhile") {
  Lease lease({.duration = seconds(5)});
  lease.Good({.epoch = 7, .boot_id = "b", .ready = true}, kStart);
  lease.Bad(absl::UnavailableError("connection refused"));

  CHECK(lease.StateAt(kStart + milliseconds(4999)).valid);
  CHECK(lease.StateAt(kStart + milliseconds(4999)).peer_ready);
  const attach::LeaseState expired = lease.StateAt(kStart + seconds(5));
  CHECK_FALSE(expired.valid);
  CHECK_FALSE(expired.peer_ready);
  CHECK(expired.last_error == "UNAVAILABLE: connection refused");
  CHECK(expired.age == seconds(5));
  CHECK(expired.peer_epoch == 7);
}

TEST_CASE("a heartbeat that arrives late does not make the lease younger than a newer one") {
  Lease lease({.duration = seconds(5)});
  lease.Good({.epoch = 1, .ready = true}, kStart + seconds(2));
  lease.Good({.epoch = 1, .ready = true}, kStart);

  CHECK(lease.StateAt(kStart + seconds(3)).age == seconds(1));
}

TEST_CASE("a side that is not ready has a valid lease and a reason") {
  Lease lease({.duration = seconds(5)});
  lease.Good({.epoch = 1, .ready = false, .not_ready_reason = "reconciling"}, kStart);

  const attach::LeaseState state = lease.StateAt(kStart);

  CHECK(state.valid);
  CHECK_FALSE(state.peer_ready);
  CHECK(state.last_error == "reconciling");
}

TEST_CASE("the engine is told of first contact, readiness, restart and return, and of nothing else") {
  Lease lease({.duration = seconds(5)});
  Watcher watcher;
  lease.SetWatcher(&watcher);

  lease.Good({.epoch = 1, .boot_id = "b"}, kStart);
  CHECK(watcher.returned == 1);  // first contact
  lease.Good({.epoch = 1, .boot_id = "b"}, kStart + seconds(1));
  CHECK(watcher.returned == 1);
  lease.Good({.epoch = 1, .boot_id = "b", .ready = true}, kStart + seconds(2));
  CHECK(watcher.returned == 2);  // ready
  lease.Good({.epoch = 1, .boot_id = "b", .ready = true}, kStart + seconds(3));
  CHECK(watcher.returned == 2);
  lease.Good({.epoch = 2, .boot_id = "b", .ready = true}, kStart + seconds(4));
  CHECK(watcher.returned == 3);  // heterod restarted
  lease.Good({.epoch = 2, .boot_id = "c", .ready = true}, kStart + seconds(5));
  CHECK(watcher.returned == 4);  // another boot with the same epoch: its state folder was lost
  lease.Good({.epoch = 2, .boot_id = "c", .ready = true}, kStart + seconds(10));
  CHECK(watcher.returned == 5);  // back after the lease had expired
}

TEST_CASE("the engine is told with each heartbeat what the other side has, but not by one that has not reconciled") {
  Lease lease({.duration = seconds(5)});
  Watcher watcher;
  lease.SetWatcher(&watcher);

  lease.Good({.epoch = 1, .ready = true, .halves = {{{"uid-1", 7}, {"uid-2", 8}}}}, kStart);
  CHECK(watcher.halves == std::vector<attach::PodGeneration>{{"uid-1", 7}, {"uid-2", 8}});
  lease.Good({.epoch = 2, .not_ready_reason = "reconciling"}, kStart + seconds(1));
  CHECK(watcher.halves.size() == 2);
  lease.Good({.epoch = 2, .ready = true, .halves = {{}}}, kStart + seconds(2));
  CHECK(watcher.halves.empty());
}

}  // namespace heterok8s::peer
