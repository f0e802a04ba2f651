#include "common/net/endpoint.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "common/testing/matchers.h"

namespace heterok8s {
namespace {

TEST_CASE("an endpoint is an address and a port, with brackets around IPv6 alone") {
  for (const char* text : {"192.0.2.1:7443", "[fd00::1]:7443", "0.0.0.0:0", "[::]:65535"}) {
    INFO(text);
    absl::StatusOr<Endpoint> endpoint = Endpoint::Parse(text);
    REQUIRE_OK(endpoint);
    CHECK(endpoint->ToString() == text);
  }
  for (const char* text : {"", ":", "192.0.2.1", "192.0.2.1:", "192.0.2.1:65536", "192.0.2.1:+1", "192.0.2.1:7x",
                           "fd00::1:7443", "[192.0.2.1]:7443", "[fd00::1]", "localhost:80", "[]:80"}) {
    INFO(text);
    CHECK_THAT(Endpoint::Parse(text).status(), testing::Says(fmt::format("'{}' is no ADDRESS:PORT", text)));
  }
}

}  // namespace
}  // namespace heterok8s
