// What heterocri makes of heterod's words, over a real socket.
#include "node-agent/cri/heterod_lease.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>

#include "common/testing/matchers.h"
#include "node-agent/cri/lab/lab_heterod.h"

namespace heterok8s::cri {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Word = HeterodLease::Word;

bool Soon(const std::function<bool()>& there) {
  const auto end = std::chrono::steady_clock::now() + seconds(60);
  while (!there()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return true;
}

std::string Socket() {
  static std::atomic<int> serial{0};
  return fmt::format("/tmp/hk-heterod-lease-{}-{}.sock", getpid(), ++serial);
}

}  // namespace

TEST_CASE("a DPU that has heartbeats is alive, one without is lost a lease later, and alive again when it returns") {
  std::atomic<int> changes{0};
  LabHeterod heterod(Socket(), seconds(5));
  HeterodLease lease(heterod.socket(), [&] { ++changes; });
  REQUIRE(Soon([&] { return lease.state().word == Word::kAlive; }));
  CHECK(Soon([&] { return changes >= 1; }));

  heterod.SetDpuAlive(false);
  REQUIRE(Soon([&] { return lease.state().word == Word::kLost; }));
  CHECK(lease.state().reason.find("no answer") != std::string::npos);
  CHECK(Soon([&] { return changes >= 2; }));

  heterod.SetDpuAlive(true);
  CHECK(Soon([&] { return lease.state().word == Word::kAlive; }));
}

TEST_CASE("a heterod that ends, or has just started, says nothing; when the DPU was last alive is not forgotten") {
  LabHeterod heterod(Socket(), seconds(60));
  HeterodLease lease(heterod.socket(), [] {});
  REQUIRE(Soon([&] { return lease.state().word == Word::kAlive; }));

  heterod.Stop();
  REQUIRE(Soon([&] { return lease.state().word == Word::kNone; }));
  CHECK(lease.state().alive_at.has_value());
  heterod.SetDpuAlive(false);
  heterod.Start();
  // It answers, and does not know.
  REQUIRE(Soon([&] { return lease.state().reason.find("does not answer") == std::string::npos; }));
  CHECK(lease.state().word == Word::kNone);
  CHECK(lease.state().alive_at.has_value());

  heterod.SetDpuAlive(true);
  CHECK(Soon([&] { return lease.state().word == Word::kAlive; }));
}

TEST_CASE("words that stop coming count for a few seconds and no longer") {
  LabHeterod heterod(Socket(), seconds(60));
  HeterodLease lease(heterod.socket(), [] {});
  REQUIRE(Soon([&] { return lease.state().word == Word::kAlive; }));

  const auto now = HeterodLease::Clock::now();

  CHECK(lease.StateAt(now).word == Word::kAlive);
  CHECK(lease.StateAt(now + seconds(30)).word == Word::kNone);
}

TEST_CASE("without a heterod nothing is said, and it is found when it comes") {
  const std::string socket = Socket();
  HeterodLease lease(socket, [] {});
  CHECK(lease.state().word == Word::kNone);
  CHECK_FALSE(lease.state().alive_at.has_value());

  LabHeterod heterod(socket, seconds(60));

  CHECK(Soon([&] { return lease.state().word == Word::kAlive; }));
}

}  // namespace heterok8s::cri
