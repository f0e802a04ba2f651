// A Pod's cgroup: the files that are written for v1 and v2, by folders that stand for hierarchies; by this kernel; by
// systemd's.
#include "node-agent/cri/pod_cgroups.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>

#include "common/sys/file.h"
#include "common/sys/process.h"
#include "common/testing/eventually.h"
#include "common/testing/matchers.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;
using testing::HasCode;

const std::string kUid = "0a1b2c3d-0000-4000-8000-123456789abc";

// Folders with files as a kernel would have them.
struct Tree {
  Tree() {
    char name[] = "/tmp/hk-cgroups-XXXXXX";
    root = mkdtemp(name);
  }
  ~Tree() { fs::remove_all(root); }
  void Pod(const std::string& hierarchy, const std::vector<std::string>& files) const {
    const std::string folder = root + "/" + hierarchy + "/kubepods/pod" + kUid;
    fs::create_directories(folder);
    for (const std::string& file : files) std::ofstream(folder + "/" + file) << "as the kernel has it";
  }
  std::string Of(const std::string& hierarchy, const std::string& file) const {
    auto text = sys::ReadFile(root + "/" + hierarchy + "/kubepods/pod" + kUid + "/" + file);
    return text.ok() ? *text : "no such file";
  }
  std::string V1() const {
    return fmt::format(
        "31 24 0:28 / {0}/cpu,cpuacct rw shared:8 - cgroup cgroup rw,cpu,cpuacct\n"
        "32 24 0:29 / {0}/memory rw shared:9 - cgroup cgroup rw,memory\n"
        "33 24 0:30 / {0}/cpuset rw shared:9 - cgroup cgroup rw,cpuset\n"
        "34 24 0:31 / {0}/unified rw shared:9 - cgroup2 cgroup2 rw\n"
        "35 24 0:32 / /proc rw - proc proc rw\n",
        root);
  }
  std::string V2() const {
    return fmt::format("34 24 0:31 / {}/all rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n", root);
  }
  std::string root;
};

absl::Status NoSystemd(const std::vector<std::string>&) { return absl::FailedPreconditionError("there is no systemd"); }

v1::LimitPodRequest Limits(uint64_t quota, uint64_t shares, uint64_t memory,
                           const std::string& parent = "/kubepods/pod" + kUid) {
  v1::LimitPodRequest request;
  request.set_pod_uid(kUid);
  request.set_cgroup_parent(parent);
  request.set_cpu_quota(quota);
  request.set_cpu_shares(shares);
  request.set_memory_bytes(memory);
  return request;
}

TEST_CASE("cgroup v1: shares, quota and limit in the hierarchies that have them, and all of it can be taken back") {
  Tree tree;
  tree.Pod("cpu,cpuacct", {"cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"});
  tree.Pod("memory", {"memory.limit_in_bytes"});
  PodCgroups cgroups(tree.V1(), NoSystemd);

  auto missing = cgroups.Limit(Limits(30000, 307, 64 << 20));
  REQUIRE_OK(missing);
  CHECK(missing->empty());
  CHECK(tree.Of("cpu,cpuacct", "cpu.shares").substr(0, 3) == "307");
  CHECK(tree.Of("cpu,cpuacct", "cpu.cfs_period_us").substr(0, 6) == "100000");
  CHECK(tree.Of("cpu,cpuacct", "cpu.cfs_quota_us").substr(0, 5) == "30000");
  CHECK(tree.Of("memory", "memory.limit_in_bytes").substr(0, 8) == "67108864");

  REQUIRE_OK(cgroups.Limit(Limits(0, 0, 0)));
  CHECK(tree.Of("cpu,cpuacct", "cpu.shares").substr(0, 4) == "1024");
  CHECK(tree.Of("cpu,cpuacct", "cpu.cfs_quota_us").substr(0, 2) == "-1");
  CHECK(tree.Of("memory", "memory.limit_in_bytes").substr(0, 2) == "-1");
}

TEST_CASE("cgroup v2: weight, cpu.max and memory.max") {
  Tree tree;
  tree.Pod("all", {"cpu.weight", "cpu.max", "memory.max"});
  PodCgroups cgroups(tree.V2(), NoSystemd);

  auto missing = cgroups.Limit(Limits(30000, 1024, 64 << 20));
  REQUIRE_OK(missing);
  CHECK(missing->empty());
  CHECK(tree.Of("all", "cpu.weight").substr(0, 2) == "39");  // of runc for 1024 shares
  CHECK(tree.Of("all", "cpu.max").substr(0, 12) == "30000 100000");
  CHECK(tree.Of("all", "memory.max").substr(0, 8) == "67108864");

  REQUIRE_OK(cgroups.Limit(Limits(0, 0, 0)));
  CHECK(tree.Of("all", "cpu.weight").substr(0, 3) == "100");
  CHECK(tree.Of("all", "cpu.max").substr(0, 10) == "max 100000");
  CHECK(tree.Of("all", "memory.max").substr(0, 3) == "max");
}

