// What Netlink promises of links and of batches, on the kernel and on the fake.
#include "common/netlink/contract_env.h"

namespace heterok8s::netlink {
namespace {

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

TEMPLATE_TEST_CASE("a link that may be missing is there or is not", "[netns][contract]", FakeEnv, KernelEnv) {
  Joined<TestType> env;
  REQUIRE_OK(env.here().Do(AddAltName{env.a, "other"}));

  auto by_name = FindIfThere(env.here(), "a"), by_other = FindIfThere(env.here(), "other");
  auto missing = FindIfThere(env.here(), "c");

  REQUIRE_OK(by_name);
  REQUIRE_OK(by_other);
  REQUIRE_OK(missing);
  CHECK(by_name->value().index == env.a);
  CHECK(by_other->value().index == env.a);
  CHECK_FALSE(missing->has_value());
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

TEST_CASE("a link that cannot be looked for is not taken for a missing one") {
  struct Deaf : FakeNetlink {
    using FakeNetlink::FakeNetlink;
    absl::StatusOr<Link> FindLink(const std::string&) override { return ErrnoToStatus(ENOBUFS, "find link"); }
  };
  FakeKernel kernel;
  Deaf netlink(kernel, kernel.root());

  CHECK_THAT(FindIfThere(netlink, "lo").status(), HasCode(absl::StatusCode::kResourceExhausted));
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
