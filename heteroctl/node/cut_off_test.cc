// What was killed half-way is done again, or undone by systemd's timer; nobody else is at work meanwhile.
#include "common/testing/matchers.h"
#include "heteroctl/node/scripted_machine.h"

namespace heterok8s::ctl {
namespace {

using testing::HasCode;

TEST_CASE("the net of systemd does for this Node what we would do, also when it has names of its own") {
  Node node;
  node.options.kubelet_unit = "k3s.service";
  node.options.kubeconfig = "/etc/k3s/kubelet.kubeconfig";
  node.options.healthz_port = 10300;
  node.machine.units["k3s.service"] = kKubeadm;
  REQUIRE_OK(node.Enable());

  CHECK(node.machine.net.find("/usr/bin/heteroctl node rollback --via kubelet --kubelet-unit k3s.service "
                              "--runtime-unit containerd.service --runtime-socket /run/containerd/containerd.sock "
                              "--node-name n1 --kubeconfig /etc/k3s/kubelet.kubeconfig --healthz-port 10300") !=
        std::string::npos);
}

TEST_CASE(
    "a renewal that is killed is undone by systemd's timer: the Node stays enabled; without a former one it is not") {
  Node node;
  REQUIRE_OK(node.Enable());
  const std::string former = *node.machine.Read(kKubeletDropIn);
  node.machine.units["kubelet.service"] = "# /lib/x\n[Service]\nExecStart=/usr/bin/new --argument\n";
  node.machine.fails_at = "restart";  // and so does the putting back: as if killed there
  REQUIRE(!node.Enable().ok());
  REQUIRE_OK(node.machine.Write(std::string(kKubeletDropIn) + ".former", former));
  REQUIRE_OK(node.machine.Write(kKubeletDropIn, "[Service]\nExecStart=/usr/bin/new --argument\n"));
  node.machine.fails_at.clear();

  REQUIRE_OK(node.Rollback());
  CHECK(*node.machine.Read(kKubeletDropIn) == former);
  CHECK(!node.machine.Read(std::string(kKubeletDropIn) + ".former").ok());

  REQUIRE_OK(node.Rollback());
  CHECK(!node.machine.Read(kKubeletDropIn).ok());
}

TEST_CASE("an enable that was killed with its files in place is done again, and nothing puts the Node back later") {
  for (Via via : {Via::kKubelet, Via::kSocket}) {
    Node node(via);
    REQUIRE_OK(node.Enable());
    node.machine.armed = true;  // as it is until the end
    node.machine.log.clear();

    REQUIRE_OK(node.Enable());
    CHECK(node.machine.Did(via == Via::kKubelet ? "restart kubelet.service" : "restart containerd.service"));
    CHECK(node.machine.Did("net"));
    CHECK_FALSE(node.machine.armed);
  }
}

TEST_CASE("a disable that was killed before the units ran without its files is finished by the next one") {
  Node node;
  REQUIRE_OK(node.Enable());
  node.machine.fails_at = "restart";
  REQUIRE(!node.Disable().ok());
  REQUIRE_OK(node.machine.Read(kKubeletDropIn));
  CHECK(node.machine.Read(kKubeletDropIn)->find("ExecStart") == std::string::npos);
  CHECK(!node.AllGood());

  node.machine.fails_at.clear();
  node.machine.log.clear();
  REQUIRE_OK(node.Disable());
  CHECK(node.machine.Did("restart kubelet.service"));
  CHECK(!node.machine.Read(kKubeletDropIn).ok());
}

TEST_CASE("a disable after an enable that was killed disarms the net") {
  Node node;
  REQUIRE_OK(node.Enable());
  node.machine.armed = true;

  REQUIRE_OK(node.Disable());
  CHECK_FALSE(node.machine.armed);
}

TEST_CASE("a disable that was killed before all was done is finished by the next one, and check says so meanwhile") {
  Node node(Via::kSocket);
  REQUIRE_OK(node.Enable());
  node.machine.fails_at = "ln";
  REQUIRE(!node.Disable().ok());
  const std::vector<Finding> findings = node.Check();
  CHECK(std::any_of(findings.begin(), findings.end(),
                    [](const Finding& finding) { return finding.state.find("disable again") != std::string::npos; }));

  node.machine.fails_at.clear();
  node.machine.log.clear();
  REQUIRE_OK(node.Disable());
  CHECK(node.machine.Did("ln -sfn /run/containerd/containerd.sock.ttrpc /run/containerd/containerd-host.sock.ttrpc"));
  CHECK(!node.machine.Read(kRuntimeDropIn).ok());
}

TEST_CASE("a disable disarms the net of an enable that was killed before it changed anything") {
  Node node;
  node.machine.armed = true;

  REQUIRE_OK(node.Disable());
  CHECK_FALSE(node.machine.armed);
  CHECK(!node.machine.Did("restart kubelet.service"));
}

TEST_CASE("one at a time: enable and disable refuse while another is at work, rollback waits for it") {
  Node node;
  const auto busy = [&] { node.machine.others_until = node.machine.Clock() + std::chrono::minutes(3); };
  busy();
  CHECK_THAT(node.Enable(), HasCode(absl::StatusCode::kUnavailable));
  CHECK(!node.machine.Read(kKubeletDropIn).ok());
  node.machine.others_until.reset();
  REQUIRE_OK(node.Enable());
  busy();
  CHECK_THAT(node.Disable(), HasCode(absl::StatusCode::kUnavailable));
  CHECK(node.machine.Read(kKubeletDropIn).ok());
  node.machine.log.clear();

  const auto begun = node.machine.Now();
  REQUIRE_OK(node.Rollback());
  CHECK(node.machine.Now() - begun >= std::chrono::minutes(3));
  CHECK(!node.machine.Read(kKubeletDropIn).ok());
}

TEST_CASE("an enable that comes to its end ends a rollback that waits for it") {
  Node node;
  REQUIRE_OK(node.Enable());
  CHECK(node.machine.Did("stop heterok8s-node-rollback.timer"));
  CHECK(node.machine.Did("stop heterok8s-node-rollback.service"));
}

TEST_CASE("one of two machines' objects is the only one, until it goes") {
  Folder folder;
  SystemdMachine second(folder.path);
  {
    SystemdMachine first(folder.path);
    REQUIRE_OK(first.BeTheOnlyOne());
    REQUIRE_OK(first.BeTheOnlyOne());
    CHECK_THAT(second.BeTheOnlyOne(), HasCode(absl::StatusCode::kUnavailable));
  }
  CHECK_OK(second.BeTheOnlyOne());
}

}  // namespace
}  // namespace heterok8s::ctl
