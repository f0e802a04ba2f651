// Split Pods while the DPU, its heterod or an answer is lost, and when it returns.
#include <fmt/format.h>
#include <algorithm>
#include <catch2/catch.hpp>

#include "common/fault/fault.h"
#include "common/testing/matchers.h"
#include "node-agent/attach/testing/two_engines.h"

namespace heterok8s::attach {
namespace {

using heterok8s::testing::HasCode;
using heterok8s::testing::Says;
using Nothing = std::vector<std::string>;

TEST_CASE("without a lease a split ADD fails at once, and touches nothing") {
  TwoEngines node;
  node.SetConnected(false);

  absl::Status refused = node.host().Add(node.HostAdd("c1", "uid-1", kSplit)).status();

  CHECK(cni::CodeOf(refused) == cni::kDpuUnavailable);
  CHECK_THAT(refused, Says("has not answered for 7 ms"));
  CHECK(node.to_dpu.calls("Prepare") == 0);
  CHECK(node.Leftovers() == Nothing());
  CHECK(cni::CodeOf(node.host().Status(node.StatusRequest())) == cni::kNotAvailable);
}

TEST_CASE("without a lease the policy may run the Pod unsplit, and says why") {
  TwoEngines node({.unsplit_when_dpu_down = true});
  node.SetConnected(false);
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);

  REQUIRE_OK(node.host().Add(add));

  PodView pod = *node.host().inspect().FindPod("uid-1");
  CHECK(pod.mode == ledger::Mode::kOrdinary);
  CHECK(pod.placement_reason.find("heteropod.io/offload=dpu, but the DPU's heterod") != std::string::npos);
  CHECK_OK(node.host().Status(node.StatusRequest()));
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("STATUS says that split Pods are limited while the DPU is away") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  REQUIRE_OK(node.host().Add(add));
  node.SetConnected(false);

  CHECK(cni::CodeOf(node.host().Status(node.StatusRequest())) == cni::kNotAvailableLimited);
}

TEST_CASE("STATUS is OK while the DPU is there and reconciles, and only split Pods wait for it") {
  TwoEngines node;
  node.to_dpu.SetPeerReady(false);

  CHECK_OK(node.host().Status(node.StatusRequest()));
  absl::Status split = node.host().Add(node.HostAdd("c1", "uid-1", kSplit)).status();
  CHECK(cni::CodeOf(split) == cni::kDpuUnavailable);
  CHECK_OK(node.host().Add(node.HostAdd("c2", "uid-2", kOrdinary)));
}

TEST_CASE("the DPU lost in the middle of ADD, whether it did the call or not, leaves nothing once it is back") {
  std::string call = GENERATE(as<std::string>(), "Prepare", "Commit");
  bool answered_there = GENERATE(true, false);
  bool lease_noticed = GENERATE(true, false);
  INFO(call << (answered_there ? ", done there" : ", not done") << (lease_noticed ? ", lease expired" : ""));
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit, 8080);
  node.to_dpu.SetHook([&](const std::string& now) {
    if (now == call && answered_there) node.to_dpu.LoseAnswerOf(call);
    if (now == call && !answered_there) node.to_dpu.SetDown(true, lease_noticed);
    if (now == "Remove") node.to_dpu.SetDown(true, lease_noticed);
  });

  absl::Status failed = node.host().Add(add).status();

  CHECK(cni::CodeOf(failed) == cni::kDpuUnavailable);
  CHECK(node.host().inspect().Summarise()->tombstones == 1);
  CHECK(node.host_kernel.Objects("/none").empty());
  node.to_dpu.SetHook({});
  node.SetConnected(true);
  node.ResyncBoth();
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("DEL with the DPU away succeeds, and the address is not given out before the DPU has let go") {
  TwoEngines node;
  node.subnet = "10.88.0.0/30";  // one address beside the gateway
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  REQUIRE_OK(node.host().Add(add));
  bool lease_noticed = GENERATE(true, false);
  node.to_dpu.SetDown(true, lease_noticed);

  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.host().inspect().Summarise()->tombstones == 1);
  CHECK(cni::CodeOf(node.host().Add(node.HostAdd("c2", "uid-2", kOrdinary)).status()) == cni::kAddressExhausted);
  CHECK(node.DpuGeneration("uid-1") != 0);

  node.SetConnected(true);
  node.host().PeerReturned();
  node.ResyncBoth();
  CHECK(node.Leftovers() == Nothing());
  CHECK_OK(node.host().Add(node.HostAdd("c2", "uid-2", kOrdinary)));
}

