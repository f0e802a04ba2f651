// Calls at the same time.
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include <latch>
#include <set>
#include <thread>

#include "common/testing/matchers.h"
#include "node-agent/attach/testing/two_engines.h"

namespace heterok8s::attach {
namespace {

using Nothing = std::vector<std::string>;

void InParallel(int threads, const std::function<void(int)>& work) {
  std::latch start(threads);
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) {
    running.emplace_back([&, i] {
      start.arrive_and_wait();
      work(i);
    });
  }
  for (std::thread& thread : running) thread.join();
}

TEST_CASE("many Pods at once get different addresses and link blocks, and all go") {
  TwoEngines node;
  constexpr int kPods = 24;
  std::vector<cni::Request> adds;
  for (int i = 0; i < kPods; ++i) {
    adds.push_back(node.HostAdd(fmt::format("c{}", i), fmt::format("uid-{}", i), i % 2 ? kSplit : kOrdinary));
  }
  std::vector<absl::Status> results(kPods);

  InParallel(kPods, [&](int i) { results[i] = node.host().Add(adds[i]).status(); });

  for (const absl::Status& result : results) REQUIRE_OK(result);
  std::set<IpAddress> addresses, blocks;
  std::vector<PodView> pods = *node.host().inspect().ListPods();
  for (const PodView& pod : pods) {
    addresses.insert(pod.addresses.at(0));
    if (pod.link) blocks.insert(pod.link->link.host_localhost);
  }
  CHECK(addresses.size() == kPods);
  CHECK(blocks.size() == kPods / 2);

  InParallel(kPods, [&](int i) { results[i] = node.host().Del(node.Del(adds[i])); });
  for (const absl::Status& result : results) CHECK_OK(result);
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("ADD and DEL of one Pod at once end in one of the two, never in between") {
  TwoEngines node;
  const Annotations& annotations = GENERATE(kOrdinary, kSplit);
  for (int round = 0; round < 20; ++round) {
    cni::Request add = node.HostAdd("c1", "uid-1", annotations, 8080);
    std::vector<absl::Status> results(4);
    InParallel(4, [&](int i) { results[i] = i % 2 ? node.host().Del(node.Del(add)) : node.host().Add(add).status(); });

    CHECK_OK(results[1]);
    CHECK_OK(results[3]);
    for (int i : {0, 2}) CHECK((results[i].ok() || cni::CodeOf(results[i]) == cni::kInterfaceExists));
    CHECK_OK(node.host().Del(node.Del(add)));
    CHECK(node.Leftovers() == Nothing());
  }
}

TEST_CASE("a resync in the middle of ADDs and DELs disturbs none of them") {
  TwoEngines node;
  constexpr int kPods = 8;
  std::vector<cni::Request> adds;
  for (int i = 0; i < kPods; ++i) adds.push_back(node.HostAdd(fmt::format("c{}", i), fmt::format("uid-{}", i), kSplit));
  std::vector<absl::Status> results(kPods + 1);

  InParallel(kPods + 1, [&](int i) {
    for (int round = 0; round < 10; ++round) {
      absl::Status done;
      if (i == kPods) {
        done = node.host().Resync();
      } else {
        absl::StatusOr<cni::Result> added = node.host().Add(adds[i]);
        done = added.status();
        if (done.ok()) done = node.host().Check(node.Check(adds[i], *added));
        if (done.ok()) done = node.host().Del(node.Del(adds[i]));
      }
      if (results[i].ok()) results[i] = done;
    }
  });

  for (const absl::Status& result : results) CHECK_OK(result);
  node.ResyncBoth();
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("twins and host sandboxes coming and going at once leave nothing") {
  TwoEngines node;
  constexpr int kPods = 6;
  std::vector<cni::Request> hosts, twins;
  for (int i = 0; i < kPods; ++i) {
    hosts.push_back(node.HostAdd(fmt::format("c{}", i), fmt::format("uid-{}", i), kSplit));
    twins.push_back(node.TwinAdd(fmt::format("t{}", i), fmt::format("uid-{}", i)));
  }
  std::vector<absl::Status> dels(2 * kPods);
  InParallel(2 * kPods, [&](int i) {
    for (int round = 0; round < 5; ++round) {
      // ADDs may lose against the other side's DEL; DELs may not fail.
      absl::Status done;
      if (i < kPods) {
        (void)node.host().Add(hosts[i]);
        done = node.host().Del(node.Del(hosts[i]));
      } else {
        (void)node.dpu().Add(twins[i - kPods]);
        done = node.dpu().Del(node.Del(twins[i - kPods]));
      }
      if (dels[i].ok()) dels[i] = done;
    }
  });

  for (const absl::Status& del : dels) CHECK_OK(del);
  node.ResyncBoth();
  CHECK(node.Leftovers() == Nothing());
}

}  // namespace
}  // namespace heterok8s::attach
