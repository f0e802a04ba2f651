#include "common/net/ip.h"

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"

namespace heterok8s {
namespace {

TEST_CASE("addresses survive text and back") {
  for (const char* text : {"0.0.0.0", "10.88.0.5", "255.255.255.255", "::", "::1", "fd00:cafe::2"}) {
    auto address = IpAddress::Parse(text);
    REQUIRE_OK(address);
    CHECK(address->ToString() == text);
  }
  CHECK_FALSE(IpAddress::Parse("10.0.0").ok());
  CHECK_FALSE(IpAddress::Parse("10.0.0.1/8").ok());
}

TEST_CASE("a prefix knows its first, its last and what it contains") {
  IpPrefix v4 = *IpPrefix::Parse("10.88.3.7/22");
  CHECK(v4.Masked().ToString() == "10.88.0.0/22");
  CHECK(v4.Last().ToString() == "10.88.3.255");
  CHECK(v4.Contains(*IpAddress::Parse("10.88.1.1")));
  CHECK_FALSE(v4.Contains(*IpAddress::Parse("10.88.4.1")));
  CHECK_FALSE(v4.Contains(*IpAddress::Parse("::1")));

  IpPrefix v6 = *IpPrefix::Parse("fd00::1/65");
  CHECK(v6.Masked().ToString() == "fd00::/65");
  CHECK(v6.Last().ToString() == "fd00::7fff:ffff:ffff:ffff");
  CHECK(IpPrefix::Parse("0.0.0.0/0")->Contains(*IpAddress::Parse("8.8.8.8")));
}

TEST_CASE("bad prefixes are refused by text") {
  CHECK_THAT(IpPrefix::Parse("10.0.0.0/33").status(), testing::Says("10.0.0.0/33"));
  CHECK_THAT(IpPrefix::Parse("10.0.0.0").status(), testing::Says("no prefix length"));
  CHECK_FALSE(IpPrefix::Parse("10.0.0.0/8x").ok());
}

TEST_CASE("counting carries across bytes") {
  CHECK(IpAddress::Parse("10.0.0.255")->Plus(1).ToString() == "10.0.1.0");
  CHECK(IpAddress::Parse("fd00::ffff:ffff")->Plus(2).ToString() == "fd00::1:0:1");
  CHECK(IpAddress::V4(0x0a000001).ToString() == "10.0.0.1");
}

}  // namespace
}  // namespace heterok8s
