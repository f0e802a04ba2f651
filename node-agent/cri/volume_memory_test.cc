// Volumes in memory on the DPU, on a real kernel: how much there may be of them, and whose. Needs root.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <filesystem>
#include <future>

#include "common/sys/file.h"
#include "common/sys/unique_fd.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/volume_store.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;
using testing::HasCode;

struct Folder {
  Folder() {
    char name[] = "/tmp/hk-memory-XXXXXX";
    path = mkdtemp(name);
  }
  ~Folder() {
    std::error_code ignored;  // what a test that failed has left mounted is let go
    for (const auto& pod : fs::directory_iterator(path + "/.memory", ignored)) umount2(pod.path().c_str(), MNT_DETACH);
    umount2((path + "/.memory").c_str(), MNT_DETACH);
    fs::remove_all(path, ignored);
  }
  std::string path;
};

v1::PutVolumeRequest InMemory(const std::string& pod, const std::string& volume, size_t bytes) {
  v1::PutVolumeRequest request;
  request.set_pod_uid(pod);
  request.set_volume(volume);
  request.set_memory(true);
  request.set_live(true);
  request.add_entries()->set_kind(v1::VolumeEntry::FOLDER);
  v1::VolumeEntry& token = *request.add_entries();
  token.set_path("token");
  token.set_data(std::string(bytes, 'x'));
  return request;
}

TEST_CASE("a Pod whose volumes fill its memory keeps no other Pod's from being renewed") {
  if (geteuid() != 0) {
    WARN("SKIPPED: mounts need root");
    return;
  }
  Folder folder;
  auto store = VolumeStore::Open(folder.path);
  REQUIRE_OK(store);
  auto token = store->Put(InMemory("uid-2", "token", 1000));
  REQUIRE_OK(token);

  for (size_t bytes : {4 << 20, 64 << 10, 1}) {  // to the last page
    absl::Status full = absl::OkStatus();
    for (int i = 0; full.ok() && i < 100; ++i)
      full = store->Put(InMemory("uid-1", std::to_string(bytes) + "-" + std::to_string(i), bytes)).status();
    CHECK_THAT(full, HasCode(absl::StatusCode::kResourceExhausted));
  }
  REQUIRE_OK(store->Put(InMemory("uid-2", "token", 2000)));
  CHECK(fs::file_size(*token + "/token") == 2000);
  struct statfs system = {};
  REQUIRE(statfs(token->c_str(), &system) == 0);
  CHECK(system.f_type == TMPFS_MAGIC);
  for (const char* pod : {"uid-1", "uid-2", "uid-1"}) REQUIRE_OK(store->RemovePod(pod));
  CHECK(fs::is_empty(folder.path + "/.memory"));
}

TEST_CASE(
    "all volumes in memory have a share of the machine's together, and what is there is renewed, but does not grow") {
  if (geteuid() != 0) {
    WARN("SKIPPED: mounts need root");
    return;
  }
  Folder folder;
  auto store = VolumeStore::Open(folder.path, 8u << 20);
  REQUIRE_OK(store);
  auto token = store->Put(InMemory("uid-0", "token", 1000));
  REQUIRE_OK(token);
  v1::PutVolumeRequest once = InMemory("uid-0", "once", 1000);
  once.set_live(false);
  REQUIRE_OK(store->Put(once));

  absl::Status full = absl::OkStatus();
  int pods = 1;
  for (; full.ok() && pods < 20; ++pods)
    full = store->Put(InMemory(fmt::format("uid-{}", pods), "secret", 1 << 20)).status();

  CHECK_THAT(full, HasCode(absl::StatusCode::kResourceExhausted));
  CHECK_THAT(full, testing::Says("volumes in memory have 7 of 8 MiB"));
  CHECK_THAT(store->Put(InMemory("uid-0", "other", 1 << 20)).status(), HasCode(absl::StatusCode::kResourceExhausted));
  CHECK_THAT(store->Put(InMemory("uid-0", "token", 2 << 20)).status(), HasCode(absl::StatusCode::kResourceExhausted));
  CHECK(fs::file_size(*token + "/token") == 1000);

  full = absl::OkStatus();  // to the last pages
  for (int i = 0; full.ok() && i < 1000; ++i)
    full = store->Put(InMemory("uid-0", "small-" + std::to_string(i), 1)).status();
  CHECK_THAT(full, HasCode(absl::StatusCode::kResourceExhausted));
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  CHECK_THAT(store->Put(InMemory("uid-0", "token", 3 * page)).status(), HasCode(absl::StatusCode::kResourceExhausted));
  CHECK_OK(store->Put(InMemory("uid-0", "token", 1001)).status());  // its page is its own already
  CHECK(fs::file_size(*token + "/token") == 1001);
  v1::PutVolumeRequest renewed = InMemory("uid-1", "secret", 1 << 20);
  renewed.mutable_entries(1)->mutable_data()->back() = 'y';
  CHECK_OK(store->Put(renewed).status());
  CHECK_OK(store->Put(once).status());
  once.mutable_entries(1)->mutable_data()->back() = 'y';  // what is not live stays beside what comes
  CHECK_THAT(store->Put(once).status(), HasCode(absl::StatusCode::kResourceExhausted));

  for (int pod = 1; pod < 4; ++pod) REQUIRE_OK(store->RemovePod(fmt::format("uid-{}", pod)));
  CHECK_OK(store->Put(InMemory("uid-0", "other", 1 << 10)).status());
  for (int pod = 0; pod < pods; ++pod) REQUIRE_OK(store->RemovePod(fmt::format("uid-{}", pod)));
  CHECK(fs::is_empty(folder.path + "/.memory"));
}

