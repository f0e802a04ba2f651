// What ADD refuses, with which code.
#include <catch2/catch.hpp>

#include "common/fault/fault.h"
#include "common/testing/matchers.h"
#include "node-agent/attach/testing/two_engines.h"

namespace heterok8s::attach {
namespace {

using heterok8s::testing::Says;
using Nothing = std::vector<std::string>;

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

TEST_CASE("when the disk has refused a sync, the PU is not ready and says why, until a new process asks the disk") {
  TwoEngines node;
  {
    fault::ScopedAction broken("ledger.sync", [] { return absl::DataLossError("Input/output error"); });
    REQUIRE(cni::CodeOf(node.host().Add(node.HostAdd("c1", "uid-1", kOrdinary)).status()) == cni::kIoFailure);
  }

  absl::Status status = node.host().Status(node.StatusRequest());
  CHECK(cni::CodeOf(status) == cni::kNotAvailable);
  CHECK_THAT(status, Says("Input/output error"));
  CHECK_FALSE(node.host().Ready().ok());
  CHECK(cni::CodeOf(node.host().Add(node.HostAdd("c2", "uid-2", kOrdinary)).status()) == cni::kTryAgainLater);
}

}  // namespace
}  // namespace heterok8s::attach
