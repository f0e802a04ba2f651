#include "common/status/status.h"

#include <catch2/catch.hpp>
#include <cerrno>

namespace heterok8s {
namespace {

absl::StatusOr<int> Half(int n) {
  if (n % 2 != 0) return absl::InvalidArgumentError("odd");
  return n / 2;
}

absl::StatusOr<int> Quarter(int n) {
  HK_ASSIGN_OR_RETURN(int half, Half(n));
  HK_ASSIGN_OR_RETURN(int quarter, Half(half));
  return quarter;
}

TEST_CASE("assign-or-return passes values on and stops at the first failure") {
  CHECK(*Quarter(8) == 2);
  CHECK(Quarter(6).status().code() == absl::StatusCode::kInvalidArgument);
}

TEST_CASE("annotating keeps the code and prefixes the message") {
  absl::Status status = Annotate(absl::NotFoundError("no link 'x'"), "ADD pod a/b");

  CHECK(ToString(status) == "NOT_FOUND: ADD pod a/b: no link 'x'");
  CHECK(Annotate(absl::OkStatus(), "ADD").ok());
}

TEST_CASE("errno becomes a code and a sentence") {
  CHECK(ToString(ErrnoToStatus(EPERM, "create veth 'hk0'")) ==
        "PERMISSION_DENIED: create veth 'hk0': Operation not permitted");
  CHECK(ErrnoToStatus(ENODEV, "x").code() == absl::StatusCode::kNotFound);
  CHECK(ErrnoToStatus(EEXIST, "x").code() == absl::StatusCode::kAlreadyExists);
}

}  // namespace
}  // namespace heterok8s