TEST_CASE("files of v2 are for a kernel with v2 alone: beside v1 it has no controller") {
  Tree tree;
  CHECK(PodCgroups(tree.V2(), NoSystemd).only_v2());
  CHECK_FALSE(PodCgroups(tree.V1(), NoSystemd).only_v2());
  CHECK_FALSE(PodCgroups("", NoSystemd).only_v2());
}

TEST_CASE("a controller that the kernel lacks is named, and the other one is set") {
  Tree tree;
  SECTION("v1 without a hierarchy of memory") {
    tree.Pod("cpu,cpuacct", {"cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us"});
    const std::string mounts = tree.V1().substr(0, tree.V1().find('\n') + 1);
    auto missing = PodCgroups(mounts, NoSystemd).Limit(Limits(30000, 307, 64 << 20));
    REQUIRE_OK(missing);
    CHECK(*missing == std::vector<std::string>{"memory"});
    CHECK(tree.Of("cpu,cpuacct", "cpu.cfs_quota_us").substr(0, 5) == "30000");
  }
  SECTION("v2 that has not given it to the Pod's cgroup") {
    tree.Pod("all", {"memory.max"});
    auto missing = PodCgroups(tree.V2(), NoSystemd).Limit(Limits(30000, 307, 64 << 20));
    REQUIRE_OK(missing);
    CHECK(*missing == std::vector<std::string>{"cpu"});
    CHECK(tree.Of("all", "memory.max").substr(0, 8) == "67108864");
  }
  SECTION("no cgroups at all") {
    auto missing = PodCgroups("", NoSystemd).Limit(Limits(30000, 307, 64 << 20));
    REQUIRE_OK(missing);
    CHECK(*missing == std::vector<std::string>{"cpu", "memory"});
  }
}

TEST_CASE("what is not this Pod's, or not below the root, is refused and not touched") {
  Tree tree;
  PodCgroups cgroups(tree.V1(), NoSystemd);
  for (const std::string& parent :
       {std::string("/kubepods"), std::string("/"), std::string(), "/../pod" + kUid, "/kubepods//pod" + kUid,
        "/pod" + kUid + "/..", std::string("kubepods-burstable.slice"), "-" + kUid + ".slice"}) {
    INFO(parent);
    CHECK_THAT(cgroups.Limit(Limits(1000, 2, 1, parent)).status(), HasCode(absl::StatusCode::kInvalidArgument));
    CHECK_THAT(cgroups.Remove(parent, kUid), HasCode(absl::StatusCode::kInvalidArgument));
  }
  CHECK(fs::is_empty(tree.root));
}

TEST_CASE("removal takes the Pod's folder in every hierarchy, with what a killed runtime left, and can be repeated") {
  Tree tree;
  for (const char* hierarchy : {"cpu,cpuacct", "memory", "cpuset", "unified"}) tree.Pod(hierarchy, {});
  fs::create_directories(tree.root + "/memory/kubepods/pod" + kUid + "/a-container");
  PodCgroups cgroups(tree.V1(), NoSystemd);

  REQUIRE_OK(cgroups.Remove("/kubepods/pod" + kUid, kUid));
  for (const char* hierarchy : {"cpu,cpuacct", "memory", "cpuset", "unified"})
    CHECK(fs::is_empty(tree.root + "/" + hierarchy + "/kubepods"));
  CHECK_OK(cgroups.Remove("/kubepods/pod" + kUid, kUid));
}

TEST_CASE("a slice is told to systemd, by its name, and taken away there") {
  std::vector<std::string> said;
  PodCgroups cgroups(Tree().V1(), [&](const std::vector<std::string>& arguments) {
    said.push_back(fmt::format("{}", fmt::join(arguments, " ")));
    return absl::OkStatus();
  });
  const std::string slice = "kubepods-burstable-pod0a1b2c3d_0000_4000_8000_123456789abc.slice";

  auto missing = cgroups.Limit(Limits(12345, 307, 64 << 20, slice));
  REQUIRE_OK(missing);
  CHECK(missing->empty());
  REQUIRE_OK(cgroups.Limit(Limits(0, 0, 0, "/kubepods.slice/" + slice)));
  REQUIRE_OK(cgroups.Remove(slice, kUid));
  CHECK(said == std::vector<std::string>{
                    "set-property --runtime " + slice + " CPUQuota=12.35% CPUShares=307 MemoryMax=67108864",
                    "set-property --runtime " + slice + " CPUQuota= CPUShares=1024 MemoryMax=infinity", "stop " + slice,
                    "revert " + slice});
  CHECK_THAT(PodCgroups("", NoSystemd).Limit(Limits(0, 0, 0, slice)).status(),
             HasCode(absl::StatusCode::kFailedPrecondition));
}

