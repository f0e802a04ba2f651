// Enabling and disabling that come to their end.
#include "heteroctl/node/switch.h"

#include "common/testing/matchers.h"
#include "heteroctl/node/scripted_machine.h"

namespace heterok8s::ctl {
namespace {

using testing::HasCode;

TEST_CASE("enable points kubelet at heterocri with its own arguments kept, and disable leaves nothing") {
  Node node;
  REQUIRE_OK(node.Enable());

  std::string text = *node.machine.Read(kKubeletDropIn);
  CHECK(text.find("ExecStart=\nExecStart=/usr/bin/kubelet $KUBELET_CONFIG_ARGS $KUBELET_EXTRA_ARGS "
                  "--container-runtime-endpoint=unix:///run/heterok8s/cri.sock\n") != std::string::npos);
  CHECK(text.find("After=heterocri.service\n") != std::string::npos);
  CHECK(node.machine.Did("net"));
  CHECK(node.machine.Did("stop heterok8s-node-rollback.timer"));
  CHECK(!node.machine.Did("restart containerd.service"));
  CHECK(node.AllGood());

  node.machine.log.clear();
  REQUIRE_OK(node.Enable());  // once more changes nothing
  CHECK(!node.machine.Did("restart kubelet.service"));

  REQUIRE_OK(node.Disable());
  CHECK(!node.machine.Read(kKubeletDropIn).ok());
  CHECK(node.machine.Did("restart kubelet.service"));
  CHECK(!node.AllGood());
  node.machine.log.clear();
  REQUIRE_OK(node.Disable());
  CHECK(node.machine.log == std::vector<std::string>{"is-active --quiet heterok8s-node-rollback.timer"});
}

TEST_CASE("by socket: containerd moves, heterocri takes its place, kubelet is not touched") {
  Node node(Via::kSocket);
  REQUIRE_OK(node.Enable());

  CHECK(node.machine.Read(kRuntimeDropIn)->find("--address /run/containerd/containerd-host.sock") != std::string::npos);
  // Shims that began before tell their events where they always did, and those that began meanwhile afterwards.
  CHECK(node.machine.Read(kRuntimeDropIn)
            ->find("ExecStartPost=/bin/ln -sfn /run/containerd/containerd-host.sock.ttrpc "
                   "/run/containerd/containerd.sock.ttrpc\n") != std::string::npos);
  CHECK(node.machine.Read(kRouterDropIn)
            ->find("--listen /run/containerd/containerd.sock --host-socket /run/containerd/containerd-host.sock") !=
        std::string::npos);
  auto at = [&](const std::string& what) {
    return std::find(node.machine.log.begin(), node.machine.log.end(), what) - node.machine.log.begin();
  };
  CHECK(at("stop heterocri.service") < at("restart containerd.service"));
  CHECK(at("restart containerd.service") < at("start heterocri.service"));
  CHECK(!node.machine.Did("restart kubelet.service"));
  REQUIRE_OK(node.Disable());
  CHECK(!node.machine.Read(kRuntimeDropIn).ok());
  CHECK(!node.machine.Read(kRouterDropIn).ok());
  CHECK(at("restart containerd.service") <
        at("ln -sfn /run/containerd/containerd.sock.ttrpc /run/containerd/containerd-host.sock.ttrpc"));
}

TEST_CASE("what is enabled one way is neither enabled nor disabled the other way") {
  for (Via via : {Via::kKubelet, Via::kSocket}) {
    Node node(via);
    REQUIRE_OK(node.Enable());
    node.options.via = via == Via::kKubelet ? Via::kSocket : Via::kKubelet;
    CHECK_THAT(node.Disable(), HasCode(absl::StatusCode::kFailedPrecondition));
    CHECK_THAT(node.Enable(), HasCode(absl::StatusCode::kFailedPrecondition));
    node.options.via = via;
    CHECK_OK(node.Disable());
  }
}

TEST_CASE("nothing is touched when heterocri is not there, or the Node is not well before") {
  Node node;
  SECTION("no heterocri") { node.machine.sockets.erase("/run/heterok8s/cri.sock"); }
  SECTION("kubelet is down") { node.machine.healthy = false; }
  SECTION("a unit that is not understood") { node.machine.units["kubelet.service"] = "[Service]\n"; }

  CHECK(!node.Enable().ok());
  CHECK(!node.machine.Read(kKubeletDropIn).ok());
  CHECK(!node.machine.Did("restart kubelet.service"));
}

TEST_CASE("disable asks before split Pods lose their runtime") {
  Node node;
  REQUIRE_OK(node.Enable());
  node.machine.split_pods = 3;

  absl::Status refused = node.Disable();
  CHECK_THAT(refused, HasCode(absl::StatusCode::kFailedPrecondition));
  CHECK(ToString(refused).find("3 split Pods") != std::string::npos);
  CHECK(node.machine.Read(kKubeletDropIn).ok());
  node.options.force = true;
  CHECK_OK(node.Disable());
}

TEST_CASE("disable asks containerd itself when heterocri does not answer, and refuses when nobody does") {
  for (Via via : {Via::kKubelet, Via::kSocket}) {
    Node node(via);
    REQUIRE_OK(node.Enable());
    node.machine.sockets = {via == Via::kKubelet ? "/run/containerd/containerd.sock"
                                                 : "/run/containerd/containerd-host.sock"};
    node.machine.split_pods = 1;
    absl::Status refused = node.Disable();
    CHECK_THAT(refused, HasCode(absl::StatusCode::kFailedPrecondition));
    CHECK(ToString(refused).find("1 split Pods") != std::string::npos);

    node.machine.sockets.clear();
    refused = node.Disable();
    CHECK_THAT(refused, HasCode(absl::StatusCode::kFailedPrecondition));
    CHECK(ToString(refused).find("nobody says whether split Pods run") != std::string::npos);
    CHECK(node.machine.Read(via == Via::kKubelet ? kKubeletDropIn : kRuntimeDropIn).ok());

    node.machine.sockets = {"/run/containerd/containerd.sock"};  // with --force the Node needs one that answers
    node.options.force = true;
    CHECK_OK(node.Disable());
  }
}

TEST_CASE("check tells when the unit has changed under the drop-in") {
  Node node;
  REQUIRE_OK(node.Enable());
  node.machine.units["kubelet.service"] =
      "# /lib/systemd/system/kubelet.service\n[Service]\nExecStart=/usr/bin/kubelet --new\n";
  CHECK(!node.AllGood());
  REQUIRE_OK(node.Enable());
  CHECK(node.machine.Read(kKubeletDropIn)->find("--new --container-runtime-endpoint") != std::string::npos);
  CHECK(node.AllGood());
}

}  // namespace
}  // namespace heterok8s::ctl
