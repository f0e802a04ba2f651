#include "common/sys/mount_root.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

namespace heterok8s::sys {
namespace {

namespace fs = std::filesystem;

// What a child in a mount namespace of its own, and in a chroot at `folder`, finds at "/".
enum Outcome : int { kSetUpFailed = 1, kRefused, kOutside, kInside };

int InChroot(const fs::path& folder, bool mount_point) {
  const pid_t child = fork();
  if (child == 0) {
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
      _exit(kSetUpFailed);
    if (mount_point && mount(folder.c_str(), folder.c_str(), nullptr, MS_BIND, nullptr) != 0) _exit(kSetUpFailed);
    fs::create_directory(folder / "proc");
    if (mount("/proc", (folder / "proc").c_str(), nullptr, MS_BIND, nullptr) != 0) _exit(kSetUpFailed);
    if (chdir(folder.c_str()) != 0 || chroot(".") != 0) _exit(kSetUpFailed);
    if (!MakeRootOfMountNamespace().ok()) _exit(access("/inside", F_OK) == 0 ? kRefused : kOutside);
    // What `nsenter --mount` and `runc exec` do.
    const int ns = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    if (ns < 0 || setns(ns, CLONE_NEWNS) != 0) _exit(kSetUpFailed);
    _exit(access("/inside", F_OK) == 0 ? kInside : kOutside);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WEXITSTATUS(status);
}

struct Folder {
  Folder() {
    char name[] = "/tmp/hk-mount-root-XXXXXX";
    REQUIRE(mkdtemp(name) != nullptr);
    path = name;
    std::ofstream(path / "inside") << "x";
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

TEST_CASE("whoever enters the mount namespace of a process in a chroot comes out in the chroot") {
  Folder folder;
  CHECK(InChroot(folder.path, /*mount_point=*/true) == kInside);
}

TEST_CASE("a chroot that is no mount point is refused, and stays") {
  Folder folder;
  CHECK(InChroot(folder.path, /*mount_point=*/false) == kRefused);
}

TEST_CASE("outside a chroot the root stays what it is") {
  const pid_t child = fork();
  if (child == 0) {
    struct stat before {
    }, after{};
    if (unshare(CLONE_NEWNS) != 0 || stat("/", &before) != 0) _exit(kSetUpFailed);
    if (!MakeRootOfMountNamespace().ok() || stat("/", &after) != 0) _exit(kRefused);
    _exit(before.st_ino == after.st_ino && before.st_dev == after.st_dev ? kInside : kOutside);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WEXITSTATUS(status) == kInside);
}

}  // namespace
}  // namespace heterok8s::sys