TEST_CASE("where no systemd runs, limits of a slice do not hold, and nothing fails for it") {
  const std::string slice = "kubepods-burstable-pod0a1b2c3d_0000_4000_8000_123456789abc.slice";
  Tree tree;
  PodCgroups cgroups(tree.V1(), nullptr);

  auto missing = cgroups.Limit(Limits(12345, 307, 64 << 20, slice));
  REQUIRE_OK(missing);
  CHECK(*missing == std::vector<std::string>{"systemd"});
  CHECK_OK(cgroups.Remove(slice, kUid));
  CHECK(fs::is_empty(tree.root));
}

// With this machine's kernel and mounts.
TEST_CASE("this kernel takes the limits, and gives the cgroup back when nothing runs in it", "[root]") {
  if (geteuid() != 0) {
    WARN("SKIPPED: cgroups need root");
    return;
  }
  auto cgroups = PodCgroups::Find();
  REQUIRE_OK(cgroups);
  static std::atomic<int> serial{0};
  const std::string uid = fmt::format("hk-cgroups-test-{}-{}", getpid(), ++serial), parent = "/pod" + uid;
  v1::LimitPodRequest request = Limits(30000, 307, 64 << 20, parent);
  request.set_pod_uid(uid);

  auto missing = cgroups->Limit(request);
  REQUIRE_OK(missing);
  if (!missing->empty())
    WARN(fmt::format("SKIPPED: no controller {} in this machine's root", fmt::join(*missing, ", ")));
  for (const std::string& file :
       {"/sys/fs/cgroup/memory" + parent + "/memory.limit_in_bytes", "/sys/fs/cgroup" + parent + "/memory.max"}) {
    if (auto text = sys::ReadFile(file); text.ok()) CHECK(*text == "67108864\n");
  }
  REQUIRE_OK(cgroups->Remove(parent, uid));
  CHECK_FALSE(fs::exists("/sys/fs/cgroup/memory" + parent));
  CHECK_FALSE(fs::exists("/sys/fs/cgroup" + parent));
}

// e2e/systemd/run runs it beside a systemd.
TEST_CASE("systemd's slice has the limits while something runs in it, keeps them over a reload, and goes",
          "[systemd]") {
  if (geteuid() != 0 || !fs::exists("/run/systemd/system")) {
    WARN("SKIPPED: there is no systemd here");
    return;
  }
  auto cgroups = PodCgroups::Find();
  REQUIRE_OK(cgroups);
  const std::string uid = fmt::format("{}", getpid()), slice = "hktest-pod" + uid + ".slice";
  const std::string folder = "hktest.slice/" + slice;
  v1::LimitPodRequest request = Limits(30000, 307, 64 << 20, slice);
  request.set_pod_uid(uid);
  auto run = [](const std::vector<std::string>& argv) {
    auto done = sys::Run({.argv = argv});
    REQUIRE_OK(done);
    INFO(done->stderr_text);
    REQUIRE(done->exit_code == 0);
  };
  auto limit = [&]() -> std::string {
    for (const std::string& file :
         {"/sys/fs/cgroup/memory/" + folder + "/memory.limit_in_bytes", "/sys/fs/cgroup/" + folder + "/memory.max"}) {
      if (auto text = sys::ReadFile(file); text.ok()) return *text;
    }
    return "no such cgroup";
  };

  REQUIRE_OK(cgroups->Limit(request));
  run({"systemd-run", "--quiet", "--slice=" + slice, "--unit=hktest-" + uid, "-p", "MemoryAccounting=yes", "sleep",
       "1000"});
  CHECK(testing::Eventually([&] { return limit() == "67108864\n"; }));
  run({"systemctl", "daemon-reload"});
  CHECK(limit() == "67108864\n");
  request.set_memory_bytes(96 << 20);
  REQUIRE_OK(cgroups->Limit(request));
  CHECK(testing::Eventually([&] { return limit() == "100663296\n"; }));
  REQUIRE_OK(cgroups->Remove(slice, uid));
  CHECK(testing::Eventually([&] { return limit() == "no such cgroup"; }));
  CHECK_FALSE(fs::exists("/run/systemd/system.control/" + slice + ".d"));
}

}  // namespace
}  // namespace heterok8s::cri
