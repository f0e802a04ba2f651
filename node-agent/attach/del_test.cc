// DEL and GC: what they free, with whatever is missing.
#include <catch2/catch.hpp>

#include "common/testing/matchers.h"
#include "node-agent/attach/testing/two_engines.h"

namespace heterok8s::attach {
namespace {

using heterok8s::testing::Says;
using Nothing = std::vector<std::string>;

TEST_CASE("DEL succeeds with namespace, arguments or row gone, and again") {
  TwoEngines node;
  const Annotations& annotations = GENERATE(kOrdinary, kSplit);
  cni::Request add = node.HostAdd("c1", "uid-1", annotations);
  REQUIRE_OK(node.host().Add(add));
  cni::Request del = node.Del(add);
  SECTION("the namespace is gone") {
    // The kernel takes the link with the namespace.
    sys::NetnsRef ns = *sys::NetnsRef::Current();
    REQUIRE_OK(node.host_fake_backend.ReleaseLink({"demo", "uid-1", "eth0"}, &ns));
    node.host_kernel.DestroyNetns(add.netns);
    del.netns.clear();
  }
  SECTION("CNI_ARGS are missing") { del.args.clear(); }
  SECTION("nothing is missing") {}

  CHECK_OK(node.host().Del(del));
  CHECK_OK(node.host().Del(del));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a DEL without a row scrubs what the kernel has of that sandbox") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kOrdinary, 8080);
  REQUIRE_OK(node.host().Add(add));
  REQUIRE_OK(node.host_ledger->Transact([](ledger::Tx& tx) -> absl::Status {
    HK_RETURN_IF_ERROR(tx.DeleteAttachment({"podnet", "c1", "eth0"}));
    return tx.ReleaseAddresses("podnet", "uid-1");
  }));

  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("GC frees what is not listed, of this network only, and needs a list") {
  TwoEngines node;
  cni::Request keep = node.HostAdd("keep", "uid-1", kSplit), stale = node.HostAdd("stale", "uid-2", kSplit),
               stale_too = node.HostAdd("stale2", "uid-3", kOrdinary, 8080);
  cni::Result result = *node.host().Add(keep);
  REQUIRE_OK(node.host().Add(stale));
  REQUIRE_OK(node.host().Add(stale_too));

  cni::Request other_network = node.Gc({});
  other_network.config.name = "other";
  CHECK_OK(node.host().Gc(other_network));
  CHECK(node.host().inspect().Summarise()->attachments == 3);
  cni::Request no_list = node.Gc({});
  no_list.config.has_valid_attachments = false;
  CHECK(cni::CodeOf(node.host().Gc(no_list)) == cni::kInvalidConfig);

  CHECK_OK(node.host().Gc(node.Gc({{"keep", "eth0"}})));
  CHECK(node.host().inspect().Summarise()->attachments == 1);
  CHECK_OK(node.host().Check(node.Check(keep, result)));
  CHECK_OK(node.host().Gc(node.Gc({})));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("a DEL that fails locally says so and can be repeated") {
  TwoEngines node;
  bool split = GENERATE(false, true);
  cni::Request add = node.HostAdd("c1", "uid-1", split ? kSplit : kOrdinary);
  REQUIRE_OK(node.host().Add(add));
  node.host_podnet.FailNext(split ? "RemoveLink" : "RemoveUplink", absl::InternalError("busy"));

  CHECK_THAT(node.host().Del(node.Del(add)), Says("busy"));
  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(node.Leftovers() == Nothing());
}

}  // namespace
}  // namespace heterok8s::attach
