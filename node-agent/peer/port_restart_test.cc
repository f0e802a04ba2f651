// A heterod that starts anew over a kernel that still enforces what the one before was told.
#include <catch2/catch.hpp>

#include "node-agent/peer/convert.h"
#include "node-agent/peer/port_sync.h"
#include "node-agent/peer/synced_ports.h"
#include "node-agent/peer/testing.h"

namespace heterok8s::peer {
namespace {

using peer::testing::FakePodNet;
using peer::testing::FakePorts;
using peer::testing::Key;
using peer::testing::OtherPu;
using Claims = std::map<ports::PortKey, uint64_t>;

v1::PortMessage Snapshot(const std::string& pod, const Claims& claims) {
  v1::PortMessage message;
  message.mutable_snapshot()->set_pod_key(pod);
  for (const auto& [key, epoch_ns] : claims) {
    *message.mutable_snapshot()->add_ports() = ToProto(key);
    message.mutable_snapshot()->add_epochs_ns(epoch_ns);
  }
  return message;
}

// One life of a heterod.
struct Life {
  Life(pu::Side side, FakePorts& kernel_ports, FakePodNet& podnet)
      : sync(side, nullptr), ports(kernel_ports), synced(kernel_ports, sync) {
    ports.listener = [this](const ports::PortChange& change) { sync.LocalChange(change); };
    sync.Start(ports, podnet, [](const std::string& pod) -> absl::StatusOr<podnet::LinkSpec> {
      return podnet::LinkSpec{.owner = {.pod_key = pod}};
    });
  }
  ~Life() { sync.Stop(); }
  void Connect() {
    other = std::make_shared<OtherPu>();
    sequence = 0;
    sync.Connected(other);
  }
  // Until this PU enforces it.
  void Hears(v1::PortMessage message) {
    message.set_sequence(++sequence);
    sync.Received(other, std::move(message));
    other->AwaitAck(sequence);
  }
  // Everything that was asked of it so far is done.
  void Settle() {
    Connect();
    Hears(Snapshot("nobody", {{Key("0.0.0.0", 1), 1}}));
  }

  PortSync sync;
  FakePorts& ports;
  SyncedPorts synced;
  std::shared_ptr<OtherPu> other;
  uint64_t sequence = 0;
};

// What the kernel of one PU has when its heterod has been told of two ports of the other PU's Pod and died.
struct LeftBehind {
  explicit LeftBehind(pu::Side side) : side(side) {
    Life first(side, ports, podnet);
    REQUIRE_OK(first.synced.AddPod({.pod_key = "p"}));
    first.Connect();
    first.Hears(Snapshot("p", {{k80, 100}, {k81, 100}}));
    REQUIRE(ports.HasRemote("p", k80));
    REQUIRE(ports.HasRemote("p", k81));
    ports.fewest = SIZE_MAX;
    podnet.changes = 0;
  }

