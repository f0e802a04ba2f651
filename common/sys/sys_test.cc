#include <fcntl.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "common/sys/file.h"
#include "common/sys/heap.h"
#include "common/sys/process.h"
#include "common/testing/matchers.h"

namespace heterok8s::sys {
namespace {

using testing::HasCode;

std::string TempFolder() {
  std::string path = "/tmp/hk-sys-test.XXXXXX";
  return mkdtemp(path.data());
}

TEST_CASE("a program that closes its outputs and stays is ended at its deadline") {
  auto result = Run({.argv = {"sh", "-c", "exec >&- 2>&-; sleep 3600"}, .deadline = std::chrono::milliseconds(50)});
  CHECK_THAT(result.status(), HasCode(absl::StatusCode::kDeadlineExceeded));

  auto late = Run({.argv = {"sh", "-c", "exec >&- 2>&-; exit 7"}});
  REQUIRE_OK(late);
  CHECK(late->exit_code == 7);
}

TEST_CASE("a file is replaced as a whole and read back") {
  std::string folder = TempFolder();
  std::string path = folder + "/f";

  REQUIRE_OK(WriteFileAtomic(path, "one", 0600));
  REQUIRE_OK(WriteFileAtomic(path, "two", 0644));

  CHECK(*ReadFile(path) == "two");
  CHECK_THAT(ReadFile(path, 2).status(), HasCode(absl::StatusCode::kResourceExhausted));
  CHECK_THAT(ReadFile(folder + "/none").status(), HasCode(absl::StatusCode::kNotFound));
  std::filesystem::remove_all(folder);
}

TEST_CASE("what a writer that died left beside a file goes, and nothing else") {
  std::string folder = TempFolder();
  for (const char* name : {"f", "f.a1B2c3", "f.backup.a1B2c3", "f.conf", "gf.a1B2c3"})
    REQUIRE_OK(WriteFileAtomic(folder + "/" + name, "text", 0600));

  RemoveUnfinished(folder + "/f");

  CHECK(!ReadFile(folder + "/f.a1B2c3").ok());
  for (const char* name : {"f", "f.backup.a1B2c3", "f.conf", "gf.a1B2c3"}) CHECK_OK(ReadFile(folder + "/" + name));
  std::filesystem::remove_all(folder);
}

TEST_CASE("a program gets its input and its outputs and exit code come back") {
  auto result = Run({.argv = {"sh", "-c", "cat; echo oops >&2; exit 3"}, .stdin_text = "hello"});

  REQUIRE_OK(result);
  CHECK(result->exit_code == 3);
  CHECK(result->stdout_text == "hello");
  CHECK(result->stderr_text == "oops\n");
}

TEST_CASE("a program that never ends is killed at its deadline") {
  auto result = Run({.argv = {"sleep", "60"}, .deadline = std::chrono::milliseconds(50)});

  CHECK_THAT(result.status(), HasCode(absl::StatusCode::kDeadlineExceeded));
}

TEST_CASE("a missing program is reported by name") {
  auto result = Run({.argv = {"/nonexistent/program"}});

  CHECK_THAT(result.status(), HasCode(absl::StatusCode::kNotFound));
  CHECK_THAT(result.status(), testing::Says("/nonexistent/program"));
}

TEST_CASE("input that nobody reads is no failure") {
  auto result = Run({.argv = {"true"}, .stdin_text = std::string(1 << 20, 'x')});

  CHECK_OK(result);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // they have allocators of their own
TEST_CASE("the heap's figure counts what is allocated, and trimming leaves that alone") {
  uint64_t before = HeapInUse();
  std::vector<std::unique_ptr<std::string>> kept;
  for (int i = 0; i < 1000; ++i) kept.push_back(std::make_unique<std::string>(10'000, 'x'));
  uint64_t with = HeapInUse();
  kept.clear();
  TrimHeap();

  CHECK(with >= before + 10'000'000);
  CHECK(HeapInUse() < before + 1'000'000);
}
#endif

}  // namespace
}  // namespace heterok8s::sys
