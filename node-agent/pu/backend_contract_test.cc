// What every back end promises, on the fake and on the kernel.

#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <memory>

#include "common/sys/netns.h"
#include "common/testing/matchers.h"
#include "node-agent/pu/fake_backend.h"
#include "node-agent/pu/netns_backend.h"

namespace heterok8s::pu {
namespace {

using testing::HasCode;

// Namespaces under names that no other test uses.
class Namespaces {
 public:
  ~Namespaces() {
    for (const std::string& path : paths_) (void)sys::DeleteNetns(path);
  }
  sys::NetnsRef Make(const std::string& name) {
    paths_.push_back(PathOf(name));
    return *sys::CreateNetns(paths_.back());
  }
  std::string PathOf(const std::string& name) const { return fmt::format("/run/netns/hkpu{}-{}", getpid(), name); }

 private:
  std::vector<std::string> paths_;
};

struct Env {
  Namespaces namespaces;
  sys::NetnsRef pod_h = namespaces.Make("pod-h"), pod_d = namespaces.Make("pod-d");
  OwnerTag tag{"test", "pod-1", "eth0"};

  LinkRequest HostRequest() const { return {.mtu = 1400, .netns = &pod_h, .ifname = "eth0"}; }
  LinkRequest DpuRequest() const { return {.mtu = 1400, .netns = &pod_d, .ifname = "xpu0"}; }
};

struct FakeEnv : Env {
  FakeFabric fabric;
  FakeBackend host_backend{fabric, Side::kHost, "test"}, dpu_backend{fabric, Side::kDpu, "test"};

  Backend& host() { return host_backend; }
  Backend& dpu() { return dpu_backend; }
  void LoseDpu() { fabric.SetDpuDown(true); }
};

struct KernelEnv : Env {
  sys::NetnsRef host_root = namespaces.Make("host"), dpu_root = namespaces.Make("dpu");
  std::unique_ptr<Backend> host_backend, dpu_backend;

