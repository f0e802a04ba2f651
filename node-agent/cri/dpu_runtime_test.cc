// The DPU's files: logs that are followed and released, volumes that are copied, names that try to get out.
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <thread>

#include "common/sys/file.h"
#include "common/testing/eventually.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/log_tail.h"
#include "node-agent/cri/volume_store.h"
#include "node-agent/cri/volume_usage.h"

namespace heterok8s::cri {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using testing::HasCode;

constexpr milliseconds kAsLongAsItTakes{60000};

struct Folder {
  Folder() {
    char name[] = "/tmp/hk-dpu-files-XXXXXX";
    path = mkdtemp(name);
  }
  ~Folder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  std::string path;
};

// All of it up to the end or the first silence of 5 s.
std::string ReadAll(LogTail& tail, LogTail::Piece::Kind* end) {
  std::string text;
  while (true) {
    auto piece = tail.Next(testing::kPatience);
    REQUIRE_OK(piece);
    *end = piece->kind;
    if (piece->kind != LogTail::Piece::Kind::kData) return text;
    text += piece->data;
  }
}

TEST_CASE("a path never leaves its root") {
  Folder folder;
  fs::create_directories(folder.path + "/root/in");
  std::ofstream(folder.path + "/outside") << "secret";
  fs::create_symlink("../outside", folder.path + "/root/link");
  fs::create_symlink("..", folder.path + "/root/up");
  auto root = ConfinedRoot::Open(folder.path + "/root");
  REQUIRE_OK(root);

  for (const char* path :
       {"../outside", "in/../../outside", "/etc/passwd", "link", "up/outside", "", "in//x", "./in"}) {
    INFO(path);
    CHECK_THAT(root->OpenFile(path, O_RDONLY).status(), HasCode(absl::StatusCode::kInvalidArgument));
  }
  CHECK_THAT(root->MakeFolders("up/made", 0755), HasCode(absl::StatusCode::kInvalidArgument));
  CHECK_THAT(root->Remove("up/outside"), HasCode(absl::StatusCode::kInvalidArgument));
  CHECK(fs::exists(folder.path + "/outside"));
  CHECK_OK(root->Remove("link"));
  CHECK(fs::exists(folder.path + "/outside"));
}

TEST_CASE("a log is followed from an offset until its writer has gone") {
  Folder folder;
  auto root = ConfinedRoot::Open(folder.path);
  REQUIRE_OK(root);
  fs::create_directories(folder.path + "/pod");
  LogTail tail(*root, "pod/0.log", 0, true);
  auto nothing = tail.Next(milliseconds(1));
  REQUIRE_OK(nothing);
  CHECK(nothing->kind == LogTail::Piece::Kind::kNothingYet);  // no file yet

  std::ofstream log(folder.path + "/pod/0.log");
  std::thread writer([&] {
    for (int i = 0; i < 1000; ++i) log << "line " << i << std::endl;
    log.close();
  });
  LogTail::Piece::Kind end;
  std::string text = ReadAll(tail, &end);
  writer.join();

  CHECK(end == LogTail::Piece::Kind::kEnd);
  auto whole = sys::ReadFile(folder.path + "/pod/0.log");
  CHECK((text == *whole));
  LogTail rest(*root, "pod/0.log", whole->size() - 9, true);
  CHECK(ReadAll(rest, &end) == "line 999\n");
  CHECK(end == LogTail::Piece::Kind::kEnd);
  LogTail beyond(*root, "pod/0.log", whole->size() + 1, true);
  CHECK_THAT(beyond.Next(milliseconds(1)).status(), HasCode(absl::StatusCode::kOutOfRange));
}

TEST_CASE("released bytes give their space back and keep everybody's offsets") {
  Folder folder;
  auto root = ConfinedRoot::Open(folder.path);
  REQUIRE_OK(root);
  std::ofstream log(folder.path + "/0.log", std::ios::app);
  log << std::string(100000, 'a') << std::flush;

  REQUIRE_OK(ReleaseLog(*root, "0.log", 100000));
  log << "after\n" << std::flush;
  log.close();

  CHECK(fs::file_size(folder.path + "/0.log") == 100006);
  LogTail tail(*root, "0.log", 100000, false);
  LogTail::Piece::Kind end;
  CHECK(ReadAll(tail, &end) == "after\n");
  LogTail from_start(*root, "0.log", 0, false);
  auto piece = from_start.Next(milliseconds(1));
  REQUIRE_OK(piece);
  CHECK(piece->offset > 0);  // what was released is skipped, not read as zeros
  CHECK(piece->data.find('\0') == std::string::npos);
}

v1::VolumeEntry Entry(const std::string& path, v1::VolumeEntry::Kind kind, const std::string& data) {
  v1::VolumeEntry entry;
  entry.set_path(path);
  entry.set_kind(kind);
  entry.set_mode(kind == v1::VolumeEntry::FOLDER ? 0755 : 0640);
  entry.set_uid(getuid());
  entry.set_gid(getgid());
  entry.set_data(data);
  return entry;
}

TEST_CASE("a volume is copied once per content, with modes and inner links") {
  Folder folder;
  auto store = VolumeStore::Open(folder.path);
  REQUIRE_OK(store);
  v1::PutVolumeRequest request;
  request.set_pod_uid("uid-1");
  request.set_volume("conf");
  *request.add_entries() = Entry("..data", v1::VolumeEntry::LINK, "..2026");
  *request.add_entries() = Entry("..2026", v1::VolumeEntry::FOLDER, "");
  *request.add_entries() = Entry("..2026/a.cfg", v1::VolumeEntry::FILE, "hello");
  *request.add_entries() = Entry("a.cfg", v1::VolumeEntry::LINK, "..data/a.cfg");

  auto path = store->Put(request);
  REQUIRE_OK(path);
  CHECK(*sys::ReadFile(*path + "/a.cfg") == "hello");
  CHECK((fs::status(*path + "/..2026/a.cfg").permissions() & fs::perms::all) == static_cast<fs::perms>(0640));
  CHECK(*store->Put(request) == *path);
  request.mutable_entries(2)->set_data("changed");
  auto second = store->Put(request);
  REQUIRE_OK(second);
  CHECK(*second != *path);
  CHECK(*sys::ReadFile(*path + "/a.cfg") == "hello");

  v1::GetFileRequest get;
  get.set_pod_uid("uid-1");
  get.set_path(*path + "/..2026/a.cfg");
  get.set_max_bytes(100);
  CHECK(*store->Get(get) == "hello");
  get.set_max_bytes(3);
  CHECK_THAT(store->Get(get).status(), HasCode(absl::StatusCode::kResourceExhausted));
  get.set_tail(true);
  CHECK(*store->Get(get) == "llo");
  get.set_pod_uid("uid-2");
  CHECK_THAT(store->Get(get).status(), HasCode(absl::StatusCode::kInvalidArgument));
  get.set_pod_uid("uid-1");
  get.set_path(folder.path + "/uid-1/../../etc/passwd");
  CHECK_THAT(store->Get(get).status(), HasCode(absl::StatusCode::kInvalidArgument));

  REQUIRE_OK(store->RemovePod("uid-1"));
  CHECK(fs::is_empty(folder.path));
}

TEST_CASE("a copy that a disk holds up keeps neither memory nor other Pods waiting") {
  Folder folder;
  auto store = VolumeStore::Open(folder.path);
  REQUIRE_OK(store);
  v1::PutVolumeRequest request;
  request.set_pod_uid("uid-1");
  request.set_volume("conf");
  request.set_live(true);
  request.add_entries()->set_kind(v1::VolumeEntry::FOLDER);
  REQUIRE_OK(store->Put(request));
  // Whoever opens a file with a lease (fcntl(2)) waits until the lease is given back, and its owner is sent a SIGIO.
  auto before = signal(SIGIO, SIG_IGN);
  sys::UniqueFd lease(open((folder.path + "/uid-1/conf/version").c_str(), O_RDONLY | O_CLOEXEC));
  REQUIRE(fcntl(lease.get(), F_SETLEASE, F_WRLCK) == 0);
  auto held_up = std::async(std::launch::async, [&] { return store->Put(request).status(); });
  CHECK(testing::Eventually([&] { return fcntl(lease.get(), F_GETLEASE) != F_WRLCK; }));

  CHECK_OK(store->RemovePod("uid-2"));  // it takes the lock of what is in memory

  CHECK(held_up.wait_for(milliseconds(0)) == std::future_status::timeout);
  CHECK(fcntl(lease.get(), F_SETLEASE, F_UNLCK) == 0);
  CHECK_OK(held_up.get());
  signal(SIGIO, before);
}

TEST_CASE("an emptyDir in memory has its own size, mode and owner, is made once, and goes with the Pod") {
  if (geteuid() != 0) {
    WARN("SKIPPED: mounts need root");
    return;
  }
  Folder folder;
  auto store = VolumeStore::Open(folder.path);
  REQUIRE_OK(store);
  v1::MakeVolumeRequest request;
  request.set_pod_uid("uid-1");
  request.set_volume("cache");
  request.set_mode(01770);
  request.set_uid(1000);
  request.set_gid(2000);
  request.set_memory(true);
  request.set_memory_bytes(1 << 20);

  auto path = store->Make(request);
  REQUIRE_OK(path);
  struct statfs system = {};
  struct stat info = {};
  REQUIRE(statfs(path->c_str(), &system) == 0);
  REQUIRE(stat(path->c_str(), &info) == 0);
  CHECK(system.f_type == TMPFS_MAGIC);
  CHECK(system.f_blocks * system.f_bsize == 1 << 20);
  CHECK((info.st_mode & 07777) == 01770);
  CHECK(info.st_uid == 1000);
  CHECK(info.st_gid == 2000);

  REQUIRE_OK(sys::WriteFileAtomic(*path + "/note", "kept", 0644));
  CHECK(*store->Make(request) == *path);
  CHECK(*sys::ReadFile(*path + "/note") == "kept");
  REQUIRE_OK(store->RemovePod("uid-1"));
  CHECK(fs::is_empty(folder.path));
}

TEST_CASE("what emptyDirs hold is counted as du does: no link is followed, and two names of a file are one file") {
  Folder folder;
  std::ofstream(folder.path + "/outside") << std::string(1 << 20, 'x');
  auto store = VolumeStore::Open(folder.path + "/store");
  REQUIRE_OK(store);
  v1::MakeVolumeRequest request;
  request.set_pod_uid("uid-1");
  request.set_volume("cache");
  request.set_mode(0777);
  request.set_uid(geteuid());
  request.set_gid(getegid());
  auto path = store->Make(request);
  REQUIRE_OK(path);
  REQUIRE(store->Used(kAsLongAsItTakes).volumes_size() == 1);
  const uint64_t empty = store->Used(kAsLongAsItTakes).volumes(0).bytes();

  fs::create_directories(*path + "/a/b");
  std::ofstream(*path + "/a/b/file") << std::string(64 << 10, 'x');
  fs::create_hard_link(*path + "/a/b/file", *path + "/again");
  fs::create_symlink("../../../../outside", *path + "/link");
  fs::create_symlink("/usr", *path + "/a/up");
  const v1::UsedByVolumesReply used = store->Used(kAsLongAsItTakes);

  REQUIRE(used.volumes_size() == 1);
  CHECK(used.volumes(0).pod_uid() == "uid-1");
  CHECK(used.volumes(0).volume() == "cache");
  CHECK(used.volumes(0).bytes() - empty >= 64 << 10);
  CHECK(used.volumes(0).bytes() - empty < 128 << 10);
  CHECK(used.volumes(0).inodes() == 1 + 2 + 1 + 2);  // itself, folders, the file, links
  REQUIRE_OK(store->RemovePod("uid-1"));
  CHECK(store->Used(kAsLongAsItTakes).volumes_size() == 0);
}

TEST_CASE("what lies deeper than anybody counts is charged as all that the disk holds") {
  Folder folder;
  auto open_folder = [&] { return sys::UniqueFd(open(folder.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)); };
  const std::atomic<bool> stop = false;
  struct statvfs disk = {};
  REQUIRE(statvfs(folder.path.c_str(), &disk) == 0);
  const uint64_t held = (disk.f_blocks - disk.f_bfree) * disk.f_frsize;
  sys::UniqueFd at = open_folder();
  auto deeper = [&](int count) {
    for (int i = 0; i < count; ++i) {
      REQUIRE(mkdirat(at.get(), "d", 0755) == 0);
      at.reset(openat(at.get(), "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      REQUIRE(at.valid());
    }
  };

  deeper(kDeepest);
  CHECK(UseOf(open_folder(), stop).inodes == 1 + kDeepest);
  deeper(1);

  CHECK(UseOf(open_folder(), stop).bytes >= held / 2);  // others write to this disk, and remove
}

v1::UsedByVolumesReply Holding(const char* volume) {
  v1::UsedByVolumesReply figures;
  figures.add_volumes()->set_volume(volume);
  return figures;
}

TEST_CASE("figures that take longer than their reader waits are there for a later one, and walked for once") {
  VolumeWalk walk;
  std::promise<void> go_on;
  std::atomic<int> walks = 0;
  auto slow = [&, gate = go_on.get_future().share()](const std::atomic<bool>&) {
    ++walks;
    gate.wait();
    return Holding("found");
  };

  CHECK(walk.Figures(slow, milliseconds(0)).volumes_size() == 0);
  CHECK(walk.Figures(slow, milliseconds(5)).volumes_size() == 0);
  CHECK(walks <= 1);
  go_on.set_value();

  const v1::UsedByVolumesReply figures = walk.Figures(slow, kAsLongAsItTakes);
  REQUIRE(figures.volumes_size() == 1);
  CHECK(figures.volumes(0).volume() == "found");
}

TEST_CASE("a walk ends when nobody can ask any more") {
  std::atomic<bool> told = false;
  {
    VolumeWalk walk;
    walk.Figures(
        [&](const std::atomic<bool>& stop) {
          while (!stop) std::this_thread::sleep_for(milliseconds(1));
          told = true;
          return Holding("half");
        },
        milliseconds(0));
  }
  CHECK(told);
}

TEST_CASE("a volume that leads out of itself is refused and leaves nothing") {
  Folder folder;
  auto store = VolumeStore::Open(folder.path + "/store");
  REQUIRE_OK(store);
  v1::PutVolumeRequest request;
  request.set_pod_uid("uid-1");
  request.set_volume("conf");
  SECTION("by a link") { *request.add_entries() = Entry("a", v1::VolumeEntry::LINK, "../../x"); }
  SECTION("by an absolute link") { *request.add_entries() = Entry("a", v1::VolumeEntry::LINK, "/etc"); }
  SECTION("by a name") { *request.add_entries() = Entry("../a", v1::VolumeEntry::FILE, "x"); }
  SECTION("by its own link") {
    *request.add_entries() = Entry("a", v1::VolumeEntry::LINK, "b");
    *request.add_entries() = Entry("a/c", v1::VolumeEntry::FILE, "x");
    *request.add_entries() = Entry("b", v1::VolumeEntry::FOLDER, "");
  }
  SECTION("by the Pod") {
    request.set_pod_uid("..");
    *request.add_entries() = Entry("a", v1::VolumeEntry::FILE, "x");
  }

  CHECK(!store->Put(request).ok());
  for (const auto& entry : fs::recursive_directory_iterator(folder.path)) CHECK(!entry.is_regular_file());
}

}  // namespace
}  // namespace heterok8s::cri
