// The steps of a split Pod's ADD over both PUs: their order, and the failure of each.
#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "common/fault/fault.h"
#include "common/testing/matchers.h"
#include "node-agent/attach/testing/two_engines.h"

namespace heterok8s::attach {
namespace {

using heterok8s::testing::Says;
using Nothing = std::vector<std::string>;

TEST_CASE("the link is made into a DPU half that is there, behind its guards on both sides") {
  TwoEngines node;
  std::vector<std::string> calls, there;
  node.to_dpu.SetHook([&](const std::string& call) {
    if (call == "Sync") return;  // of the start; it may come at any time
    calls.push_back(fmt::format("{} with {} links", call, node.fabric.size()));
  });
  fault::ScopedAction linked("dpu.commit.after-link", [&] {
    there = node.dpu_kernel.Objects("/none");
    return absl::OkStatus();
  });

  REQUIRE_OK(node.host().Add(node.HostAdd("c1", "uid-1", kSplit)));

  CHECK(calls == std::vector<std::string>{"Prepare with 0 links", "Commit with 1 links"});
  CHECK(there == std::vector<std::string>{"uplink heterok8s:demo:uid-1:eth0", "guards of heterok8s:demo:uid-1:eth0",
                                          "ports of uid-1"});
}

TEST_CASE("the host makes what needs no link while it waits for the DPU's place, the rest while the DPU commits") {
  TwoEngines node;
  node.to_dpu.SetAnswersFirst(false);
  std::vector<std::string> at_prepare, at_link, at_commit;
  auto look = [&](std::vector<std::string>& seen) {
    return [&] {
      seen = node.host_kernel.Objects("/none");
      return absl::OkStatus();
    };
  };
  fault::ScopedAction preparing("dpu.prepare.after-ledger", look(at_prepare)),
      linked("host.add.after-link", look(at_link)), committing("dpu.commit.after-link", look(at_commit));
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit, 8080);

  REQUIRE_OK(node.host().Add(add));

  const std::vector<std::string> ready = {"guards of heterok8s:demo:uid-1:eth0", "host ports of uid-1",
                                          "ports of uid-1"};
  CHECK(at_prepare == ready);
  CHECK(at_link == ready);
  CHECK(at_commit == std::vector<std::string>{"link heterok8s:demo:uid-1:eth0", ready[0], ready[1], ready[2]});
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("the DPU leads nobody to its half before Commit, which comes when the host's row is on disk") {
  TwoEngines node;
  const pu::OwnerTag tag{.instance = "demo", .pod_key = "uid-1", .ifname = "eth0"};
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit, 8080);
  bool early = true;
  node.to_dpu.SetHook([&](const std::string& call) {
    if (call == "Commit") early = node.dpu_kernel.HasRoutesTo(tag);
  });
  SECTION("it is") {
    REQUIRE_OK(node.host().Add(add));
    CHECK_FALSE(early);
    CHECK(node.dpu_kernel.HasRoutesTo(tag));
    CHECK_OK(node.host().Del(node.Del(add)));
  }
  SECTION("it cannot be written") {
    node.host_process.disk_fails = true;
    CHECK(cni::CodeOf(node.host().Add(add).status()) == cni::kIoFailure);
    CHECK(node.to_dpu.calls("Commit") == 0);
  }
  SECTION("the DPU's cannot be written") {
    node.dpu_process.disk_fails = true;
    CHECK_THAT(node.host().Add(add).status(), Says("commit the DPU half: ledger: sync"));
  }
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("ports that are found by the link are taken behind it, on both PUs, also after restarts") {
  TwoEngines node;
  node.host_ports.SetNeedsLink(true);
  node.dpu_ports.SetNeedsLink(true);
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit, 8080);

  absl::StatusOr<cni::Result> result = node.host().Add(add);

  REQUIRE_OK(result);
  CHECK(node.dpu_ports.ListPods() == std::vector<std::string>{"uid-1"});
  CHECK_OK(node.host().Check(node.Check(add, *result)));
  node.CrashHost();
  node.CrashDpu();
  node.ResyncBoth();
  CHECK_OK(node.host().Check(node.Check(add, *result)));
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a Prepare that fails undoes what the host made meanwhile") {
  TwoEngines node;
  node.to_dpu.SetAnswersFirst(GENERATE(true, false));
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit, 8080);
  std::string says = "no room on the DPU";
  SECTION("on the DPU alone") {}
  SECTION("and the host's part too") { node.host_podnet.FailNext("EnsureGuards", absl::InternalError("nft")); }
  node.dpu_podnet.FailNext("PlaceUplink", absl::ResourceExhaustedError(says));

  CHECK_THAT(node.host().Add(add).status(), Says("prepare the DPU half: Pod uid-1: " + says));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("what fails on the DPU after its Prepare was answered is told by Commit, and undone") {
  TwoEngines node;
  std::string call = GENERATE(as<std::string>(), "EnsureUplink", "EnsureGuards", "EnsureHostPorts");
  INFO(call);
  node.dpu_podnet.FailNext(call, absl::ResourceExhaustedError("no buffer space"));
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit, 8080);

  absl::Status failed = node.host().Add(add).status();

  CHECK_THAT(failed, Says("commit the DPU half: Pod uid-1: no buffer space"));
  CHECK(node.Leftovers() == Nothing());
  CHECK_OK(node.host().Add(add));
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a Prepare that is repeated does not hear how the first one failed") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  node.dpu_podnet.FailNext("EnsureGuards", absl::ResourceExhaustedError("no buffer space"));
  node.to_dpu.SetHook([&](const std::string& call) {
    if (call == "Commit") CHECK_OK(node.dpu().Prepare(node.to_dpu.last_prepare()));
  });

  // The first one's undo may have taken the link, which the host makes in between, along: then it is that.
  CHECK_THAT(node.host().Add(add).status(), !Says("no buffer space"));
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("the DPU does not wait for packets longer than the host for its answer") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  SECTION("a link that is not up in time is the host's to wait for") {
    node.dpu_podnet.FailNext("AwaitLink", absl::DeadlineExceededError("no carrier"));
    CHECK_OK(node.host().Add(add));
    CHECK_OK(node.host().Del(node.Del(add)));
  }
  SECTION("one that cannot be asked is a failure") {
    node.dpu_podnet.FailNext("AwaitLink", absl::InternalError("no such device"));
    CHECK_THAT(node.host().Add(add).status(), Says("commit the DPU half: Pod uid-1: no such device"));
  }
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("local failures at any step undo the whole ADD") {
  TwoEngines node;
  const absl::Status failure = absl::ResourceExhaustedError("no buffer space");
  bool split = GENERATE(false, true);
  std::string call = GENERATE(as<std::string>(), "EnsureUplink", "EnsureGuards", "EnsureLink", "EnsureHostPorts",
                              "AddPod", "AcquireLink", "AwaitLink");
  bool reached = split ? call != "EnsureUplink" : call == "EnsureUplink" || call == "EnsureHostPorts";
  if (!reached) return;
  INFO(call);
  node.host_podnet.FailNext(call, failure);
  node.host_ports.FailNext(call, failure);
  node.host_fake_backend.FailNext(call, failure);
  cni::Request add = node.HostAdd("c1", "uid-1", split ? kSplit : kOrdinary, 8080);

  CHECK_THAT(node.host().Add(add).status(), Says("no buffer space"));
  CHECK(node.Leftovers() == Nothing());
  CHECK_OK(node.host().Add(add));
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

}  // namespace
}  // namespace heterok8s::attach
