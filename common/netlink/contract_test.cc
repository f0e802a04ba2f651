// What Netlink promises, on the kernel and on the fake.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <memory>

#include "common/netlink/fake_netlink.h"
#include "common/netlink/libnl_netlink.h"
#include "common/sys/netns.h"
#include "common/testing/matchers.h"

namespace heterok8s::netlink {
namespace {

using testing::HasCode;
using testing::Says;

constexpr auto kNotFound = absl::StatusCode::kNotFound;
constexpr auto kAlreadyExists = absl::StatusCode::kAlreadyExists;

struct FakeEnv {
  FakeKernel kernel;
  int other_fd = kernel.NewNetns();
  FakeNetlink here_netlink{kernel, kernel.root()}, there_netlink{kernel, other_fd};

  Netlink& here() { return here_netlink; }
  Netlink& there() { return there_netlink; }
  int there_fd() const { return other_fd; }
};

struct KernelEnv {
  std::string path = fmt::format("/run/netns/hknl{}-", getpid());
  sys::NetnsRef here_netns = *sys::CreateNetns(path + "a"), there_netns = *sys::CreateNetns(path + "b");
  std::unique_ptr<Netlink> here_netlink = *OpenNetlinkIn(here_netns), there_netlink = *OpenNetlinkIn(there_netns);

  ~KernelEnv() {
    (void)sys::DeleteNetns(path + "a");
    (void)sys::DeleteNetns(path + "b");
  }
  Netlink& here() { return *here_netlink; }
  Netlink& there() { return *there_netlink; }
  int there_fd() const { return there_netns.fd(); }
};

// "a" here and "b" there, both up.
template <typename Env>
struct Joined : Env {
  int a = 0, b = 0;