TEST_CASE("what the other PU has of a Pod is what it says, and unknown until it has said something") {
  TwoEngines node;
  auto at_host = [&] { return node.host().inspect().FindPod("uid-1")->peer_generation; };
  auto at_dpu = [&] { return node.dpu().inspect().FindPod("uid-1")->peer_generation; };
  node.Heartbeat();  // of before the Pod
  REQUIRE_OK(node.host().Add(node.HostAdd("c1", "uid-1", kSplit)));
  const uint64_t generation = node.HostGeneration("uid-1");
  CHECK_FALSE(at_host().has_value());
  CHECK_FALSE(at_dpu().has_value());
  node.Heartbeat();
  CHECK(at_host() == generation);
  CHECK(at_dpu() == generation);

  node.CrashDpu();
  CHECK_FALSE(at_dpu().has_value());
  node.CrashHost();
  CHECK_FALSE(at_host().has_value());
  node.Heartbeat();
  CHECK(at_host() == generation);
  CHECK(at_dpu() == generation);

  node.to_dpu.SetDown(true);  // so that the half is not made again
  node.dpu_kernel.DestroyNetns(node.dpu().inspect().FindPod("uid-1")->netns_path);
  node.CrashDpu();
  node.Heartbeat();
  CHECK(at_host() == 0);
  node.to_dpu.SetDown(false);
  node.ResyncBoth();
  node.Heartbeat();
  CHECK(at_host() == generation);
  CHECK(at_dpu() == generation);
}

