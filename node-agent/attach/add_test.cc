// What ADD makes on the host, of every kind of Pod, and what it finds there of earlier ones.
#include <catch2/catch.hpp>

#include <algorithm>

#include "common/testing/eventually.h"
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

TEST_CASE("ipMasq is where the Pod's packets leave, and goes with the Pod") {
  TwoEngines node;
  node.extra_config = {{"ipMasq", true}};
  // Kept in what the network's Pods have, which is not the Pod's own /32 alone.
  const std::vector<std::string> subnet = {"10.88.0.0/24"};
  auto masquerades = [&](const FakeKernel& kernel) {
    std::vector<std::string> outside = kernel.MasqueradeOutside("uid-1");
    if (!outside.empty()) CHECK(outside == subnet);
    return !outside.empty();
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

TEST_CASE("a second interface of a Pod is ordinary and has its own address") {
  TwoEngines node;
  cni::Request first = node.HostAdd("c1", "uid-1", kSplit), second = first;
  second.ifname = "net1";
  cni::Result one = *node.host().Add(first), two = *node.host().Add(second);

  CHECK(one.ips[0].address != two.ips[0].address);
  CHECK(node.to_dpu.calls("Prepare") == 1);
  SECTION("it may have a hardware address of its own, and be made while the DPU is away") {
    cni::Request third = first;
    third.ifname = "net2";
    third.config.requested_mac = "02:00:00:00:00:09";
    node.SetConnected(false);
    CHECK_OK(node.host().Add(third));
    node.SetConnected(true);
    CHECK_OK(node.host().Del(node.Del(third)));
  }
  CHECK_OK(node.host().Del(node.Del(second)));
  CHECK_OK(node.host().Check(node.Check(first, one)));
  CHECK_OK(node.host().Del(node.Del(first)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a question about a Pod means its attachment that is whole, by eth0, the youngest of its name") {
  TwoEngines node;
  const auto put = [&](const char* container, const char* ifname, const char* uid, ledger::State state,
                       uint64_t generation) {
    REQUIRE_OK(node.host_ledger->Transact([&](ledger::Tx& tx) {
      return tx.PutAttachment({.key = {"podnet", container, ifname},
                               .pod_key = uid,
                               .pod_namespace = "default",
                               .pod_name = "web-0",
                               .state = state,
                               .generation = generation,
                               .details = Details{.owner = uid}.ToText()});
    }));
  };
  const auto found = [&](const std::string& pod) { return node.host().inspect().FindPod(pod)->container_id; };

  put("c1", "eth0", "uid-1", ledger::State::kDeleting, 1);
  CHECK(found("default/web-0") == "c1");
  put("c2", "eth0", "uid-2", ledger::State::kPreparing, 2);
  CHECK(found("default/web-0") == "c2");
  CHECK(found("uid-1") == "c1");
  put("a3", "net1", "uid-2", ledger::State::kCommitted, 3);
  put("c2", "eth0", "uid-2", ledger::State::kCommitted, 2);
  CHECK(node.host().inspect().FindPod("default/web-0")->ifname == "eth0");
  put("c4", "eth0", "uid-4", ledger::State::kCommitted, 4);
  CHECK(found("default/web-0") == "c4");
}

TEST_CASE("what could not be made again at the start is tried again") {
  TwoEngines node;
  const bool split = GENERATE(false, true);
  cni::Request add = node.HostAdd("c1", "uid-1", split ? kSplit : kOrdinary);
  cni::Result result = *node.host().Add(add);
  node.host_podnet.FailNext(split ? "EnsureLink" : "EnsureUplink", absl::ResourceExhaustedError("no buffer space"));
  REQUIRE_OK(node.host_ports.RemovePod("uid-1"));
  const pu::OwnerTag tag{.instance = "demo", .pod_key = "uid-1", .ifname = "eth0"};
  if (!split) REQUIRE_OK(node.host_podnet.RemoveUplink(tag, add.netns));

  node.CrashHost();

  CHECK(heterok8s::testing::Eventually([&] { return node.host().Check(node.Check(add, result)).ok(); }));
}

}  // namespace
}  // namespace heterok8s::attach
