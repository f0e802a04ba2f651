// The mark of sandboxes that heterocri made.
#include "node-agent/cri/sandbox_mark.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "common/sys/file.h"
#include "common/testing/matchers.h"
#include "node-agent/cri/annotations.h"

namespace heterok8s::cri {
namespace {

struct Marked {
  Marked() {
    metadata.set_uid("uid-1");
    annotations[kPlacement] = "split";
    annotations[kLogDirectory] = "/var/log/pods/x";
    annotations["of/others"] = "1";
    annotations[kMark] = mark.Of(metadata, annotations);
  }
  SandboxMark mark{std::string(32, 'k')};
  runtime::v1::PodSandboxMetadata metadata;
  SandboxMark::Annotations annotations;
};

TEST_CASE("a mark is of one Pod, of what was decided, and of one key") {
  Marked pod;
  CHECK(pod.mark.Made(pod.metadata, pod.annotations));
  pod.annotations["of/others"] = "2";
  CHECK(pod.mark.Made(pod.metadata, pod.annotations));
  CHECK_FALSE(SandboxMark(std::string(32, 'l')).Made(pod.metadata, pod.annotations));

  SECTION("another Pod") { pod.metadata.set_uid("uid-2"); }
  SECTION("another attempt") { pod.metadata.set_attempt(1); }
  SECTION("another value") { pod.annotations[kLogDirectory] = "/etc"; }
  SECTION("one more") { pod.annotations[kRefused] = "x"; }
  SECTION("one less") { pod.annotations.erase(kPlacement); }
  SECTION("no mark") { pod.annotations.erase(kMark); }
  SECTION("an empty mark") { pod.annotations[kMark] = ""; }
  SECTION("a value that looks like two") {
    pod.annotations.erase(kLogDirectory);
    pod.annotations[kPlacement] = "split;heteropod.io/log-directory=15:/var/log/pods/x";
  }
  CHECK_FALSE(pod.mark.Made(pod.metadata, pod.annotations));
}

TEST_CASE("the key is made once, for root alone, and again when it is damaged") {
  char folder[] = "/tmp/hk-mark-XXXXXX";
  REQUIRE(mkdtemp(folder) != nullptr);
  const std::string file = std::string(folder) + "/cri.key";
  Marked pod;
  auto code = [&] {
    auto mark = SandboxMark::Open(file);
    REQUIRE_OK(mark);
    return mark->Of(pod.metadata, pod.annotations);
  };

  const std::string first = code();
  CHECK(code() == first);
  struct stat info = {};
  REQUIRE(stat(file.c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0600);
  const std::string damaged = GENERATE(as<std::string>(), "short", std::string(5000, 'k'));
  REQUIRE_OK(sys::WriteFileAtomic(file, damaged, 0600));
  const std::string anew = code();
  CHECK(anew != first);
  CHECK(code() == anew);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace heterok8s::cri