TEST_CASE("the same Pod added again while its tombstone waits is not hurt by the replay") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  REQUIRE_OK(node.host().Add(add));
  node.to_dpu.SetDown(true, /*lease_too=*/false);
  REQUIRE_OK(node.host().Del(node.Del(add)));
  node.to_dpu.SetDown(false);
  cni::Request again = node.HostAdd("c2", "uid-1", kSplit);
  absl::StatusOr<cni::Result> result = node.host().Add(again);
  REQUIRE_OK(result);

  node.ResyncBoth();
  CHECK(node.host().inspect().Summarise()->tombstones == 0);
  CHECK_OK(node.host().Check(node.Check(again, *result)));
  CHECK_OK(node.host().Del(node.Del(again)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a host port goes to its next Pod although the DPU has not yet heard that the last one is gone") {
  TwoEngines node;
  const cni::Request add = node.HostAdd("c1", "uid-1", kSplit, 8080);
  REQUIRE_OK(node.host().Add(add));
  node.to_dpu.SetDown(true, /*lease_too=*/false);
  REQUIRE_OK(node.host().Del(node.Del(add)));
  node.to_dpu.SetDown(false);
  auto has_it = [&](const std::string& uid) {
    const std::vector<std::string> objects = node.dpu_kernel.Objects("");
    return std::find(objects.begin(), objects.end(), "host ports of " + uid) != objects.end();
  };

  const cni::Request next = node.HostAdd("c2", "uid-2", kSplit, 8080);
  REQUIRE_OK(node.host().Add(next));
  CHECK(has_it("uid-2"));
  node.CrashDpu();  // the old half may be restored before the new one, or after it
  CHECK(has_it("uid-2"));
  node.ResyncBoth();
  CHECK(has_it("uid-2"));
  CHECK_FALSE(has_it("uid-1"));
  CHECK_OK(node.host().Del(node.Del(next)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("the DPU's heterod restarted with its ledger keeps its halves") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  cni::Result result = *node.host().Add(add);

  node.CrashDpu();
  CHECK(node.DpuGeneration("uid-1") == node.HostGeneration("uid-1"));
  CHECK_OK(node.dpu().inspect().LinkOf("uid-1"));
  node.ResyncBoth();
  CHECK_OK(node.host().Check(node.Check(add, result)));
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a DPU half that is lost is made again with the same generation") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  cni::Result result = *node.host().Add(add);
  std::string pod_d = node.dpu().inspect().FindPod("uid-1")->netns_path;
  uint64_t generation = node.HostGeneration("uid-1");
  node.dpu_kernel.DestroyNetns(pod_d);
  node.CrashDpu();
  CHECK(node.DpuGeneration("uid-1") == 0);

  node.ResyncBoth();
  CHECK(node.DpuGeneration("uid-1") == generation);
  CHECK_OK(node.host().Check(node.Check(add, result)));
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a DPU half that could be neither finished nor undone is made again, guards and all") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  cni::Result result = *node.host().Add(add);
  node.dpu_kernel.DestroyNetns(node.dpu().inspect().FindPod("uid-1")->netns_path);
  node.CrashDpu();
  node.dpu_podnet.FailNext("EnsureGuards", absl::ResourceExhaustedError("no buffer space"));
  node.dpu_podnet.FailNext("RemoveUplink", absl::InternalError("busy"));
  auto guarded = [&] {
    const std::vector<std::string> objects = node.dpu_kernel.Objects("");
    return std::find(objects.begin(), objects.end(), "guards of heterok8s:demo:uid-1:eth0") != objects.end();
  };

  CHECK_THAT(node.host().Resync(), Says("no buffer space"));
  CHECK_FALSE(guarded());
  CHECK_FALSE(node.host().Check(node.Check(add, result)).ok());
  node.ResyncBoth();

  CHECK(guarded());
  CHECK_OK(node.host().Check(node.Check(add, result)));
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("after a reboot of the Node nothing of its Pods is left, without any DEL") {
  TwoEngines node;
  REQUIRE_OK(node.host().Add(node.HostAdd("c1", "uid-1", kSplit, 8080)));
  REQUIRE_OK(node.host().Add(node.HostAdd("c2", "uid-2", kOrdinary)));
  sys::NetnsRef ns = *sys::NetnsRef::Current();
  REQUIRE_OK(node.host_fake_backend.ReleaseLink({"demo", "uid-1", "eth0"}, &ns));

  node.Reboot("boot-2");
  node.ResyncBoth();

  CHECK(node.Leftovers() == Nothing());
  CHECK_OK(node.host().Del(node.Del(node.HostAdd("c1", "uid-1", kSplit))));
}

TEST_CASE("after a reboot no generation comes back, although the disk may lack the last ones") {
  TwoEngines node;
  REQUIRE_OK(node.host().Add(node.HostAdd("c1", "uid-1", kSplit)));
  const uint64_t before = node.HostGeneration("uid-1");
  sys::NetnsRef ns = *sys::NetnsRef::Current();
  REQUIRE_OK(node.host_fake_backend.ReleaseLink({"demo", "uid-1", "eth0"}, &ns));

  node.Reboot("boot-2");
  node.ResyncBoth();
  REQUIRE_OK(node.host().Add(node.HostAdd("c2", "uid-2", kSplit)));

  CHECK(node.HostGeneration("uid-2") > before + 1'000'000);
  CHECK_OK(node.host().Del(node.Del(node.HostAdd("c2", "uid-2", kSplit))));
}

TEST_CASE("an old Prepare that arrives late is refused") {
  TwoEngines node;
  PrepareRequest late;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  REQUIRE_OK(node.host().Add(add));
  PodView pod = *node.host().inspect().FindPod("uid-1");
  late = {.pod_key = "uid-1",
          .generation = pod.generation,
          .instance = "demo",
          .network = "podnet",
          .container_id = "c1",
          .ifname = "eth0",
          .addresses = pod.addresses,
          .link = pod.link->link,
          .host_ephemeral = pod.link->host_ephemeral,
          .dpu_ephemeral = pod.link->dpu_ephemeral};

  SECTION("after its Remove") {
    REQUIRE_OK(node.host().Del(node.Del(add)));
    CHECK_THAT(node.dpu().Prepare(late).status(), HasCode(absl::StatusCode::kFailedPrecondition));
    CHECK_THAT(node.dpu().Commit({"uid-1", pod.generation}), HasCode(absl::StatusCode::kNotFound));
    CHECK(node.Leftovers() == Nothing());
  }
  SECTION("after a newer one") {
    cni::Request next = node.HostAdd("c2", "uid-1", kSplit);
    REQUIRE_OK(node.host().Add(next));
    CHECK_THAT(node.dpu().Prepare(late).status(), HasCode(absl::StatusCode::kFailedPrecondition));
    CHECK_THAT(node.dpu().Commit({"uid-1", pod.generation}), HasCode(absl::StatusCode::kFailedPrecondition));
    CHECK_OK(node.dpu().Remove({"uid-1", pod.generation}));
    CHECK(node.DpuGeneration("uid-1") == node.HostGeneration("uid-1"));
  }
  SECTION("the same one again is the same half") {
    CHECK_OK(node.dpu().Prepare(late));
    CHECK_OK(node.dpu().Commit({"uid-1", pod.generation}));
    CHECK(node.DpuGeneration("uid-1") == pod.generation);
  }
  SECTION("of another installation") {
    late.instance = "other";
    CHECK_THAT(node.dpu().Prepare(late).status(), Says("'other'"));
  }
}

TEST_CASE("a half that is prepared while a Sync is on its way is left alone") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  absl::StatusOr<cni::Result> result = absl::UnknownError("not run");
  node.to_dpu.SetHook([&](const std::string& call) {
    if (call == "Sync" && !result.ok()) result = node.host().Add(add);  // after the list was made
  });

  REQUIRE_OK(node.host().Resync());
  node.to_dpu.SetHook({});

  REQUIRE_OK(result);
  CHECK_OK(node.host().Check(node.Check(add, *result)));
}

TEST_CASE("a host that lost its ledger takes the DPU's halves and the kernel's objects away") {
  TwoEngines node;
  REQUIRE_OK(node.host().Add(node.HostAdd("c1", "uid-1", kSplit)));
  cni::Request ordinary = node.HostAdd("c2", "uid-2", kOrdinary);
  REQUIRE_OK(node.host().Add(ordinary));
  REQUIRE_OK(node.host_ledger->Transact([](ledger::Tx& tx) -> absl::Status {
    for (const char* container : {"c1", "c2"}) HK_RETURN_IF_ERROR(tx.DeleteAttachment({"podnet", container, "eth0"}));
    for (const char* owner : {"uid-1", "uid-2"}) HK_RETURN_IF_ERROR(tx.ReleaseAddresses("podnet", owner));
    return tx.ReleaseAddresses("@link", "uid-1");
  }));

  node.CrashHost();
  node.ResyncBoth();

  CHECK(node.DpuGeneration("uid-1") == 0);
  std::vector<std::string> left = node.Leftovers();
  // What is in the Pod's own namespace goes with that namespace.
  CHECK(left ==
        std::vector<std::string>{"host: link heterok8s:demo:uid-1:eth0", "host: guards of heterok8s:demo:uid-1:eth0"});
}

}  // namespace
}  // namespace heterok8s::attach
