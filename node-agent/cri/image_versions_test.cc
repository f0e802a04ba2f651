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
  for (const char* name : {"nginx", "nginx:1.27", "library/nginx", "docker.io/nginx", "index.docker.io/nginx",
                           "docker.io/library/nginx:1", "nginx@sha256:1", "nginx:1@sha256:1"}) {
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

TEST_CASE("another repository's digest is no version of the name, however alike they are") {
  const std::string own = "docker.io/library/nginx@sha256:2";
  for (const char* other : {"docker.io/a/nginx", "a.example/nginx", "z.example/x/nginx", "localhost:5000/library/nginx",
                            "evil.example/docker.io/library/nginx"}) {
    INFO(other);
    const std::string digest = std::string(other) + "@sha256:1";  // of one host's image, and the first by its digest
    CHECK(Versions({own, digest}, "nginx") == ImageVersions{{"sha256:2", own}});
    CHECK(Versions({digest, own}, "docker.io/library/nginx:1") == ImageVersions{{"sha256:2", own}});
    CHECK(Versions({digest}, "nginx").empty());
    CHECK(Versions({digest}, other) == ImageVersions{{"sha256:1", digest}});
  }
  CHECK(Versions({"evil.example/registry.corp/app@sha256:1"}, "registry.corp/app").empty());
  CHECK(Versions({"registry.corp/library/app@sha256:1"}, "registry.corp/app").empty());
  CHECK(Versions({"docker.io/registry/app@sha256:1"}, "Registry/app").empty());  // a capital makes it a registry
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
