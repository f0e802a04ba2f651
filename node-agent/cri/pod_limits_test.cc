// What a Pod's containers on the DPU may use together, by what kubelet says of each and of the Pod.
#include "node-agent/cri/pod_limits.h"

#include "common/testing/matchers.h"

namespace heterok8s::cri {
namespace {

namespace rt = runtime::v1;

constexpr int64_t kMi = 1 << 20;
// What kubelet reads from a cgroup v1 without a limit, and tells when a Pod is resized.
constexpr int64_t kUnlimited = 9223372036854771712;

struct Said {
  int64_t memory = 0, quota = 0, shares = 0, period = 100000;
};
rt::LinuxContainerResources Of(const Said& said) {
  rt::LinuxContainerResources resources;
  resources.set_memory_limit_in_bytes(said.memory);
  resources.set_cpu_quota(said.quota);
  resources.set_cpu_period(said.period);
  resources.set_cpu_shares(said.shares);
  return resources;
}

TEST_CASE("the DPU's half of a Pod may use what its containers may, and no more than the Pod") {
  struct Case {
    const char* what;
    std::vector<Said> containers;
    Said pod;
    PodLimits limits;
  };
  const std::vector<Case> cases = {
      {.what = "both have limits: their sum, not the Pod's, whose other containers are on the host",
       .containers = {{.memory = 64 * kMi, .quota = 10000, .shares = 102},
                      {.memory = 32 * kMi, .quota = 5000, .shares = 51}},
       .pod = {.memory = 512 * kMi, .quota = 100000, .shares = 1024},
       .limits = {.cpu_quota = 15000, .cpu_shares = 153, .memory_bytes = 96 * kMi}},
      {.what = "spec.resources: kubelet gives the Pod's limit to each, and they have it together",
       .containers = {{.memory = 64 * kMi, .quota = 50000, .shares = 512},
                      {.memory = 64 * kMi, .quota = 50000, .shares = 512}},
       .pod = {.memory = 64 * kMi, .quota = 50000, .shares = 256},
       .limits = {.cpu_quota = 50000, .cpu_shares = 512, .memory_bytes = 64 * kMi}},
      {.what = "one has no limit, so the Pod has none: its sum is of the others",
       .containers = {{.memory = 64 * kMi, .quota = 10000, .shares = 102}, {.shares = 2}},
       .pod = {.memory = 128 * kMi, .quota = 20000, .shares = 204},
       .limits = {.cpu_quota = 0, .cpu_shares = 104, .memory_bytes = 0}},
      {.what = "best effort",
       .containers = {{.shares = 2}, {.shares = 2}},
       .pod = {.shares = 2},
       .limits = {.cpu_shares = 2}},
      {.what = "a container that may use its processors without end",
       .containers = {{.memory = 64 * kMi, .quota = -1, .shares = 1024}},
       .pod = {.memory = 64 * kMi, .quota = -1, .shares = 1024},
       .limits = {.cpu_shares = 1024, .memory_bytes = 64 * kMi}},
      {.what = "nothing is said", .containers = {{.period = 0}}, .pod = {.period = 0}, .limits = {}},
      {.what = "a Pod of which only the containers' limits are said",
       .containers = {{.memory = 64 * kMi, .quota = 10000, .shares = 102}},
       .pod = {.period = 0},
       .limits = {.cpu_quota = 10000, .cpu_shares = 102, .memory_bytes = 64 * kMi}},
      {.what = "the kernel's word for no limit is none",
       .containers = {{.memory = 64 * kMi, .quota = 10000, .shares = 102}},
       .pod = {.memory = kUnlimited, .quota = -1, .shares = 102},
       .limits = {.cpu_quota = 10000, .cpu_shares = 102, .memory_bytes = 64 * kMi}},
      {.what = "another period (gate CustomCPUCFSQuotaPeriod): the same share of the time",
       .containers = {{.memory = 64 * kMi, .quota = 3000, .shares = 102, .period = 10000}},
       .pod = {.memory = 64 * kMi, .quota = 3000, .shares = 102, .period = 10000},
       .limits = {.cpu_quota = 30000, .cpu_shares = 102, .memory_bytes = 64 * kMi}},
      {.what = "the Pod's sum is older than a container's: never less than the container",
       .containers = {{.memory = 96 * kMi, .quota = 30000, .shares = 307}},
       .pod = {.memory = 64 * kMi, .quota = 20000, .shares = 204},
       .limits = {.cpu_quota = 30000, .cpu_shares = 307, .memory_bytes = 96 * kMi}},
  };
  for (const Case& each : cases) {
    INFO(each.what);
    std::vector<rt::LinuxContainerResources> containers;
    for (const Said& said : each.containers) containers.push_back(Of(said));
    const PodLimits limits = LimitsOf(containers, Of(each.pod));
    CHECK(limits.cpu_quota == each.limits.cpu_quota);
    CHECK(limits.cpu_shares == each.limits.cpu_shares);
    CHECK(limits.memory_bytes == each.limits.memory_bytes);
  }
}

TEST_CASE("what both allow is the greater of two limits, and none when one is none") {
  const PodLimits one{.cpu_quota = 10000, .cpu_shares = 2, .memory_bytes = 64 * kMi};
  const PodLimits other{.cpu_quota = 20000, .cpu_shares = 1, .memory_bytes = 0};

  CHECK(Wider(one, other) == PodLimits{.cpu_quota = 20000, .cpu_shares = 2, .memory_bytes = 0});
  CHECK(Wider(other, one) == Wider(one, other));
}

TEST_CASE("an update changes what it says and keeps the rest; what is no limit is not kept") {
  rt::LinuxContainerResources now = Of({.memory = 64 * kMi, .quota = 10000, .shares = 102});
  now.set_oom_score_adj(7);
  rt::LinuxContainerResources update;
  update.set_cpu_quota(20000);

  const rt::LinuxContainerResources updated = Updated(now, update);
  CHECK(updated.cpu_quota() == 20000);
  CHECK(updated.memory_limit_in_bytes() == 64 * kMi);
  CHECK(updated.oom_score_adj() == 0);
}

TEST_CASE("resources travel as text, and what is no such text is none") {
  const rt::LinuxContainerResources said = Of({.memory = 64 * kMi, .quota = 10000, .shares = 102});

  CHECK(ResourcesText(said) == "cpu_period: 100000 cpu_quota: 10000 cpu_shares: 102 memory_limit_in_bytes: 67108864");
  CHECK(ResourcesOf(ResourcesText(said)).SerializeAsString() == said.SerializeAsString());
  CHECK(ResourcesText({}).empty());
  for (const char* text : {"", "memory_limit_in_bytes: much", "{", "colour: 1", "cpu_quota: 1 cpu_quota:"}) {
    INFO(text);
    CHECK(ResourcesOf(text).ByteSizeLong() == 0);
  }
}

TEST_CASE("a cgroup is a Pod's own when its last part has the Pod's UID") {
  const std::string uid = "0a1b2c3d-0000-4000-8000-123456789abc";
  CHECK(NamesPod("/kubepods/burstable/pod" + uid, uid));
  CHECK(NamesPod("kubepods-burstable-pod0a1b2c3d_0000_4000_8000_123456789abc.slice", uid));
  CHECK(NamesPod("/conformance/" + uid, uid));
  CHECK_FALSE(NamesPod("/pods", uid));
  CHECK_FALSE(NamesPod("/pod" + uid + "/shared", uid));
  CHECK_FALSE(NamesPod("/kubepods/pod0a1b2c3d_0000_4000_8000_123456789abc", uid));
  CHECK_FALSE(NamesPod("", uid));
  CHECK_FALSE(NamesPod("/pods", ""));
}

}  // namespace
}  // namespace heterok8s::cri
