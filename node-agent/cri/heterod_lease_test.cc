// What heterocri makes of heterod's words, over a real socket.
#include "node-agent/cri/heterod_lease.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>

#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/lab/lab_heterod.h"

namespace heterok8s::cri {
namespace {

using std::chrono::seconds;
using testing::Eventually;
using Word = HeterodLease::Word;

std::string Socket() {
  static std::atomic<int> serial{0};
  return fmt::format("/tmp/hk-heterod-lease-{}-{}.sock", getpid(), ++serial);
}

}  // namespace

TEST_CASE("a DPU that has heartbeats is alive, one without is lost a lease later, and alive again when it returns") {
  std::atomic<int> changes{0};
  LabHeterod heterod(Socket(), seconds(5));
  HeterodLease lease(heterod.socket(), [&] { ++changes; });
  REQUIRE(Eventually([&] { return lease.state().word == Word::kAlive; }));
  CHECK(Eventually([&] { return changes >= 1; }));

  heterod.SetDpuAlive(false);
  REQUIRE(Eventually([&] { return lease.state().word == Word::kLost; }));
  CHECK(lease.state().reason.find("no answer") != std::string::npos);
  CHECK(Eventually([&] { return changes >= 2; }));

  heterod.SetDpuAlive(true);
  CHECK(Eventually([&] { return lease.state().word == Word::kAlive; }));
}

TEST_CASE("a heterod that ends, or has just started, says nothing; when the DPU was last alive is not forgotten") {
  LabHeterod heterod(Socket(), seconds(60));
  HeterodLease lease(heterod.socket(), [] {});
  REQUIRE(Eventually([&] { return lease.state().word == Word::kAlive; }));

  heterod.Stop();
  REQUIRE(Eventually([&] { return lease.state().word == Word::kNone; }));
  CHECK(lease.state().alive_at.has_value());
  heterod.SetDpuAlive(false);
  heterod.Start();
  // It answers, and does not know.
  REQUIRE(Eventually([&] { return lease.state().reason.find("does not answer") == std::string::npos; }));
  CHECK(lease.state().word == Word::kNone);
  CHECK(lease.state().alive_at.has_value());

  heterod.SetDpuAlive(true);
  CHECK(Eventually([&] { return lease.state().word == Word::kAlive; }));
}

TEST_CASE("words that stop coming count for a few seconds and no longer") {
  LabHeterod heterod(Socket(), std::chrono::hours(2));
  HeterodLease lease(heterod.socket(), [] {});
  auto asked = HeterodLease::Clock::now();

  REQUIRE(Eventually([&] {
    asked = HeterodLease::Clock::now();
    return lease.StateAt(asked).word == Word::kAlive;
  }));
  // Within that lease; words go on coming, and none of them is of so late a time.
  CHECK(lease.StateAt(asked + std::chrono::hours(1)).word == Word::kNone);
}

TEST_CASE("without a heterod nothing is said, and it is found when it comes") {
  const std::string socket = Socket();
  HeterodLease lease(socket, [] {});
  CHECK(lease.state().word == Word::kNone);
  CHECK_FALSE(lease.state().alive_at.has_value());

  LabHeterod heterod(socket, seconds(60));

  CHECK(Eventually([&] { return lease.state().word == Word::kAlive; }));
}

}  // namespace heterok8s::cri
