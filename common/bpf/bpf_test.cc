#include <fmt/format.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>
#include <sys/mount.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <sstream>

#include "common/bpf/handles.h"
#include "common/bpf/log.h"
#include "common/bpf/map.h"
#include "common/bpf/mounts.h"
#include "common/bpf/object.h"
#include "common/bpf/pin_test_object.bpf.h"
#include "common/bpf/probe.h"
#include "common/sys/netns.h"
#include "common/testing/matchers.h"

namespace heterok8s::bpf {
namespace {

using testing::HasCode;
using testing::Says;
using Numbers = Map<uint32_t, uint64_t>;

// A bpffs that is gone, with all pins, when the test ends.
struct Bpffs {
  Bpffs() { REQUIRE_OK(EnsureBpffs(folder)); }
  ~Bpffs() {
    umount2(folder.c_str(), MNT_DETACH);
    std::filesystem::remove_all(std::filesystem::path(folder).parent_path());
  }
  std::string folder = fmt::format("/run/hkbpf{}/bpf", getpid());
};

BpfObject Open() {
  auto object = OpenObject({pin_test_object_bpf, pin_test_object_bpf_len}, "pin_test");
  REQUIRE_OK(object);
  return *std::move(object);
}
Numbers NumbersOf(const BpfObject& object) { return Numbers(bpf_object__find_map_by_name(object.get(), "numbers")); }

TEST_CASE("libbpf's own debug lines are in the log at trace only") {
  auto lines_at = [](spdlog::level::level_enum level) {
    std::ostringstream text;
    auto before = spdlog::default_logger();
    auto logger = std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text));
    logger->set_level(level);
    spdlog::set_default_logger(logger);
    Open();
    spdlog::set_default_logger(before);
    return text.str();
  };

  CHECK(lines_at(spdlog::level::debug) == "");
  CHECK_THAT(lines_at(spdlog::level::trace), Catch::Contains("libbpf:"));
}

TEST_CASE("a pinned map keeps its entries when the object is loaded again", "[netns]") {
  Bpffs bpffs;
  {
    BpfObject object = Open();
    REQUIRE_OK(LoadObject(object.get(), bpffs.folder + "/maps"));
    REQUIRE_OK(NumbersOf(object).Put(7, 49));
  }
  BpfObject object = Open();
  REQUIRE_OK(LoadObject(object.get(), bpffs.folder + "/maps"));
  Numbers numbers = NumbersOf(object);
  CHECK(numbers.Get(7) == 49u);
  CHECK(numbers.All().size() == 1);

  REQUIRE_OK(numbers.Put(8, 64));
  CHECK_THAT(numbers.Put(9, 81), HasCode(absl::StatusCode::kResourceExhausted));
  CHECK_THAT(numbers.Put(7, 0, BPF_NOEXIST), HasCode(absl::StatusCode::kAlreadyExists));
  CHECK(numbers.Take(7) == 49u);
  CHECK_FALSE(numbers.Get(7).has_value());
  CHECK_OK(numbers.Erase(7));
}

TEST_CASE("a pinned map of another layout is refused, not reused", "[netns]") {
  Bpffs bpffs;
  {
    BpfObject object = Open();
    bpf_map__set_max_entries(bpf_object__find_map_by_name(object.get(), "numbers"), 3);
    REQUIRE_OK(LoadObject(object.get(), bpffs.folder + "/maps"));
  }
  BpfObject object = Open();
  CHECK_THAT(LoadObject(object.get(), bpffs.folder + "/maps"), HasCode(absl::StatusCode::kFailedPrecondition));
}

TEST_CASE("a link is pinned, found, given another program, and known to be dead when its namespace is", "[netns]") {
  Bpffs bpffs;
  std::string pin = bpffs.folder + "/links/look", path = fmt::format("/run/netns/hkbpf-{}", getpid());
  BpfObject object = Open();
  REQUIRE_OK(LoadObject(object.get(), bpffs.folder + "/maps"));
  const bpf_program* program = bpf_object__find_program_by_name(object.get(), "look");
  CHECK_THAT(ReplaceProgram(program, pin), HasCode(absl::StatusCode::kNotFound));
  for (int life = 0; life < 2; ++life) {  // in the second, the pin of the first is in the way
    auto ns = sys::CreateNetns(path);
    REQUIRE_OK(ns);
    CHECK_OK(AttachNetns(program, ns->fd(), pin, false));
    CHECK_OK(AttachNetns(program, ns->fd(), pin, true));
    CHECK_OK(ReplaceProgram(program, pin));
    REQUIRE_OK(sys::DeleteNetns(path));
  }
  CHECK_OK(Unpin(pin));
  CHECK_OK(Unpin(pin));
}

TEST_CASE("a folder below a bpffs is made, not mounted over", "[netns]") {
  Bpffs bpffs;
  std::string below = bpffs.folder + "/below";
  REQUIRE_OK(EnsureBpffs(below));
  REQUIRE_OK(EnsureBpffs(below));
  CHECK(umount2(below.c_str(), MNT_DETACH) != 0);
}

TEST_CASE("probes tell what is there from what is not", "[netns]") {
  CHECK(CanLoad(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP));
  CHECK_FALSE(CanLoad(BPF_PROG_TYPE_SK_LOOKUP, BPF_CGROUP_INET4_BIND));
  CHECK(HasHelper(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_BIND, BPF_FUNC_get_netns_cookie));
  CHECK_FALSE(HasHelper(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_BIND, BPF_FUNC_xdp_adjust_head));
  CHECK(HasMap(BPF_MAP_TYPE_RINGBUF));
}

TEST_CASE("what libbpf warns of is part of the error", "[netns]") {
  unsigned char garbage[64] = "no object at all";
  CHECK_THAT(OpenObject(garbage, "garbage").status(), Says("garbage"));
  LogCapture log;
  CHECK_THAT(log.Error(EPERM, "load 'x'"), HasCode(absl::StatusCode::kPermissionDenied));
}

}  // namespace
}  // namespace heterok8s::bpf
