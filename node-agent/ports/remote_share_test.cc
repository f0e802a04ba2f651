// The other PU's lists obey the same limits: what is beyond them is refused, what is more than an entry holds is
// refused on all addresses.
#include <sys/socket.h>

#include <catch2/catch.hpp>

#include "node-agent/ports/share_testing.h"

namespace heterok8s::ports {
namespace {

using testing::HasCode;

TEST_CASE("a list of the other PU that no Pod of it can have is refused", "[netns]") {
  TwoPus pus;
  Pu& host = pus.host();
  Neighbour neighbour(host);
  absl::Status status;
  size_t taken = 0;
  for (uint32_t i = 0; i < 2 * kMostClaimsOfAPod && status.ok(); ++i) {
    PortKey key{.address = IpAddress::V4(0x7f000001 + i / 60000), .port = static_cast<uint16_t>(1 + i % 60000)};
    status = host.ports->SetRemote(host.pod_key, key, true, 1);
    taken += status.ok();
  }
  CHECK_THAT(status, HasCode(absl::StatusCode::kResourceExhausted));
  CHECK(taken == kMostClaimsOfAPod);
  CHECK_OK(host.ports->SetRemote(neighbour.place.pod_key, {.address = kAny, .port = 80}, true, 1));
  CHECK(Bind(neighbour.place.Socket(AF_INET, SOCK_STREAM), kLocalhost, 80) == -EADDRINUSE);
}

TEST_CASE("ports on more addresses than one entry holds are refused on all", "[netns]") {
  TwoPus pus;
  Pu& host = pus.host();
  std::vector<PortKey> keys;
  for (uint32_t i = 0; i < 100; ++i) keys.push_back({.address = IpAddress::V4(0x7f000001 + i), .port = 80});
  for (const PortKey& key : keys) REQUIRE_OK(host.ports->SetRemote(host.pod_key, key, true, 1));
  CHECK(host.ports->Remote(host.pod_key) == keys);
  CHECK(Bind(host.Socket(AF_INET, SOCK_STREAM), keys[99].address, 80) == -EADDRINUSE);
  for (const PortKey& key : keys) {
    if (key.address != keys[42].address) REQUIRE_OK(host.ports->SetRemote(host.pod_key, key, false, 1));
  }

  CHECK(host.ports->Remote(host.pod_key) == std::vector<PortKey>{keys[42]});
  CHECK(Bind(host.Socket(AF_INET, SOCK_STREAM), keys[42].address, 80) == -EADDRINUSE);
  CHECK(Bind(host.Socket(AF_INET, SOCK_STREAM), keys[43].address, 80) == 0);
}

}  // namespace
}  // namespace heterok8s::ports
