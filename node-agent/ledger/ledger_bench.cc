// How long a commit takes: synced, ordered, and synced by several writers at once.
//   bazel run //node-agent/ledger:ledger_bench
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <vector>

#include "node-agent/ledger/testing.h"

namespace heterok8s::ledger {
namespace {

using Clock = std::chrono::steady_clock;

// What an ADD writes: an address and the attachment.
absl::Status Write(Tx& tx, const std::string& pod) {
  HK_RETURN_IF_ERROR(tx.NextGeneration().status());
  HK_RETURN_IF_ERROR(tx.ClaimNext("podnet", IpAddress::V4(0x0a000001), IpAddress::V4(0x0a00ffff), pod).status());
  return tx.PutAttachment({.key = {"podnet", pod, "eth0"}, .pod_key = pod, .details = std::string(600, 'x')});
}

std::vector<double> Run(TempLedger& temp, const std::string& prefix, int commits, Durability durability) {
  std::vector<double> us;
  for (int i = 0; i < commits; ++i) {
    std::string pod = fmt::format("{}-{}", prefix, i);
    auto start = Clock::now();
    absl::Status done = temp->Transact([&](Tx& tx) { return Write(tx, pod); }, durability);
    us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    if (!done.ok()) fmt::print("{}\n", ToString(done));
  }
  return us;
}

void Print(const std::string& what, std::vector<double> us, double seconds) {
  std::sort(us.begin(), us.end());
  fmt::print("{:<24} n {:>5}  p50 {:>8.1f} us  p99 {:>8.1f} us  {:>7.0f} commits/s\n", what, us.size(),
             us[us.size() / 2], us[us.size() * 99 / 100], static_cast<double>(us.size()) / seconds);
}

void Measure(const std::string& what, int writers, Durability durability) {
  TempLedger temp;
  constexpr int kCommits = 400;
  std::vector<std::vector<double>> per_thread(static_cast<size_t>(writers));
  std::vector<std::thread> threads;
  auto start = Clock::now();
  for (int w = 0; w < writers; ++w) {
    threads.emplace_back([&, w] {
      per_thread[static_cast<size_t>(w)] = Run(temp, fmt::format("w{}", w), kCommits / writers, durability);
    });
  }
  for (std::thread& thread : threads) thread.join();
  double seconds = std::chrono::duration<double>(Clock::now() - start).count();
  std::vector<double> all;
  for (const std::vector<double>& part : per_thread) all.insert(all.end(), part.begin(), part.end());
  Print(what, all, seconds);
}

}  // namespace
}  // namespace heterok8s::ledger

int main() {
  using heterok8s::ledger::Durability;
  heterok8s::ledger::Measure("ordered, 1 writer", 1, Durability::kOrdered);
  heterok8s::ledger::Measure("synced, 1 writer", 1, Durability::kSynced);
  heterok8s::ledger::Measure("synced, 4 writers", 4, Durability::kSynced);
  heterok8s::ledger::Measure("synced, 16 writers", 16, Durability::kSynced);
}
