#include "node-agent/peer/pod_claims.h"

#include <catch2/catch.hpp>

namespace heterok8s::peer {
namespace {

ports::PortKey Key(const std::string& address, uint16_t port) {
  return {.protocol = Protocol::kTcp, .address = *IpAddress::Parse(address), .port = port};
}
const SteeredPort k80{Protocol::kTcp, 80};

}  // namespace

TEST_CASE("the DPU steers by its own claims, the host by those of the DPU") {
  PodClaims dpu(pu::Side::kDpu), host(pu::Side::kHost);

  dpu.Open(Key("0.0.0.0", 80), 1);
  dpu.OpenRemote(Key("0.0.0.0", 81), 1);
  host.Open(Key("0.0.0.0", 81), 1);
  host.OpenRemote(Key("0.0.0.0", 80), 1);

  CHECK(dpu.Steering() == std::vector<SteeredPort>{k80});
  CHECK(host.Steering() == std::vector<SteeredPort>{k80});
}

TEST_CASE("a port is steered while any claim on it is held, and localhost never counts") {
  PodClaims claims(pu::Side::kDpu);
  claims.Open(Key("0.0.0.0", 80), 1);
  claims.Open(Key("::", 80), 2);
  claims.Open(Key("127.0.0.1", 80), 3);
  claims.Open(Key("::1", 81), 3);

  claims.Close(Key("0.0.0.0", 80));
  CHECK(claims.Steers(k80));
  claims.Close(Key("::", 80));

  CHECK(claims.Steering().empty());
}

TEST_CASE("opening twice and closing what is not open change nothing") {
  PodClaims claims(pu::Side::kDpu);
  claims.Open(Key("0.0.0.0", 80), 1);
  claims.Open(Key("0.0.0.0", 80), 1);
  claims.Close(Key("0.0.0.0", 80));
  claims.Close(Key("0.0.0.0", 80));

  CHECK_FALSE(claims.Steers(k80));
}

TEST_CASE("a lost claim neither steers nor is told, until it is taken back") {
  PodClaims claims(pu::Side::kDpu);
  claims.Open(Key("0.0.0.0", 80), 7);

  CHECK(claims.Lose(Key("0.0.0.0", 80)));
  CHECK(claims.Lose(Key("0.0.0.0", 80)));
  CHECK_FALSE(claims.Steers(k80));
  CHECK(claims.Held().empty());
  CHECK(claims.TakeBack(Key("10.0.0.1", 81)).empty());
  CHECK(claims.TakeBack(Key("10.0.0.1", 80)) == PodClaims::Claims{{Key("0.0.0.0", 80), 7}});

  CHECK(claims.Steers(k80));
  CHECK(claims.Held().size() == 1);
  CHECK_FALSE(claims.Lose(Key("0.0.0.0", 8080)));
}

TEST_CASE("closing a lost claim leaves nothing behind") {
  PodClaims claims(pu::Side::kDpu);
  claims.Open(Key("0.0.0.0", 80), 7);
  claims.Lose(Key("0.0.0.0", 80));
  claims.Close(Key("0.0.0.0", 80));

  CHECK(claims.TakeBack(Key("0.0.0.0", 80)).empty());
  CHECK_FALSE(claims.Steers(k80));
}

TEST_CASE("what changed is remembered until it is settled") {
  PodClaims claims(pu::Side::kDpu);
  claims.Open(Key("0.0.0.0", 80), 1);
  claims.Close(Key("0.0.0.0", 80));

  CHECK(claims.changed() == std::set<SteeredPort>{k80});
  claims.Settled(k80);
  CHECK(claims.changed().empty());
}

}  // namespace heterok8s::peer
