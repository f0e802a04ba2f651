// Addresses from an IPAM plugin of somebody else.
#include <absl/cleanup/cleanup.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "common/fault/fault.h"
#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "node-agent/attach/testing/two_engines.h"

namespace heterok8s::attach {
namespace {

using heterok8s::testing::Says;
using Nothing = std::vector<std::string>;

// A plugin that keeps one file for each container it has given an address to, and answers as the test wants.
class Plugin {
 public:
  Plugin() {
    char folder[] = "/tmp/hkattachXXXXXX";
    REQUIRE(mkdtemp(folder) != nullptr);
    folder_ = folder;
    std::filesystem::create_directory(folder_ + "/leases");
    Write("/hk-test-ipam", R"(#!/bin/sh
here=$(dirname "$0")
cat > "$here/stdin"
case $CNI_COMMAND in
ADD)
  if [ -e "$here/broken" ]; then echo '{"cniVersion":"1.1.0","code":142,"msg":"out of order"}'; exit 1; fi
  touch "$here/leases/$CNI_CONTAINERID"
  echo '{"cniVersion":"1.1.0","ips":[{"address":"10.99.0.5/24"}]}' ;;
DEL)
  while [ -e "$here/hangs" ]; do sleep 0.02; done
  rm -f "$here/leases/$CNI_CONTAINERID" ;;
GC)
  for lease in "$here"/leases/*; do
    grep -q "\"containerID\":\"$(basename "$lease")\"" "$here/stdin" || rm -f "$lease"
  done ;;
esac
)");
    std::filesystem::permissions(folder_ + "/hk-test-ipam", std::filesystem::perms::owner_all);
  }
  ~Plugin() { std::filesystem::remove_all(folder_); }

  void Break() { Write("/broken", ""); }
  void Hang() { Write("/hangs", ""); }
  void GoOn() { std::filesystem::remove(folder_ + "/hangs"); }
  void Lease(const std::string& container) { Write("/leases/" + container, ""); }
  bool HasLease(const std::string& container) const {
    return std::filesystem::exists(folder_ + "/leases/" + container);
  }
  void Use(TwoEngines& node) const {
    node.cni_path = folder_;
    node.extra_config = {{"ipam", {{"type", "hk-test-ipam"}}}};
  }

 private:
  void Write(const std::string& name, const std::string& text) { std::ofstream(folder_ + name) << text; }
  std::string folder_;
};

TEST_CASE("a delegated address is the Pod's on both PUs, and goes back to its plugin") {
  Plugin plugin;
  TwoEngines node;
  plugin.Use(node);
  const Annotations& annotations = GENERATE(kOrdinary, kSplit);
  cni::Request add = node.HostAdd("c1", "uid-1", annotations);

  absl::StatusOr<cni::Result> result = node.host().Add(add);
  REQUIRE_OK(result);
  CHECK(result->ips.at(0).address.address.ToString() == "10.99.0.5");
  CHECK(plugin.HasLease("c1"));
  CHECK(node.host().inspect().FindPod("uid-1")->addresses.at(0).ToString() == "10.99.0.5");

  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK_FALSE(plugin.HasLease("c1"));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("ipMasq keeps a delegated address in the subnet that its plugin answered") {
  Plugin plugin;
  TwoEngines node;
  plugin.Use(node);
  node.extra_config["ipMasq"] = true;
  const bool split = GENERATE(false, true);
  cni::Request add = node.HostAdd("c1", "uid-1", split ? kSplit : kOrdinary);

  REQUIRE_OK(node.host().Add(add));

  CHECK((split ? node.dpu_kernel : node.host_kernel).MasqueradeOutside("uid-1") ==
        std::vector<std::string>{"10.99.0.0/24"});
}

TEST_CASE("GC gives a delegated address back without the call that took it") {
  Plugin plugin;
  TwoEngines node;
  plugin.Use(node);
  REQUIRE_OK(node.host().Add(node.HostAdd("c1", "uid-1", kOrdinary)));

  CHECK_OK(node.host().Gc(node.Gc({})));
  CHECK_FALSE(plugin.HasLease("c1"));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("the plugin's own error is the ADD's, and nothing is left") {
  Plugin plugin;
  plugin.Break();
  TwoEngines node;
  plugin.Use(node);

  absl::Status failed = node.host().Add(node.HostAdd("c1", "uid-1", kSplit)).status();
  CHECK(cni::CodeOf(failed) == 142);
  CHECK_THAT(failed, Says("out of order"));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("with the DPU away a delegated address goes back only when the DPU has let go of it") {
  Plugin plugin;
  TwoEngines node;
  plugin.Use(node);
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  REQUIRE_OK(node.host().Add(add));
  node.SetConnected(false);

  CHECK_OK(node.host().Del(node.Del(add)));
  CHECK(plugin.HasLease("c1"));
  SECTION("once") {}
  SECTION("the runtime repeats its DEL") { CHECK_OK(node.host().Del(node.Del(add))); }
  SECTION("and leaves out which Pod it is") {
    cni::Request again = node.Del(add);
    again.args.clear();
    CHECK_OK(node.host().Del(again));
  }
  SECTION("the runtime collects what it does not know any more") { CHECK_OK(node.host().Gc(node.Gc({}))); }
  CHECK(plugin.HasLease("c1"));
  node.CrashHost();
  node.SetConnected(true);
  node.ResyncBoth();
  CHECK_FALSE(plugin.HasLease("c1"));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("while an address waits for the DPU, GC frees the others, and a DEL for another interface its own") {
  Plugin plugin;
  TwoEngines node;
  plugin.Use(node);
  cni::Request split = node.HostAdd("c1", "uid-1", kSplit);
  REQUIRE_OK(node.host().Add(split));
  REQUIRE_OK(node.host().Add(node.HostAdd("c2", "uid-2", kOrdinary)));
  REQUIRE_OK(node.host().Add(node.HostAdd("c3", "uid-3", kOrdinary)));
  node.SetConnected(false);
  REQUIRE_OK(node.host().Del(node.Del(split)));

  CHECK_OK(node.host().Gc(node.Gc({{.container_id = "c3", .ifname = "eth0"}})));
  CHECK(plugin.HasLease("c1"));
  CHECK_FALSE(plugin.HasLease("c2"));
  CHECK(plugin.HasLease("c3"));

  plugin.Lease("c4");  // of an ADD that nobody remembers
  cni::Request lost = node.Del(node.HostAdd("c4", "uid-1", kSplit));
  CHECK_OK(node.host().Del(lost));
  CHECK_FALSE(plugin.HasLease("c4"));
}

TEST_CASE("a crash right after the plugin answered gives its address back at the next start") {
  Plugin plugin;
  TwoEngines node;
  plugin.Use(node);
  fault::ScopedAction armed("host.add.after-delegate", [&] {
    node.host_process.dead = true;
    return absl::InternalError("fault");
  });

  CHECK_FALSE(node.host().Add(node.HostAdd("c1", "uid-1", kSplit)).ok());
  CHECK(plugin.HasLease("c1"));
  node.CrashHost();
  node.ResyncBoth();
  CHECK_FALSE(plugin.HasLease("c1"));
  CHECK(node.Leftovers() == Nothing());
}

TEST_CASE("after a boot nothing waits for a plugin that does not answer; its addresses go back when it does") {
  Plugin plugin;
  TwoEngines node;
  plugin.Use(node);
  for (const char* id : {"1", "2"}) {
    REQUIRE_OK(node.host().Add(node.HostAdd(std::string("c") + id, std::string("uid-") + id, kOrdinary)));
  }
  plugin.Hang();
  absl::Cleanup go_on = [&] { plugin.GoOn(); };

  node.Reboot("boot-2");

  CHECK_OK(node.host().Ready());
  CHECK(plugin.HasLease("c1"));
  std::vector<std::string> left = node.Leftovers();
  CHECK(left == std::vector<std::string>{"host: row c1 ordinary deleting", "host: row c2 ordinary deleting"});

  plugin.GoOn();
  CHECK(heterok8s::testing::Eventually([&] { return node.Leftovers() == Nothing(); }));
  CHECK_FALSE(plugin.HasLease("c1"));
  CHECK_FALSE(plugin.HasLease("c2"));
}

TEST_CASE("a deferred call that cannot be read is said, and keeps its address in quarantine") {
  TwoEngines node;
  cni::Request add = node.HostAdd("c1", "uid-1", kSplit);
  REQUIRE_OK(node.host().Add(add));
  node.SetConnected(false);
  REQUIRE_OK(node.host().Del(node.Del(add)));
  const char* text = GENERATE("7", "{", "[]", "{}", R"({"stdin":"{}","environment":[1]})",
                              R"({"stdin":7,"environment":{}})", R"({"stdin":"{}","environment":{"A":null}})");
  INFO(text);
  REQUIRE_OK(node.host_ledger->Transact([&](ledger::Tx& tx) { return tx.PutValue("deferred-ipam:uid-1", text); }));
  node.SetConnected(true);

  CHECK_THAT(node.host().Resync(), Says("deferred-ipam:uid-1 cannot be read"));
  CHECK(node.host_ledger->ListTombstones()->size() == 1);
}

}  // namespace
}  // namespace heterok8s::attach
