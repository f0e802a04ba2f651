#include "heteroctl/endpoints.h"

#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <filesystem>

#include "common/sys/file.h"
#include "common/testing/matchers.h"
#include "heteroctl/output.h"

namespace heterok8s::ctl {
namespace {

using heterok8s::testing::HasCode;

// A folder of labs with one lab "one", and an environment that says nothing.
struct Labs {
  Labs() {
    for (const char* name :
         {"HETEROK8S_LAB", "HETEROK8S_HOST_SOCKET", "HETEROK8S_DPU_SOCKET", "HETEROK8S_CRI_SOCKET"}) {
      unsetenv(name);
    }
    char name[] = "/tmp/hk-labs-XXXXXX";
    dir = mkdtemp(name);
    std::filesystem::create_directory(dir + "/one");
    REQUIRE_OK(sys::WriteFileAtomic(dir + "/one/env.json", R"({"host_admin":"/h","dpu_admin":"/d","cri":"/c"})", 0600));
  }
  ~Labs() { std::filesystem::remove_all(dir); }
  std::string dir;
};

}  // namespace

TEST_CASE("without a word the packaged sockets are used, and no DPU's") {
  Labs labs;
  absl::StatusOr<Endpoints> found = FindEndpoints({}, labs.dir);

  REQUIRE_OK(found);
  CHECK(found->host_admin == "/run/heterok8s/admin.sock");
  CHECK(found->dpu_admin.empty());
}

TEST_CASE("a flag beats the environment, which beats the lab") {
  Labs labs;
  setenv("HETEROK8S_LAB", "one", 1);
  setenv("HETEROK8S_DPU_SOCKET", "/env-d", 1);
  setenv("HETEROK8S_CRI_SOCKET", "/env-c", 1);

  absl::StatusOr<Endpoints> found = FindEndpoints({.cri_socket = "/flag-c"}, labs.dir);

  REQUIRE_OK(found);
  CHECK(found->host_admin == "/h");
  CHECK(found->dpu_admin == "/env-d");
  CHECK(found->cri == "/flag-c");
}

TEST_CASE("a lab that is not running is an error that says how to start it") {
  Labs labs;
  absl::StatusOr<Endpoints> found = FindEndpoints({.lab = "two"}, labs.dir);

  CHECK_THAT(found.status(), HasCode(absl::StatusCode::kNotFound));
  CHECK_THAT(HintOf(found.status()), Catch::Contains("lab up"));
}

TEST_CASE("the folder of Pods is absolute, of the flag or of the lab, or an error says that it is not known") {
  Labs labs;
  const std::filesystem::path home = std::filesystem::current_path();
  std::filesystem::current_path(labs.dir);

  CHECK(PodRoot("", {.pod_root = "/pods"}).value() == "/pods");
  CHECK(PodRoot("mine", {.pod_root = "/pods"}).value() == labs.dir + "/mine");
  absl::StatusOr<std::string> unknown = PodRoot("", {});
  CHECK_THAT(unknown.status(), HasCode(absl::StatusCode::kInvalidArgument));
  CHECK_THAT(HintOf(unknown.status()), Catch::Contains("--root"));
  std::filesystem::remove_all(labs.dir);
  CHECK_THAT(PodRoot("mine", {}).status(), HasCode(absl::StatusCode::kNotFound));
  CHECK_OK(PodRoot("/pods", {}));

  std::filesystem::current_path(home);
}

TEST_CASE("paths become Unix targets and targets stay") {
  CHECK(GrpcTarget("/run/x.sock") == "unix:/run/x.sock");
  CHECK(GrpcTarget("unix:/run/x.sock") == "unix:/run/x.sock");
}

}  // namespace heterok8s::ctl
