#include "node-agent/cri/lost_namespaces.h"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <optional>
#include <thread>

#include "common/netlink/libnl_netlink.h"
#include "common/sys/netns.h"
#include "common/sys/unique_fd.h"
#include "common/testing/matchers.h"

namespace heterok8s::cri {
namespace {

using namespace std::chrono_literals;
using testing::HasCode;
using Removed = std::vector<std::string>;

constexpr char kName[] = "cni-0123abcd-4567-89ef-0123-456789abcdef";

class Folder {
 public:
  Folder() {
    char made[] = "/tmp/hk-lost-XXXXXX";
    REQUIRE(mkdtemp(made) != nullptr);
    path_ = made;
  }
  ~Folder() {
    for (const std::string& path : made_) sys::DeleteNetns(path).IgnoreError();
    rmdir(path_.c_str());
  }
  const std::string& path() const { return path_; }

  // As containerd makes it: lo is down and has no address.
  std::string Forgotten(const std::string& name = kName) {
    std::string path = Path(name);
    std::ofstream(path).flush();
    int mounted = -1;
    std::thread([&] {
      if (unshare(CLONE_NEWNET) == 0)
        mounted = mount("/proc/thread-self/ns/net", path.c_str(), "none", MS_BIND, nullptr);
    }).join();
    REQUIRE(mounted == 0);
    return path;
  }
  std::string LinkToItself(const std::string& name) {
    std::string path = Path(name);
    REQUIRE(symlink(name.c_str(), path.c_str()) == 0);
    return path;
  }
  std::string File(const std::string& text) {
    std::string path = Path(kName);
    std::ofstream(path) << text;
    return path;
  }

 private:
  std::string Path(const std::string& name) {
    made_.push_back(path_ + "/" + name);
    return made_.back();
  }
  std::string path_;
  std::vector<std::string> made_;
};

LostNamespaces Watching(const Folder& folder, std::vector<std::string> attached = {}) {
  return LostNamespaces({.folder = folder.path(),
                         .attached = [attached] { return attached; },
                         .runtime = [] { return getpid(); },
                         .after = 300s});
}

// What a look, and one long after it, remove.
Removed InTheEnd(LostNamespaces& lost) {
  const auto now = LostNamespaces::Clock::now();
  auto first = lost.Round(now), later = lost.Round(now + 1h);
  REQUIRE_OK(first);
  REQUIRE_OK(later);
  REQUIRE(first->empty());
  return *later;
}

TEST_CASE("a namespace that nobody ever used goes when it was seen so for long enough", "[netns]") {
  Folder folder;
  const std::string path = folder.Forgotten();
  LostNamespaces lost = Watching(folder);
  const auto now = LostNamespaces::Clock::now();

  auto first = lost.Round(now), early = lost.Round(now + 299s), due = lost.Round(now + 300s);

  REQUIRE_OK(first);
  REQUIRE_OK(early);
  REQUIRE_OK(due);
  CHECK(first->empty());
  CHECK(early->empty());
  CHECK(*due == Removed{path});
  CHECK(access(path.c_str(), F_OK) != 0);
}

TEST_CASE("one that was used meanwhile begins anew", "[netns]") {
  Folder folder;
  const std::string path = folder.Forgotten();
  Removed attached;
  LostNamespaces lost({.folder = folder.path(), .attached = [&] { return attached; }, .after = 300s});
  const auto now = LostNamespaces::Clock::now();
  REQUIRE_OK(lost.Round(now));
  attached = {path};
  REQUIRE_OK(lost.Round(now + 200s));
  attached.clear();

  auto again = lost.Round(now + 400s), early = lost.Round(now + 600s), due = lost.Round(now + 700s);

  CHECK((again.ok() && again->empty()));
  CHECK((early.ok() && early->empty()));
  CHECK((due.ok() && *due == Removed{path}));
}

TEST_CASE("one of an attachment stays, under whichever path to its folder", "[netns]") {
  Folder folder;
  folder.Forgotten();
  LostNamespaces lost = Watching(folder, {fmt::format("/var/run/netns/{}", kName)});

  CHECK(InTheEnd(lost).empty());
}

TEST_CASE("one that was given to CNI stays, also when its links are down again", "[netns]") {
  Folder folder;
  auto ns = sys::NetnsRef::Open(folder.Forgotten());
  REQUIRE_OK(ns);
  auto netlink = netlink::OpenNetlinkIn(*ns);
  REQUIRE_OK(netlink);
  REQUIRE_OK((*netlink)->Do(netlink::SetLink{.link = 1, .up = true}));
  LostNamespaces lost = Watching(folder);

  CHECK(InTheEnd(lost).empty());

  REQUIRE_OK((*netlink)->Do(netlink::SetLink{.link = 1, .up = false}));
  CHECK(InTheEnd(lost).empty());
}

TEST_CASE("one with a process in it stays until that has ended", "[netns]") {
  Folder folder;
  auto ns = sys::NetnsRef::Open(folder.Forgotten());
  REQUIRE_OK(ns);
  int said[2];
  REQUIRE(pipe(said) == 0);
  const pid_t child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (setns(ns->fd(), CLONE_NEWNET) != 0 || write(said[1], "x", 1) != 1) _exit(1);
    pause();
    _exit(0);
  }
  char there;
  REQUIRE(read(said[0], &there, 1) == 1);
  LostNamespaces lost = Watching(folder);
  const auto now = LostNamespaces::Clock::now();

