// Catch2 matchers for absl::Status.
//
//   CHECK_THAT(netlink.DeleteRoute(route), HasCode(absl::StatusCode::kNotFound));
//   CHECK_THAT(parsed.status(), Says("unknown key 'x'"));
//   REQUIRE_OK(store.Put(row));
#pragma once

#include <catch2/catch.hpp>
#include <string>

#include "common/status/status.h"

namespace heterok8s::testing {

class HasCode : public Catch::MatcherBase<absl::Status> {
 public:
  explicit HasCode(absl::StatusCode code) : code_(code) {}
  bool match(const absl::Status& status) const override { return status.code() == code_; }
  std::string describe() const override { return "has code " + absl::StatusCodeToString(code_); }

 private:
  absl::StatusCode code_;
};

class Says : public Catch::MatcherBase<absl::Status> {
 public:
  explicit Says(std::string part) : part_(std::move(part)) {}
  bool match(const absl::Status& status) const override { return Message(status).find(part_) != std::string::npos; }
  std::string describe() const override { return "says '" + part_ + "'"; }

 private:
  std::string part_;
};

template <typename T>
absl::Status StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}
inline absl::Status StatusOf(const absl::Status& status) { return status; }

}  // namespace heterok8s::testing

template <>
struct Catch::StringMaker<absl::Status> {
  static std::string convert(const absl::Status& status) { return heterok8s::ToString(status); }
};

#define REQUIRE_OK(expr) REQUIRE(::heterok8s::ToString(::heterok8s::testing::StatusOf(expr)) == "OK")
#define CHECK_OK(expr) CHECK(::heterok8s::ToString(::heterok8s::testing::StatusOf(expr)) == "OK")