  KernelEnv() {
    REQUIRE_OK(sys::InNetns(host_root, [&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(
          host_backend,
          NewNetnsBackend({.side = Side::kHost, .instance = "test", .peer_netns = namespaces.PathOf("dpu")}));
      return absl::OkStatus();
    }));
    REQUIRE_OK(sys::InNetns(dpu_root, [&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(dpu_backend, NewNetnsBackend({.side = Side::kDpu, .instance = "test"}));
      return absl::OkStatus();
    }));
  }
  Backend& host() { return *host_backend; }
  Backend& dpu() { return *dpu_backend; }
  void LoseDpu() { CHECK_OK(sys::DeleteNetns(namespaces.PathOf("dpu"))); }
};

TEMPLATE_TEST_CASE("a link is made by the host and accepted by the DPU", "[netns][contract]", FakeEnv, KernelEnv) {
  TestType env;

  auto mine = env.host().AcquireLink(env.tag, env.HostRequest());
  REQUIRE_OK(mine);
  CHECK(*env.dpu().ListLinks() == std::vector<OwnerTag>{env.tag});
  auto theirs = env.dpu().AcceptLink(env.tag, env.DpuRequest());
  REQUIRE_OK(theirs);

  CHECK(mine->ifname == "eth0");
  CHECK(mine->mac == LinkMac(env.tag, Side::kHost));
  CHECK(mine->mtu == 1400);
  CHECK(theirs->ifname == "xpu0");
  CHECK(theirs->mac == LinkMac(env.tag, Side::kDpu));
  CHECK(theirs->mtu == 1400);
  CHECK(env.dpu().ListLinks()->empty());
  CHECK(env.host().ListLinks()->empty());
}

TEMPLATE_TEST_CASE("every call may be repeated", "[netns][contract]", FakeEnv, KernelEnv) {
  TestType env;

  for (int i = 0; i < 2; ++i) {
    auto mine = env.host().AcquireLink(env.tag, env.HostRequest());
    REQUIRE_OK(mine);
    CHECK(mine->ifname == "eth0");
  }
  for (int i = 0; i < 2; ++i) {
    auto theirs = env.dpu().AcceptLink(env.tag, env.DpuRequest());
    REQUIRE_OK(theirs);
    CHECK(theirs->ifname == "xpu0");
  }
  CHECK_OK(env.host().AcquireLink(env.tag, env.HostRequest()));
  CHECK_OK(env.dpu().AcceptLink(env.tag, env.DpuRequest()));
  for (int i = 0; i < 2; ++i) CHECK_OK(env.host().ReleaseLink(env.tag, &env.pod_h));
  for (int i = 0; i < 2; ++i) CHECK_OK(env.dpu().ReleaseLink(env.tag, &env.pod_d));
}

TEMPLATE_TEST_CASE("a link that the host has not made is not found", "[netns][contract]", FakeEnv, KernelEnv) {
  TestType env;

  CHECK_THAT(env.dpu().AcceptLink(env.tag, env.DpuRequest()).status(), HasCode(absl::StatusCode::kNotFound));
}

TEMPLATE_TEST_CASE("either side's release removes the link for both", "[netns][contract]", FakeEnv, KernelEnv) {
  TestType env;
  REQUIRE_OK(env.host().AcquireLink(env.tag, env.HostRequest()));

  SECTION("before it is accepted, by the host") { CHECK_OK(env.host().ReleaseLink(env.tag, &env.pod_h)); }
  SECTION("before it is accepted, by the host, which lost the Pod") {
    CHECK_OK(env.host().ReleaseLink(env.tag, nullptr));
  }
  SECTION("before it is accepted, by the DPU") { CHECK_OK(env.dpu().ReleaseLink(env.tag, nullptr)); }
  SECTION("after it is accepted") {
    REQUIRE_OK(env.dpu().AcceptLink(env.tag, env.DpuRequest()));
    SECTION("by the host") { CHECK_OK(env.host().ReleaseLink(env.tag, &env.pod_h)); }
    SECTION("by the DPU") { CHECK_OK(env.dpu().ReleaseLink(env.tag, &env.pod_d)); }
  }

  CHECK(env.dpu().ListLinks()->empty());
  CHECK_THAT(env.dpu().AcceptLink(env.tag, env.DpuRequest()).status(), HasCode(absl::StatusCode::kNotFound));
  REQUIRE_OK(env.host().AcquireLink(env.tag, env.HostRequest()));
  CHECK_OK(env.dpu().AcceptLink(env.tag, env.DpuRequest()));
}

TEMPLATE_TEST_CASE("a Pod's new sandbox gets a new link", "[netns][contract]", FakeEnv, KernelEnv) {
  TestType env;
  sys::NetnsRef again = env.namespaces.Make("pod-h2");
  REQUIRE_OK(env.host().AcquireLink(env.tag, env.HostRequest()));

  REQUIRE_OK(env.host().AcquireLink(env.tag, {.mtu = 1400, .netns = &again, .ifname = "eth0"}));

  CHECK(env.dpu().ListLinks()->size() == 1);
  CHECK_OK(env.dpu().AcceptLink(env.tag, env.DpuRequest()));
}

TEMPLATE_TEST_CASE("Pods and installations do not meet", "[netns][contract]", FakeEnv, KernelEnv) {
  TestType env;
  OwnerTag other_pod{"test", "pod-2", "eth0"}, other_instance{"other", "pod-1", "eth0"};
  sys::NetnsRef second = env.namespaces.Make("pod-2"), third = env.namespaces.Make("pod-3");

  REQUIRE_OK(env.host().AcquireLink(env.tag, env.HostRequest()));
  REQUIRE_OK(env.host().AcquireLink(other_pod, {.netns = &second, .ifname = "eth0"}));
  REQUIRE_OK(env.host().AcquireLink(other_instance, {.netns = &third, .ifname = "eth0"}));

  CHECK(env.dpu().ListLinks()->size() == 2);
  CHECK_OK(env.host().ReleaseLink(env.tag, &env.pod_h));
  CHECK(*env.dpu().ListLinks() == std::vector<OwnerTag>{other_pod});
}

TEMPLATE_TEST_CASE("an end without a namespace stays in the root, where it is listed", "[netns][contract]", FakeEnv,
                   KernelEnv) {
  TestType env;

  auto mine = env.host().AcquireLink(env.tag, {});
  REQUIRE_OK(mine);
  auto theirs = env.dpu().AcceptLink(env.tag, {});
  REQUIRE_OK(theirs);

  CHECK(mine->ifname == InterfaceName(env.tag, 'x'));
  CHECK(theirs->ifname == InterfaceName(env.tag, 'x'));
  CHECK(*env.host().ListLinks() == std::vector<OwnerTag>{env.tag});
  CHECK(*env.dpu().ListLinks() == std::vector<OwnerTag>{env.tag});
  CHECK_OK(env.dpu().ReleaseLink(env.tag, nullptr));
  CHECK(env.host().ListLinks()->empty());
}

TEMPLATE_TEST_CASE("a DPU that is gone makes links unavailable, not their release", "[netns][contract]", FakeEnv,
                   KernelEnv) {
  TestType env;
  REQUIRE_OK(env.host().AcquireLink(env.tag, env.HostRequest()));
  env.LoseDpu();
  OwnerTag other{"test", "pod-2", "eth0"};

  CHECK_THAT(env.host().AcquireLink(other, env.HostRequest()).status(), HasCode(absl::StatusCode::kUnavailable));
  CHECK_OK(env.host().ReleaseLink(env.tag, &env.pod_h));
}

TEMPLATE_TEST_CASE("each side has its own calls", "[netns][contract]", FakeEnv, KernelEnv) {
  TestType env;

  CHECK_THAT(env.dpu().AcquireLink(env.tag, {}).status(), HasCode(absl::StatusCode::kFailedPrecondition));
  CHECK_THAT(env.host().AcceptLink(env.tag, {}).status(), HasCode(absl::StatusCode::kFailedPrecondition));
}

TEST_CASE("the fake fails once when told to, and changes nothing") {
  FakeFabric fabric;
  FakeBackend host(fabric, Side::kHost, "test");
  host.FailNext("AcquireLink", absl::ResourceExhaustedError("full"));

  CHECK_THAT(host.AcquireLink({"test", "pod", "eth0"}, {}).status(), HasCode(absl::StatusCode::kResourceExhausted));
  CHECK(fabric.size() == 0);
  CHECK_OK(host.AcquireLink({"test", "pod", "eth0"}, {}));
}

}  // namespace
}  // namespace heterok8s::pu