  const Removed with_child = InTheEnd(lost);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  auto without = lost.Round(now + 2h);

  CHECK(with_child.empty());
  CHECK((without.ok() && without->size() == 1));
  close(said[0]);
  close(said[1]);
}

TEST_CASE("one of another name is somebody else's", "[netns]") {
  for (const char* name : {"blue", "cni-0123abcd-4567-89ef-0123-456789abcdeg",
                           "cni-0123abcd-4567-89ef-0123-456789abcdef0", "netns-0123abcd-4567-89ef-0123-456789abcdef"}) {
    Folder folder;
    folder.Forgotten(name);
    LostNamespaces lost = Watching(folder);

    INFO(name);
    CHECK(InTheEnd(lost).empty());
  }
}

TEST_CASE("an empty file that no namespace was mounted on goes, one with content stays") {
  Folder folder;
  const std::string path = folder.File("");
  LostNamespaces lost = Watching(folder);

  CHECK(InTheEnd(lost) == Removed{path});

  folder.File("text");
  CHECK(InTheEnd(lost).empty());
}

TEST_CASE("one that cannot be looked at stays, and keeps no other from going", "[netns]") {
  Folder folder;
  const std::string loop = folder.LinkToItself("cni-00000000-0000-0000-0000-000000000000");
  const std::string lost_first = folder.Forgotten("cni-00000000-0000-0000-0000-000000000001");
  const std::string lost_last = folder.Forgotten("cni-ffffffff-ffff-ffff-ffff-ffffffffffff");
  LostNamespaces lost = Watching(folder);

  CHECK(InTheEnd(lost) == Removed{lost_first, lost_last});
  struct stat link;
  CHECK(lstat(loop.c_str(), &link) == 0);
}

// A process in a mount namespace of its own, where the network namespace that it made is mounted at a path of ours.
class OtherMounts {
 public:
  explicit OtherMounts(const std::string& path) {
    REQUIRE(pipe(said_) == 0);
    child_ = fork();
    if (child_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const bool mounted = unshare(CLONE_NEWNS | CLONE_NEWNET) == 0 &&
                           mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                           mount("/proc/self/ns/net", path.c_str(), "none", MS_BIND, nullptr) == 0;
      if (!mounted || write(said_[1], "x", 1) != 1) _exit(1);
      pause();
      _exit(0);
    }
    close(said_[1]);
    char there;
    REQUIRE(read(said_[0], &there, 1) == 1);
  }
  ~OtherMounts() {
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    close(said_[0]);
  }
  pid_t pid() const { return child_; }

 private:
  int said_[2];
  pid_t child_;
};

TEST_CASE("an empty file on which another mount namespace has its network namespace stays until that has ended",
          "[netns]") {
  Folder folder;
  const std::string path = folder.File("");
  std::optional<OtherMounts> other(path);
  // Whether it is the runtime's namespace, or that of a process which the runtime started.
  const pid_t runtime = GENERATE(0, 1) == 0 ? other->pid() : getpid();
  LostNamespaces lost({.folder = folder.path(),
                       .attached = [] { return Removed{}; },
                       .runtime = [runtime] { return runtime; },
                       .after = 300s});

  CHECK(InTheEnd(lost).empty());
  CHECK(access(path.c_str(), F_OK) == 0);

  other.reset();
  LostNamespaces again = Watching(folder);
  CHECK(InTheEnd(again) == Removed{path});
}

TEST_CASE("an empty file stays where the runtime is not seen") {
  Folder folder;
  folder.File("");
  absl::StatusOr<pid_t> runtime = absl::NotFoundError("not in our /proc");
  SECTION("it is in another PID namespace, or down") {}
  SECTION("it has ended meanwhile") { runtime = 1 << 30; }  // above any kernel's pid_max
  LostNamespaces lost({.folder = folder.path(),
                       .attached = [] { return Removed{}; },
                       .runtime = [runtime] { return runtime; },
                       .after = 300s});

  CHECK(InTheEnd(lost).empty());
}

TEST_CASE("the process that listens at a socket is known, and that nobody does") {
  Folder folder;
  const std::string path = folder.path() + "/listener.sock";
  sockaddr_un address = {.sun_family = AF_UNIX};
  path.copy(address.sun_path, path.size());
  const sys::UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  CHECK_THAT(ListenerOf(path).status(), HasCode(absl::StatusCode::kUnavailable));
  REQUIRE(listen(listener.get(), 1) == 0);

  auto process = ListenerOf(path);

  REQUIRE_OK(process);
  CHECK(*process == getpid());
  unlink(path.c_str());
}

TEST_CASE("without the list of attachments nothing is removed") {
  Folder folder;
  folder.File("");
  LostNamespaces lost(
      {.folder = folder.path(), .attached = [] { return absl::InternalError("the ledger is locked"); }});

  CHECK_FALSE(lost.Round(LostNamespaces::Clock::now()).ok());
  CHECK_FALSE(lost.Round(LostNamespaces::Clock::now() + 1h).ok());
}

}  // namespace
}  // namespace heterok8s::cri
