#include "heterosock/agent/policy.h"

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"
#include "heterosock/agent/credits.h"
#include "heterosock/agent/process_identity.h"

namespace heterok8s::heterosock::agent {
namespace {

using testing::Says;

TEST_CASE("credits are a Pod's, else a cgroup's, but a user's cgroups are one domain") {
  const auto key = [](const std::string& cgroup, const std::string& pod = "") {
    return CreditKey({.pod_uid = pod, .cgroup = cgroup});
  };
  const std::string user = "/user.slice/user-1000.slice/user@1000.service";

  CHECK(key("/system.slice/a.service") != key("/system.slice/b.service"));
  CHECK(key("/system.slice/a.service/x") != key("/system.slice/a.service/y"));
  CHECK(key("/x", "uid") == key("/y", "uid"));
  CHECK(key(user + "/app.slice/a.service/1") == key(user + "/b"));
  CHECK(key(user + "/b") == key(user));
  CHECK(key(user + "/b") != key("/user.slice/user-1001.slice/user@1001.service/b"));
  CHECK(key("/user@x/a.service/b") == "cgroup:/user@x/a.service/b");
  CHECK(key("") == "cgroup:?");
}

TEST_CASE("two processes of one Pod may, also on both PUs; two Pods in one namespace may not") {
  const Policy policy;
  const Domain web{.netns_cookie = 1, .pod_uid = "web"}, web_on_dpu{.netns_cookie = 2, .pod_uid = "web"},
      other_on_host_network{.netns_cookie = 1, .pod_uid = "other"}, daemon{.netns_cookie = 1};

  CHECK(policy.Allows(web, web));
  CHECK(policy.Allows(web, web_on_dpu));
  CHECK_FALSE(policy.Allows(web, other_on_host_network));
  CHECK_FALSE(policy.Allows(web, daemon));
  CHECK(policy.Allows(daemon, {.netns_cookie = 1, .cgroup = "/elsewhere"}));
}

TEST_CASE("neighbours of a chain may, in both directions; others may not") {
  auto policy =
      Policy::Parse({"web = cgroup:/apps/web*", "envoy = pod:e1", "db = pod:d1", "db = pod:d2"}, {"web envoy db"});
  REQUIRE_OK(policy);
  const Domain web{.netns_cookie = 1, .cgroup = "/apps/web-1/main"}, envoy{.netns_cookie = 2, .pod_uid = "e1"},
      db{.netns_cookie = 3, .pod_uid = "d2"};

  CHECK(policy->Allows(web, envoy));
  CHECK(policy->Allows(envoy, web));
  CHECK(policy->Allows(db, envoy));
  CHECK_FALSE(policy->Allows(web, db));
  CHECK(policy->GroupsOf(db) == std::vector<std::string>{"db"});
}

TEST_CASE("a policy that means nothing is refused with the line that is wrong") {
  CHECK_THAT(Policy::Parse({"web"}, {}).status(), Says("'web' is no NAME = SELECTOR"));
  CHECK_THAT(Policy::Parse({"web = ip:1.2.3.4"}, {}).status(), Says("a selector is"));
  CHECK_THAT(Policy::Parse({"web = cgroup:relative"}, {}).status(), Says("a selector is"));
  CHECK_THAT(Policy::Parse({"web = netns:/nowhere"}, {}).status(), Says("/nowhere"));
  CHECK_THAT(Policy::Parse({"web = pod:u"}, {"web db"}).status(), Says("no group is named 'db'"));
  CHECK_THAT(Policy::Parse({"web = pod:u"}, {"web"}).status(), Says("less than two"));
}

TEST_CASE("a Pod is known by the path of its cgroup, in both of kubelet's spellings") {
  const std::string uid = "0a1b2c3d-0000-4000-8000-123456789abc";
  CHECK(PodUidOfCgroup("/kubepods/burstable/pod" + uid + "/0123abcd") == uid);
  CHECK(PodUidOfCgroup("/kubepods.slice/kubepods-burstable.slice/"
                       "kubepods-burstable-pod0a1b2c3d_0000_4000_8000_123456789abc.slice/cri-containerd-1.scope") ==
        uid);
  CHECK(PodUidOfCgroup("/user.slice/podman-123.scope") == "");
  CHECK(PodUidOfCgroup("/user.slice/user-1000.slice/user@1000.service/kubepods/pod" + uid) == "");
  CHECK(PodUidOfCgroup("/system.slice/podium.service") == "");
  CHECK(PodUidOfCgroup("/") == "");
}

TEST_CASE("the cgroup is the v2 one, or a v1 one where v2 has nothing to say") {
  CHECK(CgroupOfText("0::/a/b\n") == "/a/b");
  CHECK(CgroupOfText("3:pids:/x\n1:name=systemd:/x/y\n0::/\n") == "/x/y");
  CHECK(CgroupOfText("3:pids:/x\n0::/a\n") == "/a");
  CHECK(CgroupOfText("nonsense") == "");
}

}  // namespace
}  // namespace heterok8s::heterosock::agent
