#include "heteroctl/lab/cgroups.h"

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"

namespace heterok8s::lab {
namespace {

TEST_CASE("v1 hierarchies are mounted again by their controllers or their name") {
  const auto found = ParseCgroupHierarchies(
      "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
      "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
      "33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd\n"
      "34 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
      "35 1 0:32 / /proc rw - proc proc rw\n");

  REQUIRE(found.size() == 3);
  CHECK(found[0].mount_point == "/sys/fs/cgroup/cpu,cpuacct");
  CHECK(found[0].options == "cpu,cpuacct");
  CHECK(found[1].options == "none,name=systemd");
  CHECK(found[2].v2);
  CHECK(found[2].options.empty());
}

TEST_CASE("pure v2 is one hierarchy at the top") {
  const auto found = ParseCgroupHierarchies("31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw\n");

  REQUIRE(found.size() == 1);
  CHECK(found[0].v2);
  CHECK(found[0].mount_point == "/sys/fs/cgroup");
}

TEST_CASE("a lab's name is short and fit for a hostname") {
  CHECK_OK(CheckName("demo-2"));
  for (const char* name : {"", "Demo", "a/b", "..", "-a", "a-", "a-name-that-is-far-too-long"}) {
    CAPTURE(name);
    CHECK_THAT(CheckName(name), testing::HasCode(absl::StatusCode::kInvalidArgument));
  }
}

}  // namespace
}  // namespace heterok8s::lab
