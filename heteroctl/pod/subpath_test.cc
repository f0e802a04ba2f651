// Subpaths in a mount namespace of their own, as a PU's is.
#include "heteroctl/pod/subpath.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "common/testing/matchers.h"

namespace heterok8s::ctl {
namespace {

namespace fs = std::filesystem;
using testing::HasCode;

class Node {
 public:
  Node() {
    REQUIRE(mkdtemp(path_.data()) != nullptr);
    fs::create_directories(volume());
    REQUIRE(chmod(volume().c_str(), 0777) == 0);
    std::thread([this] {
      if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return;
      if (absl::StatusOr<FileView> view = ViewOf("/proc/thread-self"); view.ok()) view_ = *std::move(view);
    }).join();
    REQUIRE(view_.ns.valid());
  }
  ~Node() {
    ReleaseSubPaths(view_, pod()).IgnoreError();
    fs::remove_all(path_);
  }

  const FileView& view() const { return view_; }
  std::string path(const std::string& name) const { return path_ + "/" + name; }
  std::string pod() const { return path_ + "/pod"; }
  std::string volume() const { return pod() + "/volumes/kubernetes.io~empty-dir/data"; }
  SubPath Of(const std::string& inside) const { return {volume(), inside, pod() + "/volume-subpaths/data/app/0"}; }

  // What the runtime reads there; empty when there is nothing.
  std::string Read(const std::string& file) const {
    std::stringstream text;
    auto read = [&] {
      text << std::ifstream(file).rdbuf();
      return absl::OkStatus();
    };
    REQUIRE_OK(InView(view_, read));
    return text.str();
  }

 private:
  std::string path_ = "/tmp/hk-subpath-test.XXXXXX";
  FileView view_;
};

TEST_CASE("a subPath that is missing becomes a folder with the volume's mode, seen by the runtime alone") {
  Node node;

  REQUIRE_OK(HoldSubPath(node.view(), node.Of("a/b")));

  std::ofstream(node.volume() + "/a/b/file") << "here";
  CHECK(node.Read(node.Of("a/b").held + "/file") == "here");
  CHECK_FALSE(fs::exists(node.Of("a/b").held + "/file"));
  struct stat info {};
  REQUIRE(stat((node.volume() + "/a/b").c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0777);
}

TEST_CASE("a subPath may be a file") {
  Node node;
  std::ofstream(node.volume() + "/app.conf") << "settings";

  REQUIRE_OK(HoldSubPath(node.view(), node.Of("app.conf")));

  CHECK(node.Read(node.Of("app.conf").held) == "settings");
}

TEST_CASE("links that leave the volume are refused, those inside are followed") {
  Node node;
  fs::create_directories(node.path("secret"));
  fs::create_directories(node.volume() + "/real");
  fs::create_symlink(node.path("secret"), node.volume() + "/absolute");
  fs::create_symlink("../../../../secret", node.volume() + "/up");
  fs::create_symlink("/proc/self/root", node.volume() + "/magic");
  fs::create_symlink("loop", node.volume() + "/loop");
  fs::create_symlink("real", node.volume() + "/inside");
  std::ofstream(node.volume() + "/real/file") << "mine";

  for (const char* bad : {"absolute", "up", "absolute/below", "magic/etc", "loop", "..", "real/../../x", "."}) {
    INFO(bad);
    CHECK_THAT(HoldSubPath(node.view(), node.Of(bad)), HasCode(absl::StatusCode::kInvalidArgument));
  }
  CHECK(fs::is_empty(node.path("secret")));
  REQUIRE_OK(HoldSubPath(node.view(), node.Of("inside")));
  CHECK(node.Read(node.Of("").held + "/file") == "mine");
}

TEST_CASE("what is held stays what it was when a container puts a link in its place") {
  Node node;
  fs::create_directories(node.path("secret"));
  std::ofstream(node.path("secret/file")) << "the host's";
  fs::create_directories(node.volume() + "/sub");
  std::ofstream(node.volume() + "/sub/file") << "the Pod's";
  REQUIRE_OK(HoldSubPath(node.view(), node.Of("sub")));

  fs::rename(node.volume() + "/sub", node.volume() + "/moved");
  fs::create_symlink(node.path("secret"), node.volume() + "/sub");

  CHECK(node.Read(node.Of("sub").held + "/file") == "the Pod's");
}

TEST_CASE("what was released is no mount any more, and its files stay") {
  Node node;
  CHECK_FALSE(HadSubPaths(node.pod()));
  REQUIRE_OK(ReleaseSubPaths(node.view(), node.pod()));
  fs::create_directories(node.volume() + "/sub");
  std::ofstream(node.volume() + "/sub/file") << "kept";
  REQUIRE_OK(HoldSubPath(node.view(), node.Of("sub")));
  CHECK(HadSubPaths(node.pod()));

  REQUIRE_OK(ReleaseSubPaths(node.view(), node.pod()));

  CHECK(node.Read(node.Of("sub").held + "/file") == "");
  CHECK(node.Read(node.volume() + "/sub/file") == "kept");
  REQUIRE_OK(ReleaseSubPaths(node.view(), node.pod()));
}

TEST_CASE("the runtime's mount namespace is that of whoever listens on its socket") {
  Node node;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  fmt::format_to_n(address.sun_path, sizeof address.sun_path - 1, "{}", node.path("cri.sock"));
  sys::UniqueFd listening(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  REQUIRE(bind(listening.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(listen(listening.get(), 4) == 0);

  auto view = ViewOfListener("unix://" + node.path("cri.sock"));

  REQUIRE_OK(view);
  struct stat ours {
  }, found{};
  REQUIRE(stat("/proc/self/ns/mnt", &ours) == 0);
  REQUIRE(fstat(view->ns.get(), &found) == 0);
  CHECK(found.st_ino == ours.st_ino);
  CHECK_THAT(ViewOfListener(node.path("none.sock")).status(), HasCode(absl::StatusCode::kNotFound));
}

TEST_CASE("a ConfigMap, which no container writes to, is given to the runtime as it is") {
  manifest::Pod pod;
  pod.volumes = {{.name = "conf", .kind = manifest::Volume::Kind::kConfigMap},
                 {.name = "data", .kind = manifest::Volume::Kind::kEmptyDir}};
  manifest::Container container;
  container.name = "app";
  container.mounts = {{.name = "conf", .mount_path = "/c", .sub_path = "x"},
                      {.name = "data", .mount_path = "/d"},
                      {.name = "data", .mount_path = "/e", .sub_path = "x"}};

  auto found = SubPathsOf(pod, container, "/pods/u");

  REQUIRE(found.size() == 1);
  CHECK(found[0].volume == "/pods/u/volumes/kubernetes.io~empty-dir/data");
  CHECK(found[0].held == "/pods/u/volume-subpaths/data/app/2");
}

}  // namespace
}  // namespace heterok8s::ctl
