// The CNI verbs on the host, with both PUs well.
#include <fmt/format.h>
#include <catch2/catch.hpp>

#include <algorithm>

#include "common/fault/fault.h"
#include "common/testing/matchers.h"
#include "node-agent/attach/testing/two_engines.h"

namespace heterok8s::attach {
namespace {

using heterok8s::testing::Says;
using Nothing = std::vector<std::string>;

TEST_CASE("an ordinary Pod gets its result and leaves nothing") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kOrdinary, 8080);

  absl::StatusOr<cni::Result> result = node.host().Add(add);

  REQUIRE_OK(result);
  REQUIRE(result->interfaces.size() == 2);
  CHECK(result->interfaces[0].sandbox.empty());
  CHECK(result->interfaces[1].name == "eth0");
  CHECK(result->interfaces[1].sandbox == add.netns);
  CHECK(result->interfaces[1].mtu == 1500);
  REQUIRE(result->ips.size() == 1);
  CHECK(result->ips[0].interface == 1);
  CHECK_FALSE(result->routes.empty());
  CHECK(node.to_dpu.calls("Prepare") == 0);
  CHECK(node.host_kernel.Objects("") ==
        std::vector<std::string>{"uplink heterok8s:demo:uid-1:eth0", "host ports of uid-1", "namespace /run/netns/c1"});
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a split Pod has both halves with one generation and one address, and leaves nothing") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit, 8080);

  absl::StatusOr<cni::Result> result = node.host().Add(add);

  REQUIRE_OK(result);
  node.Heartbeat();
  REQUIRE(result->interfaces.size() == 2);
  CHECK(result->interfaces[0].name == "eth0");
  CHECK(result->interfaces[0].sandbox == add.netns);
  CHECK(result->interfaces[1].sandbox.empty());
  CHECK(result->ips.at(0).interface == 0);
  PodView host = *node.host().inspect().FindPod("default/pod-uid-1"), dpu = *node.dpu().inspect().FindPod("uid-1");
  CHECK(host.mode == ledger::Mode::kSplit);
  CHECK(host.state == ledger::State::kCommitted);
  CHECK(dpu.state == ledger::State::kCommitted);
  CHECK(host.generation == dpu.generation);
  CHECK(host.peer_generation == host.generation);
  CHECK(dpu.peer_generation == host.generation);
  CHECK(host.addresses == dpu.addresses);
  CHECK(host.placement_reason == "annotation heteropod.io/offload=dpu");
  CHECK(host.host_ports.at(0).host_port == 8080);
  CHECK(dpu.host_ports.at(0).host_port == 8080);
  CHECK(dpu.host_ports.at(0).host_ip == *IpAddress::Parse("192.0.2.1"));
  CHECK(host.link->link.dpu_pod == dpu.link->link.dpu_pod);
  CHECK_OK(node.host().inspect().LinkOf("uid-1"));
  CHECK(node.host().inspect().Summarise()->split_pods == 1);
  CHECK(node.fabric.size() == 1);

  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a Pod's MTU is the least that its way to the network carries, unless the configuration says otherwise") {
  struct Case {
    const char* what;
    int configured, host, dpu, wanted;
  };
  const Case cases[] = {{"nothing is known", 0, 0, 0, 1500},         {"no default route on the host", 0, 0, 1400, 1400},
                        {"none on the DPU", 0, 9000, 0, 9000},       {"the DPU's is less", 0, 9000, 1450, 1450},
                        {"the host's is less", 0, 1400, 9000, 1400}, {"configured", 8900, 1500, 1400, 8900}};
  const Annotations& annotations = GENERATE(kOrdinary, kSplit);
  for (const Case& c : cases) {
    INFO(c.what);
    TwoEngines node({.mtu = c.configured});
    node.host_uplink_mtu = c.host;
    node.to_dpu.uplink_mtu = c.dpu;
    cni::Request add = node.HostAdd("c1", "uid-1", annotations);

    absl::StatusOr<cni::Result> result = node.host().Add(add);

    REQUIRE_OK(result);
    CHECK(result->interfaces.at(0).mtu == c.wanted);
    CHECK(result->interfaces.at(1).mtu == c.wanted);
    CHECK_OK(node.host().Del(node.Del(add)));
  }
}

