#include "common/sys/remove_tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "common/sys/unique_fd.h"
#include "common/testing/matchers.h"

namespace heterok8s::sys {
namespace {

namespace fs = std::filesystem;

// A folder of its own, with a neighbour that no removal may touch.
class Place {
 public:
  Place() {
    REQUIRE(mkdtemp(root_.data()) != nullptr);
    fs::create_directories(root_ + "/tree");
    fs::create_directories(root_ + "/neighbour");
    std::ofstream(root_ + "/neighbour/file") << "kept";
  }
  ~Place() { fs::remove_all(root_); }
  const std::string& root() const { return root_; }
  bool NeighbourIsWhole() const { return fs::exists(root_ + "/neighbour/file"); }

 private:
  std::string root_ = "/tmp/hk-remove-test.XXXXXX";
};

TEST_CASE("a tree goes with all that is in it, and again when it is gone") {
  Place place;
  fs::create_directories(place.root() + "/tree/a/b");
  fs::create_directories(place.root() + "/tree/removed-1/removed-2");  // names that the removal itself uses
  std::ofstream(place.root() + "/tree/a/b/file") << "x";
  std::ofstream(place.root() + "/tree/-rf") << "x";

  CHECK_OK(RemoveTree(place.root(), "tree"));
  CHECK_FALSE(fs::exists(place.root() + "/tree"));
  CHECK_OK(RemoveTree(place.root(), "tree"));
  CHECK_OK(RemoveTree(place.root() + "/nowhere", "tree"));
  CHECK(place.NeighbourIsWhole());
}

TEST_CASE("links in a tree are removed as links") {
  Place place;
  fs::create_directories(place.root() + "/tree/a");
  fs::create_directory_symlink(place.root() + "/neighbour", place.root() + "/tree/out");
  fs::create_directory_symlink("../../neighbour", place.root() + "/tree/a/out");

  CHECK_OK(RemoveTree(place.root(), "tree"));
  CHECK_FALSE(fs::exists(place.root() + "/tree"));
  CHECK(place.NeighbourIsWhole());
}

TEST_CASE("a tree that is a link itself is refused, and what it points to stays") {
  Place place;
  fs::create_directory_symlink(place.root() + "/neighbour", place.root() + "/link");

  CHECK_THAT(RemoveTree(place.root(), "link"), testing::HasCode(absl::StatusCode::kInvalidArgument));
  CHECK(place.NeighbourIsWhole());
}

TEST_CASE("only one name in the parent can be removed") {
  Place place;

  for (const char* name : {"", ".", "..", "tree/../neighbour", "/etc", "../neighbour", "neighbour/"}) {
    INFO(name);
    CHECK_THAT(RemoveTree(place.root(), name), testing::HasCode(absl::StatusCode::kInvalidArgument));
  }
  CHECK(place.NeighbourIsWhole());
  CHECK(fs::exists(place.root() + "/tree"));
}

TEST_CASE("a tree deeper than descriptors, stack and paths allow is removed") {
  Place place;
  UniqueFd at(open((place.root() + "/tree").c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  REQUIRE(at.valid());
  for (int depth = 0; depth < 3000; ++depth) {
    REQUIRE(mkdirat(at.get(), "deep", 0700) == 0);
    at.reset(openat(at.get(), "deep", O_PATH | O_DIRECTORY | O_CLOEXEC));
    REQUIRE(at.valid());
  }

  CHECK_OK(RemoveTree(place.root(), "tree"));
  CHECK_FALSE(fs::exists(place.root() + "/tree"));
}

}  // namespace
}  // namespace heterok8s::sys
