// What Netlink promises of addresses, routes, rules and neighbours, on the kernel and on the fake.
#include <algorithm>
#include <tuple>

#include "common/netlink/contract_env.h"
#include "common/sys/process.h"

namespace heterok8s::netlink {
namespace {

TEMPLATE_TEST_CASE("addresses are added, replaced, listed and deleted", "[netns][contract]", FakeEnv, KernelEnv) {
  Joined<TestType> env;
  auto address =
      GENERATE(Address{.prefix = IpPrefix::Parse("10.0.0.5/32").value()},
               Address{.prefix = IpPrefix::Parse("10.0.0.5/32").value(), .scope = Scope::kLink},
               Address{.prefix = IpPrefix::Parse("fd00::5/128").value(), .no_dad = true, .no_prefix_route = true});
  address.link = env.a;

  CHECK_OK(env.here().Do(AddAddress{address}));
  CHECK(*env.here().Addresses(env.a) == std::vector<Address>{address});
  CHECK(env.there().Addresses(env.b)->empty());
  CHECK_THAT(env.here().Do(AddAddress{address}), HasCode(kAlreadyExists));
  CHECK_OK(env.here().Do(ReplaceAddress{address}));
  CHECK(*env.here().Addresses(env.a) == std::vector<Address>{address});
  CHECK_OK(env.here().Do(DeleteAddress{address}));
  CHECK(env.here().Addresses(env.a)->empty());
  CHECK_THAT(env.here().Do(DeleteAddress{address}), HasCode(kNotFound));
  address.link = 4711;
  CHECK_THAT(env.here().Do(AddAddress{address}), HasCode(kNotFound));
}

TEMPLATE_TEST_CASE("an address is answered for once its local route is there", "[netns][contract]", FakeEnv,
                   KernelEnv) {
  Joined<TestType> env;
  Batch batch;
  batch.Add(AddAddress{{.link = env.a, .prefix = Prefix("10.0.0.1/32")}});
  batch.Add(AddAddress{{.link = env.a, .prefix = Prefix("fd00::1/128"), .no_dad = true, .no_prefix_route = true}});
  REQUIRE_OK(env.here().Apply(batch));

  CHECK_OK(WaitForLocalRoutes(env.here(), env.a, {Ip("10.0.0.1"), Ip("fd00::1")}));
  CHECK_THAT(WaitForLocalRoutes(env.here(), env.a, {Ip("fd00::1"), Ip("fd00::2")}, std::chrono::milliseconds(1)),
             HasCode(absl::StatusCode::kDeadlineExceeded) && Says("fd00::2"));
}

TEMPLATE_TEST_CASE("routes read back as they were written", "[netns][contract]", FakeEnv, KernelEnv) {
  Joined<TestType> env;
  Batch addresses;
  addresses.Add(AddAddress{{.link = env.a, .prefix = Prefix("10.0.0.1/32")}});
  addresses.Add(AddAddress{{.link = env.a, .prefix = Prefix("fd00::1/128"), .no_dad = true, .no_prefix_route = true}});
  REQUIRE_OK(env.here().Apply(addresses));
  auto route = GENERATE(Route{.destination = *IpPrefix::Parse("10.0.0.5/32"), .scope = Scope::kLink},
                        Route{.destination = *IpPrefix::Parse("fd00::5/128")},
                        Route{.destination = *IpPrefix::Parse("0.0.0.0/0"),
                              .via = *IpAddress::Parse("169.254.1.1"),
                              .onlink = true,
                              .source = *IpAddress::Parse("10.0.0.1")},
                        Route{.destination = *IpPrefix::Parse("::/0"),
                              .via = *IpAddress::Parse("fe80::1"),
                              .onlink = true,
                              .source = *IpAddress::Parse("fd00::1")},
                        Route{.destination = *IpPrefix::Parse("10.1.0.0/16"),
                              .scope = Scope::kLink,
                              .table = 100,
                              .metric = 7,
                              .mtu = 1280},
                        Route{.destination = *IpPrefix::Parse("fd01::/64"), .table = 1000, .metric = 7, .mtu = 1280});
  route.link = env.a;

  CHECK_OK(env.here().Do(AddRoute{route}));
  CHECK(Contains(env.here().Routes(route.table), route));
  CHECK(Contains(env.here().Routes(route.table, env.a), route));
  CHECK_FALSE(Contains(env.here().Routes(route.table, 1), route));
  CHECK_FALSE(Contains(env.here().Routes(99), route));
  CHECK_THAT(env.here().Do(AddRoute{route}), HasCode(kAlreadyExists));
  CHECK_OK(env.here().Do(ReplaceRoute{route}));
  CHECK_OK(env.here().Do(DeleteRoute{route}));
  CHECK_FALSE(Contains(env.here().Routes(route.table), route));
  CHECK_THAT(env.here().Do(DeleteRoute{route}), HasCode(kNotFound));
}

TEMPLATE_TEST_CASE("a route of another link is replaced, not joined", "[netns][contract]", FakeEnv, KernelEnv) {
  Joined<TestType> env;
  REQUIRE_OK(env.here().Do(AddVeth{.end = {.name = "c"}, .peer = {.name = "d"}}));
  int c = env.here().FindLink("c")->index;
  REQUIRE_OK(env.here().Do(SetLink{.link = c, .up = true, .no_link_local = true}));
  auto route = GENERATE(Route{.destination = *IpPrefix::Parse("10.0.0.5/32"), .scope = Scope::kLink},
                        Route{.destination = *IpPrefix::Parse("fd00::5/128")});
  route.link = env.a;
  REQUIRE_OK(env.here().Do(ReplaceRoute{route}));

  Route moved = route;
  moved.link = c;
  REQUIRE_OK(env.here().Do(ReplaceRoute{moved}));

  CHECK(Contains(env.here().Routes(kTableMain), moved));
  CHECK_FALSE(Contains(env.here().Routes(kTableMain), route));
}

TEMPLATE_TEST_CASE("a route needs a link that is up, and a source that is ours", "[netns][contract]", FakeEnv,
                   KernelEnv) {
  Joined<TestType> env;
  Route route{.destination = Prefix("10.0.0.5/32"), .link = env.a, .scope = Scope::kLink};

  Route foreign = route;
  foreign.source = Ip("10.9.9.9");
  CHECK_THAT(env.here().Do(AddRoute{foreign}), HasCode(absl::StatusCode::kInvalidArgument));
  Route mixed = route;
  mixed.via = Ip("fe80::1");
  if constexpr (std::is_same_v<TestType, KernelEnv>) {
    CHECK_THAT(env.here().Do(AddRoute{mixed}), HasCode(absl::StatusCode::kInvalidArgument));
  }
  REQUIRE_OK(env.here().Do(SetLink{.link = env.a, .up = false}));
  CHECK_THAT(env.here().Do(AddRoute{route}), HasCode(kNotFound));
  route.link = 4711;
  CHECK_THAT(env.here().Do(AddRoute{route}), HasCode(kNotFound));
}

TEMPLATE_TEST_CASE("a link that goes down keeps its IPv4 addresses and nothing else", "[netns][contract]", FakeEnv,
                   KernelEnv) {
  Joined<TestType> env;
  Batch batch;
  batch.Add(AddAddress{{.link = env.a, .prefix = Prefix("10.0.0.1/32")}});
  batch.Add(AddAddress{{.link = env.a, .prefix = Prefix("fd00::1/128"), .no_dad = true, .no_prefix_route = true}});
  batch.Add(AddRoute{{.destination = Prefix("10.0.0.5/32"), .link = env.a, .scope = Scope::kLink}});
  batch.Add(ReplaceNeighbor{{env.a, Ip("10.0.0.5"), "02:00:00:00:00:0b"}});
  REQUIRE_OK(env.here().Apply(batch));

  REQUIRE_OK(env.here().Do(SetLink{.link = env.a, .up = false}));
  REQUIRE_OK(env.here().Do(SetLink{.link = env.a, .up = true}));

  CHECK(env.here().Addresses(env.a)->size() == 1);
  CHECK(env.here().Neighbors(env.a)->empty());
  auto routes = *env.here().Routes(kTableMain, env.a);
  CHECK(std::none_of(routes.begin(), routes.end(), [](const Route& r) { return r.protocol == kOurProtocol; }));
}

TEMPLATE_TEST_CASE("rules are added, listed and deleted, the kernel's own too", "[netns][contract]", FakeEnv,
                   KernelEnv) {
  Joined<TestType> env;
  Family family = GENERATE(Family::kV4, Family::kV6);
  Rule marked{.family = family, .priority = 10, .table = 100, .fwmark = 0x10};
  Rule arriving{.family = family, .priority = 11, .table = 100, .iif = "a"};
  Rule local{.family = family, .priority = 100, .table = kTableLocal};
  Rule first{.family = family, .priority = 0, .table = kTableLocal};

  for (const Rule& rule : {marked, arriving, local}) {
    CHECK_OK(env.here().Do(AddRule{rule}));
    CHECK(Contains(env.here().Rules(family), rule));
    CHECK_THAT(env.here().Do(AddRule{rule}), HasCode(kAlreadyExists));
  }
  CHECK(Contains(env.here().Rules(family), first));
  CHECK_OK(env.here().Do(DeleteRule{first}));
  CHECK_FALSE(Contains(env.here().Rules(family), first));
  CHECK_THAT(env.here().Do(DeleteRule{first}), HasCode(kNotFound));
  CHECK_OK(env.here().Do(DeleteRule{marked}));
  CHECK_THAT(env.here().Do(DeleteRule{marked}), HasCode(kNotFound));
}

TEMPLATE_TEST_CASE("neighbours are permanent, replaced, listed and deleted", "[netns][contract]", FakeEnv, KernelEnv) {
  Joined<TestType> env;
  Neighbor neighbor{
      env.a,
      GENERATE(as<const char*>{}, "10.0.0.5", "fe80::1") == std::string("10.0.0.5") ? Ip("10.0.0.5") : Ip("fe80::1"),
      "02:00:00:00:00:0b"};

  CHECK_OK(env.here().Do(ReplaceNeighbor{neighbor}));
  CHECK(*env.here().Neighbors(env.a) == std::vector<Neighbor>{neighbor});
  CHECK(*env.here().Neighbors(0) == std::vector<Neighbor>{neighbor});
  neighbor.mac = "02:00:00:00:00:0c";
  CHECK_OK(env.here().Do(ReplaceNeighbor{neighbor}));
  CHECK(*env.here().Neighbors(env.a) == std::vector<Neighbor>{neighbor});
  CHECK_OK(env.here().Do(DeleteNeighbor{neighbor}));
  CHECK(env.here().Neighbors(env.a)->empty());
  CHECK_THAT(env.here().Do(DeleteNeighbor{neighbor}), HasCode(kNotFound));
}

TEST_CASE("a route with several next hops is listed once for each", "[netns]") {
  Joined<KernelEnv> env;
  REQUIRE_OK(env.here().Do(AddAddress{{.link = env.a, .prefix = Prefix("10.0.0.1/24")}}));
  REQUIRE_OK(env.here().Do(AddAddress{{.link = env.a, .prefix = Prefix("fd00::1/64"), .no_dad = true}}));
  const std::string script =
      "ip link add c type veth peer name d && ip link set dev d up && ip link set dev c up && ip addr add 10.9.0.1/24 "
      "dev c && "
      "ip addr add fd09::1/64 dev c "
      "nodad "
      "&& ip route add default nexthop via 10.0.0.2 nexthop via 10.9.0.2 "
      "&& ip -6 route add default nexthop via fd00::2 nexthop via fd09::2";
  auto made = sys::Run({.argv = {"nsenter", "--net=" + env.path + "a", "sh", "-c", script}});
  REQUIRE_OK(made);
  INFO(made->stderr_text);
  REQUIRE(made->exit_code == 0);
  const int c = env.here().FindLink("c")->index;

  for (const auto& [everything, first, second] :
       {std::tuple("0.0.0.0/0", "10.0.0.2", "10.9.0.2"), std::tuple("::/0", "fd00::2", "fd09::2")}) {
    std::vector<std::pair<int, std::string>> hops;
    absl::StatusOr<std::vector<Route>> routes = env.here().Routes(kTableMain);
    REQUIRE_OK(routes);
    for (const Route& route : *routes) {
      if (route.destination == *IpPrefix::Parse(everything)) hops.emplace_back(route.link, route.via->ToString());
    }
    std::sort(hops.begin(), hops.end());
    std::vector<std::pair<int, std::string>> wanted = {{env.a, first}, {c, second}};
    std::sort(wanted.begin(), wanted.end());
    CHECK(hops == wanted);
  }
}

}  // namespace
}  // namespace heterok8s::netlink