  const pu::Side side;
  const ports::PortKey k80 = Key("0.0.0.0", 80), k81 = Key("0.0.0.0", 81);
  FakePorts ports;
  FakePodNet podnet;
};

}  // namespace

TEST_CASE("what the other PU owned stays refused and steered until it is heard of again") {
  const pu::Side side = GENERATE(pu::Side::kHost, pu::Side::kDpu);
  LeftBehind kernel(side);
  Life second(side, kernel.ports, kernel.podnet);

  REQUIRE_OK(second.synced.AddPod({.pod_key = "p"}));
  second.Settle();

  CHECK(kernel.ports.HasRemote("p", kernel.k80));
  CHECK(kernel.ports.HasRemote("p", kernel.k81));
  CHECK(kernel.ports.fewest >= 2);
  CHECK(kernel.podnet.Steers("p", 80) == (side == pu::Side::kHost));

  second.Hears(Snapshot("p", {{kernel.k80, 100}}));

  CHECK(kernel.ports.HasRemote("p", kernel.k80));
  CHECK_FALSE(kernel.ports.HasRemote("p", kernel.k81));
  CHECK(kernel.podnet.Steers("p", 80) == (side == pu::Side::kHost));
  CHECK_FALSE(kernel.podnet.Steers("p", 81));
}

TEST_CASE("the host changes nothing of a Pod's steering before the DPU has told what it owns") {
  LeftBehind kernel(pu::Side::kHost);
  Life second(pu::Side::kHost, kernel.ports, kernel.podnet);

  REQUIRE_OK(second.synced.AddPod({.pod_key = "p"}));
  second.Settle();

  CHECK(kernel.podnet.changes == 0);
}

TEST_CASE("what the other PU says before this one has its Pod counts when it has") {
  LeftBehind kernel(pu::Side::kHost);
  Life second(pu::Side::kHost, kernel.ports, kernel.podnet);
  const Claims claims = GENERATE(Claims{}, Claims{{Key("0.0.0.0", 82), 1}});
  second.Connect();
  second.Hears(Snapshot("p", claims));

  REQUIRE_OK(second.synced.AddPod({.pod_key = "p"}));

  CHECK(kernel.ports.WaitUntil([&] { return !kernel.ports.HasRemote("p", kernel.k80); }));
  CHECK(kernel.ports.WaitUntil([&] { return !kernel.ports.HasRemote("p", kernel.k81); }));
  CHECK(kernel.ports.WaitUntil([&] { return kernel.ports.HasRemote("p", Key("0.0.0.0", 82)) == !claims.empty(); }));
  CHECK(kernel.podnet.WaitUntil([&] { return kernel.podnet.Steers("p", 82) == !claims.empty(); }));
}

TEST_CASE("a Pod that the other PU has no longer takes its ports along") {
  LeftBehind kernel(pu::Side::kHost);
  Life second(pu::Side::kHost, kernel.ports, kernel.podnet);
  v1::PortMessage removed = Snapshot("p", {});
  removed.mutable_snapshot()->set_removed(true);

  SECTION("it tells when this PU has its Pod") {
    REQUIRE_OK(second.synced.AddPod({.pod_key = "p"}));
    second.Settle();
    second.Hears(removed);
  }
  SECTION("it told before") {
    second.Connect();
    second.Hears(removed);
    REQUIRE_OK(second.synced.AddPod({.pod_key = "p"}));
    second.Settle();
  }

  CHECK(kernel.ports.Remote("p").empty());
  CHECK_FALSE(kernel.podnet.Steers("p", 80));
}

TEST_CASE("a Pod that the other PU removed and made anew owns what it told last") {
  LeftBehind kernel(pu::Side::kHost);
  Life second(pu::Side::kHost, kernel.ports, kernel.podnet);
  v1::PortMessage removed = Snapshot("p", {});
  removed.mutable_snapshot()->set_removed(true);
  second.Connect();
  second.Hears(removed);
  second.Hears(Snapshot("p", {{kernel.k80, 300}}));

  REQUIRE_OK(second.synced.AddPod({.pod_key = "p"}));
  second.Settle();

  CHECK(kernel.ports.Remote("p") == std::vector<ports::PortKey>{kernel.k80});
}

TEST_CASE("a port that the other PU closed and opened anew meanwhile is lost to an older claim of this PU") {
  LeftBehind kernel(pu::Side::kHost);
  Life second(pu::Side::kHost, kernel.ports, kernel.podnet);
  REQUIRE_OK(second.synced.AddPod({.pod_key = "p"}));
  kernel.ports.Open("p", kernel.k80, 200);
  second.Settle();
  REQUIRE(kernel.ports.HasRemote("p", kernel.k80));
  const size_t before = second.other->messages();

  second.Hears(Snapshot("p", {{kernel.k80, 300}, {kernel.k81, 100}}));

  CHECK_FALSE(kernel.ports.HasRemote("p", kernel.k80));
  CHECK(second.other->AwaitMessage(before).conflict().port().port() == 80);
  CHECK_FALSE(kernel.podnet.Steers("p", 80));
  CHECK(kernel.podnet.Steers("p", 81));
}

TEST_CASE("a port that the other PU owns by another address now is never free in between") {
  LeftBehind kernel(pu::Side::kDpu);
  Life second(pu::Side::kDpu, kernel.ports, kernel.podnet);
  const v1::PortMessage moved = Snapshot("p", {{Key("::", 80), 100}, {Key("::", 81), 100}});

  SECTION("it tells when this PU has its Pod") {
    REQUIRE_OK(second.synced.AddPod({.pod_key = "p"}));
    second.Settle();
    second.Hears(moved);
  }
  SECTION("it told before") {
    second.Connect();
    second.Hears(moved);
    REQUIRE_OK(second.synced.AddPod({.pod_key = "p"}));
    second.Settle();
  }

  CHECK(kernel.ports.fewest == 2);
  CHECK(kernel.ports.Remote("p") == std::vector<ports::PortKey>{Key("::", 80), Key("::", 81)});
}

TEST_CASE("a port for which there was no room is remembered when its Pod is added again") {
  FakePorts ports;
  FakePodNet podnet;
  ports.room = 1;
  Life life(pu::Side::kDpu, ports, podnet);
  REQUIRE_OK(life.synced.AddPod({.pod_key = "p"}));
  life.Connect();
  life.Hears(Snapshot("p", {{Key("0.0.0.0", 80), 1}, {Key("0.0.0.0", 81), 1}}));
  REQUIRE(ports.Remote("p") == std::vector<ports::PortKey>{Key("0.0.0.0", 80)});

  REQUIRE_OK(life.synced.AddPod({.pod_key = "p"}));
  v1::PortMessage closed;
  closed.mutable_delta()->set_pod_key("p");
  *closed.mutable_delta()->mutable_port() = ToProto(Key("0.0.0.0", 80));
  life.Hears(std::move(closed));

  CHECK(ports.WaitUntil([&] { return ports.HasRemote("p", Key("0.0.0.0", 81)); }));
}

TEST_CASE("a Pod that is being added is told when all that it has open is known, not before") {
  FakePorts ports;
  FakePodNet podnet;
  Life life(pu::Side::kDpu, ports, podnet);
  life.sync.PodAdding("p");
  ports.Open("p", Key("0.0.0.0", 80), 1);

  life.Settle();
  ports.Open("p", Key("0.0.0.0", 81), 2);
  life.Hears(Snapshot("nobody", {}));
  CHECK(life.other->messages() == 0);
  life.sync.PodAdded("p");

  CHECK(life.other->AwaitMessage(0).snapshot().ports_size() == 2);
}

TEST_CASE("a Pod that went while nobody could be told is told of on the next connection") {
  FakePorts ports;
  FakePodNet podnet;
  Life life(pu::Side::kDpu, ports, podnet);
  for (const char* pod : {"gone", "back"}) {
    REQUIRE_OK(life.synced.AddPod({.pod_key = pod}));
    REQUIRE_OK(life.synced.RemovePod(pod));
  }
  REQUIRE_OK(life.synced.AddPod({.pod_key = "back"}));
  REQUIRE_OK(life.synced.RemovePod("an ordinary one"));

  life.Settle();

  REQUIRE(life.other->messages() == 2);
  CHECK_FALSE(life.other->AwaitMessage(0).snapshot().removed());
  CHECK(life.other->AwaitMessage(0).snapshot().pod_key() == "back");
  CHECK(life.other->AwaitMessage(1).snapshot().removed());
  CHECK(life.other->AwaitMessage(1).snapshot().pod_key() == "gone");
}

}  // namespace heterok8s::peer
