// A Node that is not Ready in time is put back as it was.
#include "common/testing/matchers.h"
#include "heteroctl/node/scripted_machine.h"

namespace heterok8s::ctl {
namespace {

TEST_CASE("a Node that is not Ready in time is put back as it was, and the error says so") {
  Node node;
  SECTION("because kubelet does not come to life with heterocri, though its last word was Ready") {
    node.machine.likes_heterocri = false;
  }
  SECTION("because it takes too long") { node.machine.ready_after = std::chrono::seconds(61); }
  absl::Status status = node.Enable();

  REQUIRE(!status.ok());
  CHECK(!node.machine.Read(kKubeletDropIn).ok());
  CHECK(std::count(node.machine.log.begin(), node.machine.log.end(), "restart kubelet.service") == 2);
  CHECK(node.machine.Did("stop heterok8s-node-rollback.timer"));
  if (!node.machine.likes_heterocri) {
    CHECK(ToString(status).find("put back as it was, and is Ready") != std::string::npos);
  }
}

TEST_CASE("a renewal that does not become Ready puts the former drop-ins back: the Node stays enabled") {
  for (Via via : {Via::kKubelet, Via::kSocket}) {
    Node node(via);
    REQUIRE_OK(node.Enable());
    const char* changed = via == Via::kKubelet ? kKubeletDropIn : kRuntimeDropIn;
    const std::string former = *node.machine.Read(changed);
    node.machine.units[via == Via::kKubelet ? "kubelet.service" : "containerd.service"] =
        "# /lib/x\n[Service]\nExecStart=/usr/bin/new --argument\n";
    node.machine.dislikes = "--argument";

    const absl::Status status = node.Enable();

    REQUIRE(!status.ok());
    CHECK(ToString(status).find("put back as it was, and is Ready") != std::string::npos);
    CHECK(*node.machine.Read(changed) == former);
    CHECK(!node.machine.Read(std::string(changed) + ".former").ok());
  }
}

TEST_CASE("by socket: a Node that is called Ready while nobody answers on its runtime's socket is put back") {
  Node node(Via::kSocket);
  node.machine.heterocri_comes = false;

  const absl::Status status = node.Enable();

  REQUIRE(!status.ok());
  CHECK(ToString(status).find("nobody listens on '/run/containerd/containerd.sock'") != std::string::npos);
  CHECK(ToString(status).find("put back as it was, and is Ready") != std::string::npos);
  CHECK(!node.machine.Read(kRuntimeDropIn).ok());
  CHECK(!node.machine.Read(kRouterDropIn).ok());
}

TEST_CASE("by socket: a kubelet that gives its runtime up after its half minute is seen, also when the clock is set") {
  Node node(Via::kSocket);
  node.options.steady_for = std::chrono::seconds(35);
  node.machine.gives_up_after = std::chrono::seconds(33);
  SECTION("the clock runs as ours") {}
  SECTION("the clock is set forward meanwhile") { node.machine.clock_jumps = std::chrono::hours(1); }

  const absl::Status status = node.Enable();

  REQUIRE(!status.ok());
  CHECK(ToString(status).find("is not Ready") != std::string::npos);
  CHECK(!node.machine.Read(kRuntimeDropIn).ok());
}

TEST_CASE("a Node that is Ready late is given the time in which it must stay so") {
  Node node;
  node.machine.ready_after = std::chrono::seconds(55);

  CHECK_OK(node.Enable());
}

TEST_CASE(
    "by socket: heterocri that does not start at its first try is waited for, and keeps no disable from its end") {
  Node node(Via::kSocket);
  node.machine.fails_at = "start";

  CHECK_OK(node.Enable());
  CHECK(node.machine.Read(kRuntimeDropIn).ok());
  CHECK_OK(node.Disable());
  CHECK(!node.machine.Read(kRuntimeDropIn).ok());
  CHECK(node.machine.Did("ln -sfn /run/containerd/containerd.sock.ttrpc /run/containerd/containerd-host.sock.ttrpc"));
}

}  // namespace
}  // namespace heterok8s::ctl