  Joined() {
    Batch batch;
    batch.Add(AddVeth{.end = {.name = "a", .mac = "02:00:00:00:00:0a", .mtu = 1400},
                      .peer = {.name = "b", .mac = "02:00:00:00:00:0b", .mtu = 1400, .netns_fd = this->there_fd()}});
    batch.Add(SetLink{.by_name = "a", .up = true, .no_link_local = true});
    REQUIRE_OK(this->here().Apply(batch));
    REQUIRE_OK(this->there().Do(SetLink{.by_name = "b", .up = true, .no_link_local = true}));
    a = this->here().FindLink("a")->index;
    b = this->there().FindLink("b")->index;
  }
};

IpAddress Ip(const char* text) { return *IpAddress::Parse(text); }
IpPrefix Prefix(const char* text) { return *IpPrefix::Parse(text); }

template <typename T>
bool Contains(const absl::StatusOr<std::vector<T>>& all, const T& one) {
  REQUIRE_OK(all);
  return std::find(all->begin(), all->end(), one) != all->end();
}

TEMPLATE_TEST_CASE("a veth is born in two namespaces under its names", "[netns][contract]", FakeEnv, KernelEnv) {
  Joined<TestType> env;

  Link a = *env.here().FindLink("a"), b = *env.there().FindLink("b");

  CHECK(a.kind == "veth");
  CHECK(a.mac == "02:00:00:00:00:0a");
  CHECK(b.mac == "02:00:00:00:00:0b");
  CHECK(a.mtu == 1400);
  CHECK(b.mtu == 1400);
  CHECK(a.up);
  CHECK(a.peer_index == b.index);
  CHECK(b.peer_index == a.index);
  CHECK_OK(env.here().SyncCarrier("a"));
  CHECK(env.here().FindLink("a")->running);
  CHECK(a.inet6->no_link_local);
  CHECK(env.here().Addresses(env.a)->empty());
  CHECK(env.here().Links()->size() == 2);
}

TEMPLATE_TEST_CASE("where a veth's other end is can be used to put another one there", "[netns][contract]", FakeEnv,
                   KernelEnv) {
  Joined<TestType> env;
  REQUIRE_OK(env.here().Do(AddVeth{.end = {.name = "c"}, .peer = {.name = "d"}}));
  CHECK_FALSE(env.here().FindLink("c")->peer_netns_id);
  std::optional<int> there = env.here().FindLink("a")->peer_netns_id;
  REQUIRE(there);

  CHECK_OK(env.here().Do(AddVeth{.end = {.name = "e", .netns_id = there}, .peer = {.name = "f"}}));

  CHECK(env.there().FindLink("e")->peer_index == env.here().FindLink("f")->index);
  CHECK_THAT(env.here().Do(AddVeth{.end = {.name = "g"}, .peer = {.name = "h", .netns_id = there}}),
             HasCode(absl::StatusCode::kInvalidArgument));
}

TEMPLATE_TEST_CASE("a taken name is refused at either end, and nothing is made", "[netns][contract]", FakeEnv,
                   KernelEnv) {
  Joined<TestType> env;

  CHECK_THAT(env.here().Do(AddVeth{.end = {.name = "a"}, .peer = {.name = "c"}}), HasCode(kAlreadyExists));
  CHECK_THAT(env.here().Do(AddVeth{.end = {.name = "c"}, .peer = {.name = "b", .netns_fd = env.there_fd()}}),
             HasCode(kAlreadyExists) && Says("create veth 'c' with peer 'b'"));
  CHECK(env.here().Links()->size() == 2);
}

TEMPLATE_TEST_CASE("links are found by name and alternative name, or not found", "[netns][contract]", FakeEnv,
                   KernelEnv) {
  Joined<TestType> env;
  REQUIRE_OK(env.here().Do(AddAltName{env.a, "other"}));

  CHECK(env.here().FindLink("other")->index == env.a);
  CHECK(env.here().FindLink("a")->altnames == std::vector<std::string>{"other"});
  CHECK_THAT(env.here().FindLink("c").status(), HasCode(kNotFound));
  CHECK_THAT(env.here().FindLink("").status(), HasCode(kNotFound));
  CHECK_THAT(env.here().FindLink("a-name-that-is-too-long").status(), HasCode(kNotFound));
  CHECK_THAT(env.here().Do(AddAltName{env.a, "other"}), HasCode(kAlreadyExists));
  CHECK_THAT(env.here().Do(AddAltName{env.a, "lo"}), HasCode(kAlreadyExists));
}

TEMPLATE_TEST_CASE("a link's settings change in one request", "[netns][contract]", FakeEnv, KernelEnv) {
  Joined<TestType> env;

  REQUIRE_OK(env.here().Do(
      SetLink{.link = env.a, .name = "c", .mac = "02:00:00:00:00:0c", .alias = "x:y:z", .mtu = 1300, .up = false}));

  Link c = *env.here().FindLink("c");
  CHECK(c.index == env.a);
  CHECK(c.mac == "02:00:00:00:00:0c");
  CHECK(c.alias == "x:y:z");
  CHECK(c.mtu == 1300);
  CHECK_FALSE(c.up);
  CHECK_THAT(env.here().Do(SetLink{.link = 4711, .up = true}), HasCode(kNotFound));
  CHECK_THAT(env.here().Do(SetLink{.by_name = "a", .up = true}), HasCode(kNotFound));
}

TEMPLATE_TEST_CASE("an alias is taken away by an empty one", "[netns][contract]", FakeEnv, KernelEnv) {
  Joined<TestType> env;
  REQUIRE_OK(env.here().Do(SetLink{.link = env.a, .alias = "x"}));

  REQUIRE_OK(env.here().Do(SetLink{.link = env.a, .alias = ""}));

  CHECK(env.here().FindLink("a")->alias.empty());
}

TEMPLATE_TEST_CASE("a link moves and is renamed at once, and leaves its addresses behind", "[netns][contract]", FakeEnv,
                   KernelEnv) {
  Joined<TestType> env;
  REQUIRE_OK(env.here().Do(SetLink{.link = env.a, .alias = "x"}));
  REQUIRE_OK(env.here().Do(AddAddress{{.link = env.a, .prefix = Prefix("10.0.0.1/32")}}));

  REQUIRE_OK(env.here().Do(SetLink{.link = env.a, .name = "moved", .mtu = 1350, .netns_fd = env.there_fd()}));

  CHECK_THAT(env.here().FindLink("a").status(), HasCode(kNotFound));
  Link moved = *env.there().FindLink("moved");
  CHECK(moved.mtu == 1350);
  CHECK(moved.alias == "x");
  CHECK_FALSE(moved.up);
  CHECK(env.there().Addresses(moved.index)->empty());
  CHECK(env.there().FindLink("b")->peer_index == moved.index);
}

TEMPLATE_TEST_CASE("deleting one end deletes both, once", "[netns][contract]", FakeEnv, KernelEnv) {
  Joined<TestType> env;

  CHECK_OK(env.here().Do(DeleteLink{env.a}));

  CHECK_THAT(env.there().FindLink("b").status(), HasCode(kNotFound));
  CHECK_THAT(env.here().Do(DeleteLink{env.a}), HasCode(kNotFound));
  CHECK_THAT(env.here().Do(DeleteLink{0}), HasCode(kNotFound));
}

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

TEMPLATE_TEST_CASE("a link is shaped and redirected, and set free again", "[netns][contract]", FakeEnv, KernelEnv) {
  Joined<TestType> env;
  REQUIRE_OK(env.here().Do(AddIfb{"ifb"}));
  int ifb = env.here().FindLink("ifb")->index;
  Tbf tbf{.rate_bytes = GENERATE(125000u, 6000000000u), .burst_bytes = 10000, .limit_bytes = 20000};

  CHECK(*env.here().ShapingOf(env.a) == Shaping{});
  CHECK_OK(env.here().Do(ReplaceTbf{env.a, {1000, 2000, 3000}}));
  CHECK_OK(env.here().Do(ReplaceTbf{env.a, tbf}));
  CHECK_OK(env.here().Do(AddRedirect{env.a, ifb}));
  CHECK_THAT(env.here().Do(AddRedirect{env.a, ifb}), HasCode(kAlreadyExists));

  Shaping now = *env.here().ShapingOf(env.a);
  REQUIRE(now.root);
  CHECK(now.root->rate_bytes == tbf.rate_bytes);
  CHECK(now.root->limit_bytes == tbf.limit_bytes);
  CHECK(now.root->burst_bytes == Approx(tbf.burst_bytes).epsilon(0.05));
  CHECK(now.redirect == ifb);
  CHECK_OK(env.here().Do(DeleteRootQueue{env.a}));
  CHECK_OK(env.here().Do(DeleteRedirect{env.a}));
  CHECK(*env.here().ShapingOf(env.a) == Shaping{});
  CHECK_THAT(env.here().Do(DeleteRootQueue{env.a}), HasCode(kNotFound));
  CHECK_THAT(env.here().Do(DeleteRedirect{env.a}), HasCode(kNotFound));
  CHECK_THAT(env.here().ShapingOf(4711).status(), HasCode(kNotFound));
}

TEMPLATE_TEST_CASE("a batch goes on after a failure and reports the first", "[netns][contract]", FakeEnv, KernelEnv) {
  Joined<TestType> env;
  Address address{.link = env.a, .prefix = Prefix("10.0.0.5/32")};
  Batch batch;
  batch.Add(DeleteAddress{address}, kNotFound);  // tolerated
  batch.Add(DeleteRoute{{.destination = Prefix("10.9.0.0/16"), .link = env.a}});
  batch.Add(DeleteLink{4711});
  batch.Add(AddAddress{address});

  CHECK_THAT(env.here().Apply(batch), HasCode(kNotFound) && Says("delete route 10.9.0.0/16"));

  CHECK(Contains(env.here().Addresses(env.a), address));
}

TEMPLATE_TEST_CASE("a batch may be larger than one message to the kernel", "[netns][contract]", FakeEnv, KernelEnv) {
  Joined<TestType> env;
  Batch batch;
  for (int i = 0; i < 1000; ++i) {
    batch.Add(AddRoute{{.destination = IpPrefix::Host(IpAddress::V4(0x0a010000u + static_cast<uint32_t>(i))),
                        .link = env.a,
                        .scope = Scope::kLink}});
  }

  REQUIRE_OK(env.here().Apply(batch));

  CHECK(env.here().Routes(kTableMain, env.a)->size() == 1000);
}

TEST_CASE("the fake fails once when told to, and changes nothing") {
  FakeKernel kernel;
  FakeNetlink netlink(kernel, kernel.root());
  netlink.FailNext("AddIfb", ENOBUFS);

  CHECK_THAT(netlink.Do(AddIfb{"ifb"}), HasCode(absl::StatusCode::kResourceExhausted) && Says("create ifb 'ifb'"));
  CHECK(netlink.Links()->size() == 1);
  CHECK_OK(netlink.Do(AddIfb{"ifb"}));
}

TEST_CASE("a fake namespace that goes takes the other ends along") {
  FakeKernel kernel;
  int pod = kernel.NewNetns();
  FakeNetlink netlink(kernel, kernel.root());
  REQUIRE_OK(netlink.Do(AddVeth{.end = {.name = "a"}, .peer = {.name = "b", .netns_fd = pod}}));

  kernel.DeleteNetns(pod);

  CHECK(netlink.Links()->size() == 1);
}

}  // namespace
}  // namespace heterok8s::netlink
