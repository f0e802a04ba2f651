// What a Pod's namespace routes: ipam.routes, and what comes with them.
#include <catch2/catch.hpp>

#include "common/testing/matchers.h"
#include "node-agent/attach/testing/two_engines.h"

namespace heterok8s::attach {
namespace {

using heterok8s::testing::Says;
using Routes = std::vector<std::string>;

const pu::OwnerTag kEth0{.instance = "demo", .pod_key = "uid-1", .ifname = "eth0"};
const pu::OwnerTag kNet1{.instance = "demo", .pod_key = "uid-1", .ifname = "net1"};

nlohmann::json WithRoutes(const char* routes) {
  return {{"ipam",
           {{"type", "host-local"},
            {"ranges", {{{{"subnet", "10.88.0.0/24"}}}, {{{"subnet", "fd00:88::/64"}}}}},
            {"routes", nlohmann::json::parse(routes)}}}};
}

Routes Shown(const cni::Result& result) {
  Routes shown;
  for (const cni::Route& route : result.routes) {
    shown.push_back(route.dst.ToString() + (route.gw ? " via " + route.gw->ToString() : "") +
                    (route.mtu != 0 ? " mtu " + std::to_string(route.mtu) : ""));
  }
  return shown;
}

TEST_CASE("without ipam.routes a Pod reaches everything, and its own network by each interface") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kOrdinary);

  absl::StatusOr<cni::Result> result = node.host().Add(add);

  REQUIRE_OK(result);
  CHECK(Shown(*result) == Routes{"0.0.0.0/0 via 169.254.1.1"});
  CHECK(node.host_kernel.PodRoutes(kEth0) == Routes{"0.0.0.0/0", "10.88.0.0/24"});
}

TEST_CASE("ipam.routes are what a Pod reaches, beside its network and its Node; on both halves of a split one") {
  TwoEngines node;
  node.extra_config = WithRoutes(R"([{"dst":"10.0.0.0/8","gw":"10.88.0.1","mtu":1400},{"dst":"fd00::/16"}])");
  const Annotations& annotations = GENERATE(kOrdinary, kSplit);
  cni::Request add = node.HostAdd("c1", "uid-1", annotations);

  absl::StatusOr<cni::Result> result = node.host().Add(add);

  REQUIRE_OK(result);
  CHECK(Shown(*result) == Routes{"10.0.0.0/8 via 169.254.1.1 mtu 1400", "fd00::/16 via fe80::1"});
  const Routes wanted = {"10.0.0.0/8 mtu 1400", "fd00::/16", "10.88.0.0/24", "fd00:88::/64", "192.0.2.1/32"};
  CHECK(node.host_kernel.PodRoutes(kEth0) == wanted);
  if (annotations == kSplit) CHECK(node.dpu_kernel.PodRoutes(kEth0) == wanted);

  node.CrashHost();
  CHECK(node.host_kernel.PodRoutes(kEth0) == wanted);
}

TEST_CASE("a second interface leads to its network, and not to the Node, which the first one answers") {
  TwoEngines node;
  node.extra_config = WithRoutes(R"([{"dst":"10.0.0.0/8"}])");
  cni::Request add = node.HostAdd("c1", "uid-1", kOrdinary);
  add.ifname = "net1";

  REQUIRE_OK(node.host().Add(add));

  CHECK(node.host_kernel.PodRoutes(kNet1) == Routes{"10.0.0.0/8", "10.88.0.0/24", "fd00:88::/64"});
}

TEST_CASE("a twin has the routes that the host's half will have") {
  TwoEngines node;
  cni::Request twin = node.TwinAdd("t1", "uid-1");
  twin.config.raw["ipam"] = WithRoutes(R"([{"dst":"10.0.0.0/8"}])")["ipam"];

  REQUIRE_OK(node.dpu().Add(twin));

  CHECK(node.dpu_kernel.PodRoutes(kEth0) == Routes{"10.0.0.0/8", "10.88.0.0/24", "fd00:88::/64", "192.0.2.1/32"});
}

TEST_CASE("a route's mtu that the interface cannot have is refused, and leaves nothing") {
  TwoEngines node;
  node.extra_config = WithRoutes(GENERATE(R"([{"dst":"10.0.0.0/8","mtu":1501}])", R"([{"dst":"::/0","mtu":1279}])"));

  absl::Status added = node.host().Add(node.HostAdd("c1", "uid-1", kOrdinary)).status();

  CHECK(cni::CodeOf(added) == cni::kInvalidConfig);
  CHECK_THAT(added, Says("has the mtu"));
  CHECK(node.Leftovers() == Routes());
}

}  // namespace
}  // namespace heterok8s::attach
