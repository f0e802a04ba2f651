// Which digests count for a name.
#include "node-agent/cri/image_versions.h"

#include <vector>

#include "common/testing/matchers.h"

namespace heterok8s::cri {
namespace {

ImageVersions Versions(const std::vector<std::string>& digests, const std::string& name) {
  runtime::v1::Image image;
  for (const std::string& digest : digests) image.add_repo_digests(digest);
  return VersionsOf(image, name);
}

TEST_CASE("a version is of the repository in the name, written out or not, whatever the tag") {
  const std::string known = "docker.io/library/nginx@sha256:1";
  for (const char* name :
       {"nginx", "nginx:1.27", "library/nginx", "docker.io/library/nginx:1", "nginx@sha256:1", "nginx:1@sha256:1"}) {
    INFO(name);
    CHECK(Versions({known}, name) == ImageVersions{{"sha256:1", known}});
  }
  for (const char* other : {"inx", "other/nginx", "docker.io/library/nginx2", "docker.io/library"}) {
    INFO(other);
    CHECK(Versions({known}, other).empty());
  }
  const std::string port = "localhost:5000/tool@sha256:2";
  CHECK(Versions({port, "not a digest", known}, "localhost:5000/tool") == ImageVersions{{"sha256:2", port}});
}

TEST_CASE("a version is pulled by the name that the Pod means, whatever other registries have it") {
  const std::string own = "docker.io/library/nginx@sha256:1";
  for (const char* other : {"a.example/nginx@sha256:1", "z.example/x/nginx@sha256:1"}) {
    INFO(other);
    CHECK(Versions({own, other}, "nginx") == ImageVersions{{"sha256:1", own}});
    CHECK(Versions({other, own}, "nginx") == ImageVersions{{"sha256:1", own}});
    CHECK(Versions({other}, "nginx") == ImageVersions{{"sha256:1", other}});
  }
}

TEST_CASE("two images of one name are told apart only where both came from the registry") {
  const ImageVersions old = Versions({"r.io/a@sha256:1"}, "r.io/a"), fresh = Versions({"r.io/a@sha256:2"}, "r.io/a");
  const ImageVersions both = Versions({"r.io/a@sha256:1", "r.io/a@sha256:2"}, "r.io/a");
  CHECK(MaySame(old, old));
  CHECK_FALSE(MaySame(old, fresh));
  CHECK(MaySame(both, fresh));
  CHECK(MaySame(old, {}));
  CHECK(MaySame({}, fresh));
}

}  // namespace
}  // namespace heterok8s::cri
