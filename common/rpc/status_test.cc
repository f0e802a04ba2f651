#include "common/rpc/status.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"

namespace heterok8s::rpc {

TEST_CASE("code, message and binary payloads survive the wire") {
  absl::Status status = absl::FailedPreconditionError("pod a/b: generation 7 is known");
  status.SetPayload("heterok8s.io/cni-code", absl::Cord(std::string("\x00\xff", 2)));

  const absl::Status back = FromGrpc(ToGrpc(status));

  CHECK(back == status);
}

TEST_CASE("a handler's answer is told from the transport's failure") {
  CHECK(IsAnswer(ToGrpc(absl::UnavailableError("reconciling"))));
  CHECK(IsAnswer(grpc::Status::OK));
  CHECK_FALSE(IsAnswer(grpc::Status(grpc::StatusCode::UNAVAILABLE, "connection refused")));
}

TEST_CASE("OK stays OK and foreign details are ignored") {
  CHECK_OK(FromGrpc(ToGrpc(absl::OkStatus())));
  CHECK(FromGrpc(grpc::Status(grpc::StatusCode::NOT_FOUND, "x", "\x01garbage")) == absl::NotFoundError("x"));
}

TEST_CASE("a payload that is not all bytes is left out, not cut") {
  for (const char* list : {"[256]", "[1,300]", "[-1]", "[0.5]", "[1e300]", "[\"a\"]", "[[1]]", "{}", "7"}) {
    INFO(list);
    const std::string details = fmt::format(R"({{"x":{},"y":[104,105]}})", list);

    const absl::Status status = FromGrpc(grpc::Status(grpc::StatusCode::NOT_FOUND, "m", details));

    CHECK_FALSE(status.GetPayload("x").has_value());
    CHECK(status.GetPayload("y") == absl::Cord("hi"));
  }
}

}  // namespace heterok8s::rpc