TEST_CASE("ADD of what is there already is refused; ADD of what only the ledger remembers starts over") {
  TwoEngines node;
  const Annotations& annotations = GENERATE(kOrdinary, kSplit);
  cni::Request add = node.HostAdd("c1", "uid-1", annotations);
  REQUIRE_OK(node.host().Add(add));

  absl::Status again = node.host().Add(add).status();
  CHECK(cni::CodeOf(again) == cni::kInterfaceExists);
  CHECK_THAT(again, Says("c1"));

  // The namespace was made anew at the same path, as `ip netns` users do.
  node.host_kernel.DestroyNetns(add.netns);
  node.host_kernel.AddNetns(add.netns);
  CHECK_OK(node.host().Add(add));
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a new sandbox of the same Pod takes the old one's place, and the old one's late DEL does not hurt it") {
  TwoEngines node;
  const Annotations& annotations = GENERATE(kOrdinary, kSplit);
  cni::Request old = node.HostAdd("c1", "uid-1", annotations), now = node.HostAdd("c2", "uid-1", annotations);
  REQUIRE_OK(node.host().Add(old));
  absl::StatusOr<cni::Result> result = node.host().Add(now);
  REQUIRE_OK(result);

  CHECK_OK(node.host().Del(node.Del(old)));
  CHECK_OK(node.host().Check(node.Check(now, *result)));
  CHECK_OK(node.host().Del(node.Del(now)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("DEL succeeds with namespace, arguments or row gone, and again") {
  TwoEngines node;
  const Annotations& annotations = GENERATE(kOrdinary, kSplit);
  cni::Request add = node.HostAdd("c1", "uid-1", annotations);
  REQUIRE_OK(node.host().Add(add));
  cni::Request del = node.Del(add);
  SECTION("the namespace is gone") {
    // The kernel takes the link with the namespace.
    sys::NetnsRef ns = *sys::NetnsRef::Current();
    REQUIRE_OK(node.host_fake_backend.ReleaseLink({"demo", "uid-1", "eth0"}, &ns));
    node.host_kernel.DestroyNetns(add.netns);
    del.netns.clear();
  }
  SECTION("CNI_ARGS are missing") { del.args.clear(); }
  SECTION("nothing is missing") {}

  CHECK_OK(node.host().Del(del));
  CHECK_OK(node.host().Del(del));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a DEL without a row scrubs what the kernel has of that sandbox") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kOrdinary, 8080);
  REQUIRE_OK(node.host().Add(add));
  REQUIRE_OK(node.host_ledger->Transact([](ledger::Tx& tx) -> absl::Status {
    HK_RETURN_IF_ERROR(tx.DeleteAttachment({"podnet", "c1", "eth0"}));
    return tx.ReleaseAddresses("podnet", "uid-1");
  }));

  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("what cannot be attached is refused with the code that says why, and leaves nothing") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kOrdinary);
  int code = 0;
  std::string says;
  SECTION("the namespace is gone") {
    add.netns = "/run/netns/none";
    code = cni::kInvalidNetns;
    says = "/run/netns/none";
  }
  SECTION("the namespace is gone, split") {
    add = node.HostAdd("c1", "uid-1", kSplit);
    add.netns = "/run/netns/none";
    code = cni::kInvalidNetns;
    says = "/run/netns/none";
  }
  SECTION("a foreign interface has the name") {
    node.host_kernel.AddForeignInterface(add.netns, "eth0");
    code = cni::kInterfaceExists;
    says = "eth0";
  }
  SECTION("the annotation is unknown") {
    add = node.HostAdd("c1", "uid-1", {{"heteropod.io/offload", "gpu"}});
    code = cni::kInvalidConfig;
    says = "'gpu'";
  }
  SECTION("it is chained") {
    add.config.prev_result = cni::Result{};
    code = cni::kUnsupportedField;
    says = "prevResult";
  }
  SECTION("a split Pod asks for a hardware address") {
    add = node.HostAdd("c1", "uid-1", kSplit);
    add.config.requested_mac = "02:00:00:00:00:09";
    code = cni::kUnsupportedField;
    says = "runtimeConfig.mac";
  }
  SECTION("the MTU is too small") {
    add.config.mtu = 1000;
    code = cni::kInvalidConfig;
    says = "1280";
  }

  absl::Status refused = node.host().Add(add).status();
  CHECK(cni::CodeOf(refused) == code);
  CHECK_THAT(refused, Says(says));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a taken host port and exhausted addresses are refused with their codes") {
  TwoEngines node;
  node.subnet = "10.88.0.0/30";  // one address beside the gateway
  cni::Request first = node.HostAdd("c1", "uid-1", kOrdinary, 8080);
  REQUIRE_OK(node.host().Add(first));

  CHECK(cni::CodeOf(node.host().Add(node.HostAdd("c2", "uid-2", kOrdinary)).status()) == cni::kAddressExhausted);
  CHECK(cni::CodeOf(node.host().Status(node.StatusRequest())) == cni::kNotAvailable);
  node.subnet = "10.89.0.0/24";
  CHECK_OK(node.host().Status(node.StatusRequest()));
  const Annotations& annotations = GENERATE(kOrdinary, kSplit);
  absl::Status taken = node.host().Add(node.HostAdd("c3", "uid-3", annotations, 8080)).status();
  CHECK(cni::CodeOf(taken) == cni::kHostPortTaken);
  CHECK_THAT(taken, Says("by Pod default/pod-uid-1 (UID uid-1)") && Says("choose another hostPort"));

  CHECK_OK(node.host().Del(node.Del(first)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("ipMasq is where the Pod's packets leave, and goes with the Pod") {
  TwoEngines node;
  node.extra_config = {{"ipMasq", true}};
  auto masquerades = [](const FakeKernel& kernel) {
    std::vector<std::string> objects = kernel.Objects("");
    return std::count(objects.begin(), objects.end(), "host ports of uid-1") == 1;
  };
  SECTION("an ordinary Pod's on the host") {
    cni::Request add = node.HostAdd("c1", "uid-1", kOrdinary);
    REQUIRE_OK(node.host().Add(add));
    CHECK(masquerades(node.host_kernel));
    CHECK_OK(node.host().Del(node.Del(add)));
  }
  SECTION("a split Pod's on the DPU, with a half of our own") {
    cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
    REQUIRE_OK(node.host().Add(add));
    CHECK_FALSE(masquerades(node.host_kernel));
    CHECK(masquerades(node.dpu_kernel));
    CHECK_OK(node.host().Del(node.Del(add)));
  }
  SECTION("and with a twin, until the host's half goes") {
    cni::Request twin = node.TwinAdd("t1", "uid-1"), add = node.HostAdd("c1", "uid-1", kSplit);
    REQUIRE_OK(node.dpu().Add(twin));
    REQUIRE_OK(node.host().Add(add));
    CHECK(masquerades(node.dpu_kernel));
    CHECK_OK(node.host().Del(node.Del(add)));
    CHECK_FALSE(masquerades(node.dpu_kernel));
    CHECK_OK(node.dpu().Del(node.Del(twin)));
  }
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("CHECK finds what is missing, on either PU") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  cni::Result result = *node.host().Add(add);
  cni::Request check = node.Check(add, result);
  CHECK_OK(node.host().Check(check));

  SECTION("no prevResult") {
    check.config.prev_result.reset();
    CHECK_THAT(node.host().Check(check), Says("prevResult"));
  }
  SECTION("prevResult shows another address") {
    check.config.prev_result->ips[0].address = *IpPrefix::Parse("10.88.0.200/32");
    CHECK_FALSE(node.host().Check(check).ok());
  }
  SECTION("the host's wiring is gone") {
    REQUIRE_OK(node.host_podnet.RemoveLink(*node.host().inspect().LinkOf("uid-1")));
    CHECK_THAT(node.host().Check(check), Says("no link"));
  }
  SECTION("the ports are not followed") {
    REQUIRE_OK(node.host_ports.RemovePod("uid-1"));
    CHECK_THAT(node.host().Check(check), Says("ports"));
  }
  SECTION("the DPU half is gone") {
    REQUIRE_OK(node.dpu().Remove({"uid-1", node.HostGeneration("uid-1")}));
    CHECK_THAT(node.host().Check(check), Says("was not prepared"));
  }
  SECTION("the DPU is away") {
    node.SetConnected(false);
    CHECK(cni::CodeOf(node.host().Check(check)) == cni::kDpuUnavailable);
  }
  SECTION("it was never added") {
    cni::Request other = node.Check(node.HostAdd("c9", "uid-9", kSplit), result);
    CHECK(cni::CodeOf(node.host().Check(other)) == cni::kUnknownContainer);
  }
}

TEST_CASE("GC frees what is not listed, of this network only, and needs a list") {
  TwoEngines node;
  cni::Request keep = node.HostAdd("keep", "uid-1", kSplit), stale = node.HostAdd("stale", "uid-2", kSplit),
               stale_too = node.HostAdd("stale2", "uid-3", kOrdinary, 8080);
  cni::Result result = *node.host().Add(keep);
  REQUIRE_OK(node.host().Add(stale));
  REQUIRE_OK(node.host().Add(stale_too));

  cni::Request other_network = node.Gc({});
  other_network.config.name = "other";
  CHECK_OK(node.host().Gc(other_network));
  CHECK(node.host().inspect().Summarise()->attachments == 3);
  cni::Request no_list = node.Gc({});
  no_list.config.has_valid_attachments = false;
  CHECK(cni::CodeOf(node.host().Gc(no_list)) == cni::kInvalidConfig);

  CHECK_OK(node.host().Gc(node.Gc({{"keep", "eth0"}})));
  CHECK(node.host().inspect().Summarise()->attachments == 1);
  CHECK_OK(node.host().Check(node.Check(keep, result)));
  CHECK_OK(node.host().Gc(node.Gc({})));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a second interface of a Pod is ordinary and has its own address") {
  TwoEngines node;
  cni::Request first = node.HostAdd("c1", "uid-1", kSplit), second = first;
  second.ifname = "net1";
  cni::Result one = *node.host().Add(first), two = *node.host().Add(second);

  CHECK(one.ips[0].address != two.ips[0].address);
  CHECK(node.to_dpu.calls("Prepare") == 1);
  CHECK_OK(node.host().Del(node.Del(second)));
  CHECK_OK(node.host().Check(node.Check(first, one)));
  CHECK_OK(node.host().Del(node.Del(first)));
  CHECK(node.Leftovers() == Nothing());
}

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
  CHECK(there == std::vector<std::string>{"uplink heterok8s:demo:uid-1:eth0", "guards of heterok8s:demo:uid-1:eth0"});
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

TEST_CASE("a DEL that fails locally says so and can be repeated") {
  TwoEngines node;
  bool split = GENERATE(false, true);
  cni::Request add = node.HostAdd("c1", "uid-1", split ? kSplit : kOrdinary);
  REQUIRE_OK(node.host().Add(add));
  node.host_podnet.FailNext(split ? "RemoveLink" : "RemoveUplink", absl::InternalError("busy"));

  CHECK_THAT(node.host().Del(node.Del(add)), Says("busy"));
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

}  // namespace
}  // namespace heterok8s::attach
