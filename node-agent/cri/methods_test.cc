// The table of methods against the published list, where that is on this machine (see proto/cri/v1/cri_proto_test.cc).
#include "node-agent/cri/methods.h"

#include <glob.h>

#include <cstdlib>
#include <regex>
#include <set>

#include "common/sys/file.h"
#include "common/testing/matchers.h"

namespace heterok8s::cri {
namespace {

TEST_CASE("every method is there once, and what is refused says why") {
  std::set<std::string_view> paths;
  for (const Method& method : AllMethods()) {
    INFO(method.path);
    CHECK(paths.insert(method.path).second);
    bool may_refuse = method.handling == Handling::kHostOnly || method.handling == Handling::kRefused;
    CHECK(method.refusal.empty() != may_refuse);
    CHECK(FindMethod(std::string(method.path)) == &method);
  }
  CHECK(FindMethod("/runtime.v1.RuntimeService/StreamNothing") == nullptr);
  CHECK(FindMethod("/runtime.v1alpha2.RuntimeService/Version") == nullptr);
}

TEST_CASE("the table has every published method") {
  const char* path = std::getenv("CRI_API_PROTO");
  const char* home = std::getenv("HOME");
  std::string pattern =
      path ? path : std::string(home ? home : "/root") + "/go/pkg/mod/k8s.io/cri-api@*/pkg/apis/runtime/v1/api.proto";
  glob_t found = {};
  if (glob(pattern.c_str(), 0, nullptr, &found) != 0) {
    WARN("SKIPPED: no published api.proto on this machine (tools/published)");
    globfree(&found);
    return;
  }
  auto text = sys::ReadFile(found.gl_pathv[found.gl_pathc - 1]);
  globfree(&found);
  REQUIRE_OK(text);

  std::set<std::string> published, ours;
  std::regex line(R"((?:^|\n)(?:service (\w+)|\s+rpc (\w+)\())");
  std::string service;
  for (std::sregex_iterator at(text->begin(), text->end(), line), end; at != end; ++at) {
    if ((*at)[1].matched) {
      service = (*at)[1];
    } else {
      published.insert("/runtime.v1." + service + "/" + (*at)[2].str());
    }
  }
  // Published after the Kubernetes whose file may be here; a runtime that has them is as new.
  const std::regex newer("/(Stream[A-Za-z]+|CheckpointPod|RestorePod)$");
  for (const Method& method : AllMethods()) {
    std::string path(method.path);
    if (published.contains(path) || !std::regex_search(path, newer)) ours.insert(path);
  }
  CHECK(published == ours);
}

}  // namespace
}  // namespace heterok8s::cri
