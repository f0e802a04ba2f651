#include "common/json/whole.h"

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"

namespace heterok8s {
namespace {

using heterok8s::testing::HasCode;
using heterok8s::testing::Says;
using nlohmann::json;

// Text, because what matters is what the parser makes of it.
template <typename T>
std::optional<T> Read(const std::string& text) {
  absl::StatusOr<T> number = Whole<T>(json::parse(text), "port");
  return number.ok() ? std::optional(*number) : std::nullopt;
}
template <typename T>
absl::Status Refusal(const std::string& text) {
  return Whole<T>(json::parse(text), "port").status();
}

TEST_CASE("a number at either end of its type is read") {
  CHECK(Read<uint16_t>("0") == uint16_t{0});
  CHECK(Read<uint16_t>("65535") == uint16_t{65535});
  CHECK(Read<uint8_t>("255") == uint8_t{255});
  CHECK(Read<int>("-2147483648") == INT32_MIN);
  CHECK(Read<int>("2147483647") == INT32_MAX);
  CHECK(Read<int64_t>("-9223372036854775808") == INT64_MIN);
  CHECK(Read<int64_t>("9223372036854775807") == INT64_MAX);
  CHECK(Read<uint64_t>("18446744073709551615") == UINT64_MAX);
}

TEST_CASE("a number that its type does not hold is refused") {
  CHECK_FALSE(Read<uint16_t>("65536"));
  CHECK_FALSE(Read<uint16_t>("-1"));
  CHECK_FALSE(Read<uint8_t>("256"));
  CHECK_FALSE(Read<int>("2147483648"));
  CHECK_FALSE(Read<int>("-2147483649"));
  CHECK_FALSE(Read<int>("18446744073709551615"));
  CHECK_FALSE(Read<int64_t>("9223372036854775808"));
  CHECK_FALSE(Read<int64_t>("-9223372036854775809"));
  CHECK_FALSE(Read<uint64_t>("-1"));
  CHECK_FALSE(Read<uint64_t>("18446744073709551616"));
}

TEST_CASE("what is written as no whole number is refused") {
  for (const char* text : {"65536.46000", "-0.5", "-0.0", "1.0", "1e3", "1e300", "-1e300", R"("1")", R"("")", "null",
                           "true", "[]", "[1]", "{}"}) {
    INFO(text);
    CHECK_THAT(Refusal<uint16_t>(text), HasCode(absl::StatusCode::kInvalidArgument));
    CHECK_THAT(Refusal<int>(text), HasCode(absl::StatusCode::kInvalidArgument));
    CHECK_THAT(Refusal<uint64_t>(text), HasCode(absl::StatusCode::kInvalidArgument));
  }
}

TEST_CASE("a range of the caller's is kept") {
  CHECK(Whole<int>(json(1), "side", 0, 1).value_or(-1) == 1);
  CHECK_FALSE(Whole<int>(json(2), "side", 0, 1).ok());
  CHECK_FALSE(Whole<int>(json(-1), "side", 0, 1).ok());
  CHECK_FALSE(Whole<uint64_t>(json(67), "mtu", 68, 9000).ok());
}

TEST_CASE("the error names the field, what it may be and what it is") {
  CHECK_THAT(Refusal<uint16_t>("65536.46"), Says("'port' must be a whole number from 0 to 65535, not 65536.46"));
  CHECK_THAT(Refusal<int8_t>("-129"), Says("from -128 to 127, not -129"));
  CHECK_THAT(Refusal<int>("null"), Says("not null"));
}

TEST_CASE("a value of a stranger's size or depth makes a short error") {
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');

  CHECK_THAT(Refusal<int>(deep), Says("not an array"));
  CHECK(Message(Refusal<int>('"' + std::string(100000, 'x') + '"')).size() < 200);
  CHECK_THAT(Whole<int>(json("\xff"), "port").status(), Says(R"(not "\ufffd")"));
}

TEST_CASE("a path is walked, and named in what is thrown") {
  const json document = json::parse(R"({"join": {"host": [1, 65536.46], "port": 7}})");

  CHECK(WholeAt<uint16_t>(document, "join", "host", 0) == 1);
  CHECK(WholeAt<uint16_t>(document, "join", "port") == 7);
  CHECK_THROWS_WITH(WholeAt<uint16_t>(document, "join", "host", 1),
                    "'join.host[1]' must be a whole number from 0 to 65535, not 65536.46");
  CHECK_THROWS_AS(WholeAt<uint16_t>(document, "join", "host", 2), json::out_of_range);
  CHECK_THROWS_AS(WholeAt<uint16_t>(document, "join", "name"), json::out_of_range);
  CHECK_THROWS_AS(WholeAt<uint16_t>(document, "join", "port", "x"), json::type_error);
}

}  // namespace
}  // namespace heterok8s
