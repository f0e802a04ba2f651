#include "common/sys/netns.h"

#include <fmt/format.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <stdexcept>

#include "common/sys/unbound_netns.h"
#include "common/testing/matchers.h"

namespace heterok8s::sys {
namespace {

using testing::HasCode;

TEST_CASE("a namespace is made, entered, known by its cookie and removed", "[netns]") {
  std::string path = fmt::format("/run/netns/hk-test-{}", getpid());
  auto made = CreateNetns(path);
  REQUIRE_OK(made);

  uint64_t inside = 0;
  REQUIRE_OK(InNetns(*made, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(NetnsRef current, NetnsRef::Current());
    inside = current.inode();
    return absl::OkStatus();
  }));
  CHECK(inside == made->inode());
  CHECK(NetnsRef::Current()->inode() != made->inode());
  CHECK(*NetnsCookie(*made) != *NetnsCookie(*NetnsRef::Current()));
  CHECK_THAT(CreateNetns(path).status(), HasCode(absl::StatusCode::kAlreadyExists));

  CHECK_OK(DeleteNetns(path));
  CHECK_OK(DeleteNetns(path));
  CHECK_THAT(NetnsRef::Open(path).status(), HasCode(absl::StatusCode::kNotFound));
}

TEST_CASE("a thread is back where it was, however InNetns ends", "[netns]") {
  const uint64_t home = NetnsRef::Current()->inode();
  auto inode = [] { return NetnsRef::Current()->inode(); };
  auto one = CreateUnboundNetns(), two = CreateUnboundNetns();
  REQUIRE_OK(one);
  REQUIRE_OK(two);

  CHECK_OK(InNetns(*one, [] { return absl::OkStatus(); }));
  CHECK(inode() == home);
  CHECK_THAT(InNetns(*one, [] { return absl::InternalError("busy"); }), HasCode(absl::StatusCode::kInternal));
  CHECK(inode() == home);
  CHECK_THROWS_AS(InNetns(*one, []() -> absl::Status { throw std::runtime_error("out"); }), std::runtime_error);
  CHECK(inode() == home);

  CHECK_OK(InNetns(*one, [&]() -> absl::Status {
    HK_RETURN_IF_ERROR(InNetns(*two, [&] {
      CHECK(inode() == two->inode());
      return absl::OkStatus();
    }));
    CHECK(inode() == one->inode());
    return absl::OkStatus();
  }));
  CHECK(inode() == home);
}

TEST_CASE("a namespace without a path gets one later and is the same") {
  const std::string path = fmt::format("/run/netns/hk{}-bound", getpid());
  auto unbound = CreateUnboundNetns();
  REQUIRE_OK(unbound);

  auto bound = BindNetns(*unbound, path);

  REQUIRE_OK(bound);
  CHECK(bound->inode() == unbound->inode());
  CHECK(bound->path() == path);
  CHECK_THAT(BindNetns(*unbound, path).status(), HasCode(absl::StatusCode::kAlreadyExists));
  CHECK_OK(DeleteNetns(path));
}

TEST_CASE("a plain file is not taken for a namespace") {
  CHECK_THAT(NetnsRef::Open("/etc/passwd").status(), HasCode(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace heterok8s::sys
