#include "node-agent/ipam/routes.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"
#include "node-agent/ipam/ipam_config.h"

namespace heterok8s::ipam {
namespace {

using testing::Says;

absl::StatusOr<std::vector<cni::Route>> Routes(const std::string& routes, const std::vector<IpAddress>& addresses) {
  cni::NetworkConfig config;
  config.raw = nlohmann::json::object();
  config.ipam = nlohmann::json::parse(fmt::format(R"({{"subnet":"10.1.0.0/24","routes":{}}})", routes));
  HK_ASSIGN_OR_RETURN(IpamConfig parsed, ParseIpamConfig(config));
  return UsableRoutes(parsed.routes, "ipam.routes", addresses, {*IpAddress::Parse("10.1.0.1")});
}

const std::vector<IpAddress> kV4Only = {*IpAddress::Parse("10.1.0.5")};
const std::vector<IpAddress> kBoth = {*IpAddress::Parse("10.1.0.5"), *IpAddress::Parse("fd00:1::5")};

std::string Text(const std::vector<cni::Route>& routes) {
  std::string text;
  for (const cni::Route& route : routes) {
    text += fmt::format("{}{}{} ", route.dst.ToString(), route.gw ? " via " + route.gw->ToString() : "",
                        route.mtu != 0 ? fmt::format(" mtu {}", route.mtu) : "");
  }
  return text;
}

TEST_CASE("routes are what was asked for, each once, by the Node, in the families that the Pod has") {
  struct Row {
    const char* routes;
    const std::vector<IpAddress>& addresses;
    const char* usable;
  };
  for (const Row& row : {
           Row{.routes = "[]", .addresses = kBoth, .usable = ""},
           Row{.routes = R"([{"dst":"0.0.0.0/0"},{"dst":"::/0"}])", .addresses = kBoth, .usable = "0.0.0.0/0 ::/0 "},
           Row{.routes = R"([{"dst":"0.0.0.0/0"},{"dst":"::/0"}])", .addresses = kV4Only, .usable = "0.0.0.0/0 "},
           Row{.routes = R"([{"dst":"10.0.0.0/8","gw":"10.1.0.1","mtu":1400}])",
           .addresses = kV4Only,
           .usable = "10.0.0.0/8 mtu 1400 "},
           Row{.routes = R"([{"dst":"10.0.0.0/8"},{"dst":"10.0.0.0/8","priority":0,"table":null}])",
           .addresses = kV4Only,
           .usable = "10.0.0.0/8 "},
       }) {
    INFO(row.routes);
    absl::StatusOr<std::vector<cni::Route>> usable = Routes(row.routes, row.addresses);

    REQUIRE_OK(usable);
    CHECK(Text(*usable) == row.usable);
  }
}

TEST_CASE("a route that a routed Pod cannot have is refused by name") {
  struct Row {
    const char *routes, *says;
  };
  for (const Row& row : {
           Row{.routes = R"([{"dst":"10.0.0.0/8","gw":"10.1.0.9"}])",
          .says = "'ipam.routes[0].gw' 10.1.0.9 is not the network's gateway (10.1.0.1)"},
           Row{.routes = R"([{"dst":"10.2.0.0/16"},{"dst":"10.1.0.7/8"}])",
           .says = "'ipam.routes[1].dst' 10.1.0.7/8 has host bits set; did you mean 10.0.0.0/8?"},
           Row{.routes = R"([{"dst":"10.0.0.0/8","mtu":1400},{"dst":"10.0.0.0/8"}])", .says = "'ipam.routes[1].mtu'"},
           Row{.routes = R"([{"dst":"10.0.0.0/8","priority":5}])",
           .says = "'ipam.routes[0].priority' is not supported"},
           Row{.routes = R"([{"dst":"10.0.0.0/8","table":7}])", .says = "'ipam.routes[0].table'"},
           Row{.routes = R"([{"dst":"10.0.0.0/8","scope":253}])", .says = "'ipam.routes[0].scope'"},
           Row{.routes = R"([{"dst":"10.0.0.0/8","advmss":"x"}])", .says = "'ipam.routes[0].advmss'"},
           Row{.routes = R"([{"dst":"::/0"}])", .says = "'ipam.routes' names no destination of a family"},
           Row{.routes = R"([7])", .says = "routes[0]"},
           Row{.routes = R"({"dst":"::/0"})", .says = "routes"},
       }) {
    INFO(row.routes);
    absl::Status status = Routes(row.routes, kV4Only).status();

    CHECK(cni::CodeOf(status) == cni::kInvalidConfig);
    CHECK_THAT(status, Says(row.says));
  }
}

}  // namespace
}  // namespace heterok8s::ipam