TEST_CASE("what must be in memory is not on the disk either when its Pod goes while it is written") {
  if (geteuid() != 0) {
    WARN("SKIPPED: mounts need root");
    return;
  }
  Folder folder;
  auto store = VolumeStore::Open(folder.path);
  REQUIRE_OK(store);
  const std::string pod = folder.path + "/.memory/uid-1";

  for (int round = 0; round < 300; ++round) {
    auto put = std::async(std::launch::async, [&] { return store->Put(InMemory("uid-1", "token", 1000)).status(); });
    CHECK_OK(store->RemovePod("uid-1"));
    CHECK_OK(put.get());
    struct stat inside = {}, around = {};
    REQUIRE(stat(folder.path.c_str(), &around) == 0);
    if (stat(pod.c_str(), &inside) == 0) CHECK(inside.st_dev != around.st_dev);
  }
  REQUIRE_OK(store->RemovePod("uid-1"));
}

TEST_CASE("volumes that an older heterod put into one memory for all stay where their containers have them") {
  if (geteuid() != 0) {
    WARN("SKIPPED: mounts need root");
    return;
  }
  Folder folder;
  const std::string shared = folder.path + "/.memory", live = shared + "/uid-1/token/live";
  fs::create_directories(shared);
  REQUIRE(mount("older", shared.c_str(), "tmpfs", 0, "size=1m") == 0);
  fs::create_directories(live);
  sys::UniqueFd in_container(open(live.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  auto store = VolumeStore::Open(folder.path);
  REQUIRE_OK(store);

  auto path = store->Put(InMemory("uid-1", "token", 10));
  auto fresh = store->Put(InMemory("uid-2", "token", 10));

  CHECK(path.ok());
  CHECK(faccessat(in_container.get(), "token", F_OK, 0) == 0);
  struct stat old_one = {}, new_one = {};
  CHECK(fstat(in_container.get(), &old_one) == 0);
  CHECK((fresh.ok() && stat(fresh->c_str(), &new_one) == 0));
  CHECK(old_one.st_dev != new_one.st_dev);
  for (const char* pod : {"uid-1", "uid-2"}) CHECK_OK(store->RemovePod(pod));
  CHECK(fs::is_empty(shared));
}

TEST_CASE("the one memory of an older heterod counts once, however many Pods have volumes in it") {
  if (geteuid() != 0) {
    WARN("SKIPPED: mounts need root");
    return;
  }
  Folder folder;
  const std::string shared = folder.path + "/.memory";
  fs::create_directories(shared);
  REQUIRE(mount("older", shared.c_str(), "tmpfs", 0, "size=2m") == 0);
  for (int pod = 0; pod < 8; ++pod) fs::create_directories(fmt::format("{}/uid-{}/token/live", shared, pod));
  REQUIRE_OK(sys::WriteFileAtomic(shared + "/uid-0/token/live/token", std::string(1 << 20, 'x'), 0600));
  auto store = VolumeStore::Open(folder.path, 4u << 20);
  REQUIRE_OK(store);

  CHECK_OK(store->Put(InMemory("uid-1", "other", 1000)).status());
  CHECK_OK(store->Put(InMemory("uid-8", "token", 1000)).status());
  absl::Status full = store->Put(InMemory("uid-9", "secret", 3 << 20)).status();

  CHECK_THAT(full, HasCode(absl::StatusCode::kResourceExhausted));
  CHECK_THAT(full, testing::Says("volumes in memory have 1 of 4 MiB"));
  for (int pod = 0; pod < 10; ++pod) CHECK_OK(store->RemovePod(fmt::format("uid-{}", pod)));
  CHECK(fs::is_empty(shared));
}

}  // namespace
}  // namespace heterok8s::cri
