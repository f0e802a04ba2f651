#include "common/sys/capabilities.h"

#include <linux/capability.h>

#include <catch2/catch.hpp>
#include <string>
#include <thread>

#include "common/sys/file.h"
#include "common/testing/matchers.h"

namespace heterok8s::sys {
namespace {

// "CapEff" and the like, of the calling thread.
uint64_t Set(const std::string& name) {
  absl::StatusOr<std::string> status = ReadFile("/proc/thread-self/status");
  if (!status.ok()) return ~0ull;
  const size_t at = status->find(name + ":\t");
  return at == std::string::npos ? ~0ull : std::stoull(status->substr(at + name.size() + 2), nullptr, 16);
}

TEST_CASE("what is not kept is gone from all sets, also of threads that come later", "[netns]") {
  const uint64_t wanted = 1ull << CAP_KILL | 1ull << CAP_CHOWN;
  const uint64_t before = Set("CapEff");
  REQUIRE((before & wanted) == wanted);  // this needs root
  absl::Status kept;
  uint64_t effective = 0, permitted = 0, bounding = 0, of_child = 0;

  std::thread([&] {  // sets belong to a thread: the others of this program keep theirs
    kept = KeepCapabilities({CAP_KILL, CAP_CHOWN});
    effective = Set("CapEff");
    permitted = Set("CapPrm");
    bounding = Set("CapBnd");
    std::thread([&] { of_child = Set("CapEff"); }).join();
    if (kept.ok()) kept = KeepCapabilities({CAP_KILL, CAP_CHOWN});  // nothing left to drop, and no right to
  })
      .join();

  CHECK_OK(kept);
  CHECK(effective == wanted);
  CHECK(permitted == wanted);
  CHECK(bounding == wanted);
  CHECK(of_child == wanted);
  CHECK(Set("CapEff") == before);
}

}  // namespace
}  // namespace heterok8s::sys
