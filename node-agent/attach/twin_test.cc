// Split Pods whose DPU half is a sandbox of the DPU's own runtime.
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include <optional>

#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "node-agent/attach/testing/two_engines.h"

namespace heterok8s::attach {
namespace {

using heterok8s::testing::Says;
using Nothing = std::vector<std::string>;

TEST_CASE("a twin's namespace is furnished before the host asks for its half") {
  TwoEngines node;
  cni::Request twin = node.TwinAdd("t1", "uid-1");

  REQUIRE_OK(node.dpu().Add(twin));

  CHECK(heterok8s::testing::Eventually([&] { return node.dpu_kernel.IsFurnished(twin.netns); }));
  CHECK_OK(node.dpu().Del(node.Del(twin)));
}

TEST_CASE("the twin has the Pod's address before the host sandbox exists, and becomes its DPU half") {
  TwoEngines node;
  cni::Request twin = node.TwinAdd("t1", "uid-1"), add = node.HostAdd("c1", "uid-1", kSplit);

  absl::StatusOr<cni::Result> on_dpu = node.dpu().Add(twin);
  REQUIRE_OK(on_dpu);
  CHECK(node.host().inspect().Summarise()->reservations == 1);
  CHECK(node.host().inspect().ListPods()->empty());
  absl::StatusOr<cni::Result> on_host = node.host().Add(add);
  REQUIRE_OK(on_host);

  CHECK(on_dpu->ips[0].address.address == on_host->ips[0].address.address);
  CHECK(on_dpu->interfaces[1].sandbox == twin.netns);
  CHECK_FALSE(on_dpu->routes.empty());
  PodView dpu = *node.dpu().inspect().FindPod("uid-1");
  CHECK(dpu.mode == ledger::Mode::kTwin);
  CHECK(dpu.netns_path == twin.netns);
  CHECK(dpu.generation == node.HostGeneration("uid-1"));
  CHECK_OK(node.dpu().Check(node.Check(twin, *on_dpu)));
  CHECK_OK(node.host().Check(node.Check(add, *on_host)));
}

TEST_CASE("host sandbox and twin go in either order, and at the same time") {
  TwoEngines node;
  cni::Request twin = node.TwinAdd("t1", "uid-1"), add = node.HostAdd("c1", "uid-1", kSplit);
  REQUIRE_OK(node.dpu().Add(twin));
  REQUIRE_OK(node.host().Add(add));
  SECTION("the host first") {
    CHECK_OK(node.host().Del(node.Del(add)));
    // The twin still has the address, so it is not free.
    CHECK(node.host().inspect().Summarise()->addresses_used == 1);
    CHECK_OK(node.dpu().Del(node.Del(twin)));
  }
  SECTION("the twin first") {
    CHECK_OK(node.dpu().Del(node.Del(twin)));
    CHECK(node.host().inspect().Summarise()->addresses_used == 1);
    CHECK_OK(node.host().Del(node.Del(add)));
  }
  SECTION("at the same time") {
    std::future<absl::Status> on_dpu = std::async(std::launch::async, [&] { return node.dpu().Del(node.Del(twin)); });
    CHECK_OK(node.host().Del(node.Del(add)));
    CHECK_OK(on_dpu.get());
  }
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a host sandbox that goes and comes again finds its twin, with the address it had") {
  TwoEngines node;
  cni::Request twin = node.TwinAdd("t1", "uid-1"), add = node.HostAdd("c1", "uid-1", kSplit);
  cni::Result on_dpu = *node.dpu().Add(twin);
  REQUIRE_OK(node.host().Add(add));
  REQUIRE_OK(node.host().Del(node.Del(add)));
  CHECK(node.DpuGeneration("uid-1") == 0);
  CHECK_OK(node.dpu().Check(node.Check(twin, on_dpu)));

  absl::StatusOr<cni::Result> again = node.host().Add(node.HostAdd("c2", "uid-1", kSplit));
  REQUIRE_OK(again);
  CHECK(again->ips[0].address.address == on_dpu.ips[0].address.address);
  CHECK(node.DpuGeneration("uid-1") == node.HostGeneration("uid-1"));
}

TEST_CASE("a twin made anew under a host half is joined with it, whatever the DPU had in between") {
  TwoEngines node;
  cni::Request twin = node.TwinAdd("t1", "uid-1"), add = node.HostAdd("c1", "uid-1", kSplit);
  REQUIRE_OK(node.dpu().Add(twin));
  cni::Result result = *node.host().Add(add);
  REQUIRE_OK(node.dpu().Del(node.Del(twin)));
  if (GENERATE(false, true)) {
    REQUIRE_OK(node.host().Resync());  // the DPU makes a half with a namespace of its own
    CHECK(node.dpu().inspect().FindPod("uid-1")->mode == ledger::Mode::kSplit);
  }

  cni::Request twin_again = node.TwinAdd("t2", "uid-1");
  REQUIRE_OK(node.dpu().Add(twin_again));
  REQUIRE_OK(node.host().Resync());

  PodView dpu = *node.dpu().inspect().FindPod("uid-1");
  CHECK(dpu.mode == ledger::Mode::kTwin);
  CHECK(dpu.container_id == "t2");
  CHECK(dpu.generation == node.HostGeneration("uid-1"));
  CHECK_OK(node.host().Check(node.Check(add, result)));
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK_OK(node.dpu().Del(node.Del(twin_again)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a twin whose DEL the host could not hear frees its address when the host is back") {
  TwoEngines node;
  cni::Request twin = node.TwinAdd("t1", "uid-1");
  REQUIRE_OK(node.dpu().Add(twin));
  node.SetConnected(false);
  CHECK_OK(node.dpu().Del(node.Del(twin)));
  CHECK(node.dpu().inspect().Summarise()->tombstones == 1);
  SECTION("replayed") {
    node.SetConnected(true);
    node.ResyncBoth();
    CHECK(node.Leftovers() == Nothing());
  }
  SECTION("a new twin of the Pod takes the reservation over instead") {
    node.SetConnected(true);
    cni::Request again = node.TwinAdd("t2", "uid-1");
    REQUIRE_OK(node.dpu().Add(again));
    node.ResyncBoth();
    CHECK(node.host().inspect().Summarise()->reservations == 1);
    CHECK_OK(node.dpu().Del(node.Del(again)));
    CHECK(node.Leftovers() == Nothing());
  }
}

TEST_CASE("a reservation whose twin the DPU has lost is freed") {
  TwoEngines node;
  REQUIRE_OK(node.dpu().Add(node.TwinAdd("t1", "uid-1")));
  REQUIRE_OK(node.dpu_ledger->Transact([](ledger::Tx& tx) { return tx.DeleteAttachment({"podnet", "t1", "eth0"}); }));
  node.CrashDpu();

  node.ResyncBoth();
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a twin made again while the host goes through what the DPU has lost keeps its reservation") {
  TwoEngines node;
  cni::Request other = node.HostAdd("c2", "uid-2", kSplit), twin = node.TwinAdd("t2", "uid-1");
  REQUIRE_OK(node.host().Add(other));
  REQUIRE_OK(node.dpu().Add(node.TwinAdd("t1", "uid-1")));
  REQUIRE_OK(node.dpu_ledger->Transact([](ledger::Tx& tx) { return tx.DeleteAttachment({"podnet", "t1", "eth0"}); }));
  node.CrashDpu();
  std::optional<absl::StatusOr<cni::Result>> again;
  node.to_dpu.SetHook([&](const std::string& call) {
    // Of the other Pod: after the answer to Sync, which had no twin.
    if (call == "Commit" && !again.has_value()) again = node.dpu().Add(twin);
  });

  REQUIRE_OK(node.host().Resync());
  node.to_dpu.SetHook(nullptr);

  REQUIRE(again.has_value());
  REQUIRE_OK(*again);
  CHECK(node.host().inspect().Summarise()->reservations == 1);
  CHECK(node.host().inspect().Summarise()->addresses_used == 2);
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  absl::StatusOr<cni::Result> on_host = node.host().Add(add);
  REQUIRE_OK(on_host);
  CHECK(on_host->ips[0].address.address == (*again)->ips[0].address.address);
  for (const cni::Request& request : {add, other}) CHECK_OK(node.host().Del(node.Del(request)));
  CHECK_OK(node.dpu().Del(node.Del(twin)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("the DPU's runtime may run nothing but twins, and needs the host for them") {
  TwoEngines node;
  cni::Request twin = node.TwinAdd("t1", "uid-1");
  SECTION("not split") {
    twin.config.pod_annotations = {{"heteropod.io/placement", "host"}};
    absl::Status refused = node.dpu().Add(twin).status();
    CHECK(cni::CodeOf(refused) == cni::kInvalidConfig);
    CHECK_THAT(refused, Says("only the DPU halves of split Pods"));
  }
  SECTION("no UID") {
    twin.args.erase("K8S_POD_UID");
    CHECK(cni::CodeOf(node.dpu().Add(twin).status()) == cni::kInvalidEnvironment);
  }
  SECTION("the host is away") {
    node.SetConnected(false);
    CHECK(cni::CodeOf(node.dpu().Add(twin).status()) == cni::kTryAgainLater);
    CHECK(cni::CodeOf(node.dpu().Status(node.StatusRequest())) == cni::kNotAvailable);
  }
  SECTION("the host has no address") {
    node.subnet = "10.88.0.0/30";
    cni::Request holder = node.HostAdd("c0", "uid-0", kOrdinary);
    REQUIRE_OK(node.host().Add(holder));
    CHECK(cni::CodeOf(node.dpu().Add(node.TwinAdd("t1", "uid-1")).status()) == cni::kAddressExhausted);
    REQUIRE_OK(node.host().Del(node.Del(holder)));
  }
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("GC on the DPU frees twins that its runtime does not list, never the host's halves") {
  TwoEngines node;
  cni::Request twin = node.TwinAdd("t1", "uid-1"), add = node.HostAdd("c2", "uid-2", kSplit);
  REQUIRE_OK(node.dpu().Add(twin));
  REQUIRE_OK(node.host().Add(add));

  CHECK_OK(node.dpu().Gc(node.Gc({})));
  CHECK(node.DpuGeneration("uid-2") == node.HostGeneration("uid-2"));
  CHECK(node.dpu().inspect().ListPods()->size() == 1);
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

}  // namespace
}  // namespace heterok8s::attach
