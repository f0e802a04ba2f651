// Two PUs whose kernels are maps, joined by the real stream over loopback and mutual TLS.
#include "node-agent/peer/port_sync.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "node-agent/peer/client.h"
#include "node-agent/peer/port_stream.h"
#include "node-agent/peer/server.h"
#include "node-agent/peer/synced_ports.h"
#include "node-agent/peer/testing.h"

namespace heterok8s::peer {
namespace {

using peer::testing::Eventually;
using peer::testing::FakePodNet;
using peer::testing::FakePorts;
using peer::testing::Key;
using peer::testing::TempPki;

struct NoDpu final : attach::DpuHalf {
  absl::Status Ready() const override { return absl::OkStatus(); }
  absl::StatusOr<attach::PrepareReply> Prepare(const attach::PrepareRequest&) override {
    return attach::PrepareReply{};
  }
  absl::Status Commit(const attach::PodGeneration&) override { return absl::OkStatus(); }
  absl::Status CheckHalf(const attach::PodGeneration&) override { return absl::OkStatus(); }
  absl::Status Remove(const attach::PodGeneration&) override { return absl::OkStatus(); }
  absl::StatusOr<attach::SyncReply> Sync(const attach::SyncRequest&) override { return attach::SyncReply{}; }
  std::vector<attach::PodGeneration> Halves() const override { return {}; }
};

struct Acks : testing::Watched {
  void Add(std::chrono::nanoseconds) {
    std::lock_guard lock(mutex_);
    ++count;
    changed_.notify_all();
  }
  int count = 0;
};

struct Side {
  explicit Side(pu::Side side) : sync(side, [this](std::chrono::nanoseconds ack) { acks.Add(ack); }) {
    ports.listener = [this](const ports::PortChange& change) { sync.LocalChange(change); };
    sync.Start(ports, podnet, [](const std::string& pod) -> absl::StatusOr<podnet::LinkSpec> {
      return podnet::LinkSpec{.owner = {.pod_key = pod}};
    });
  }
  void AddPod(const std::string& pod) { REQUIRE_OK(synced.AddPod({.pod_key = pod})); }
  bool Enforces(const std::string& pod, const ports::PortKey& key) {
    return ports.WaitUntil([&] { return ports.HasRemote(pod, key); });
  }
  bool LetsGo(const std::string& pod, const ports::PortKey& key) {
    return ports.WaitUntil([&] { return !ports.HasRemote(pod, key); });
  }
  bool Steers(const std::string& pod, uint16_t port) {
    return podnet.WaitUntil([&] { return podnet.Steers(pod, port); });
  }
  bool StopsSteering(const std::string& pod, uint16_t port) {
    return podnet.WaitUntil([&] { return !podnet.Steers(pod, port); });
  }

  Acks acks;
  FakePorts ports;
  FakePodNet podnet;
  PortSync sync;
  SyncedPorts synced{ports, sync};
};

struct Node {
  TempPki pki;
  Lease host_lease{{}}, dpu_lease{{}};
  Refusals refusals;
  NoDpu half;
  Side host{pu::Side::kHost}, dpu{pu::Side::kDpu};
  std::unique_ptr<PeerServer> server;
  std::unique_ptr<GrpcPeerClient> client;
  std::unique_ptr<PortDialer> dialer;
  heterok8s::testing::HeldPort port;

  Node() {
    StartDpuServer();
    client = *GrpcPeerClient::Create({.address = "127.0.0.1:" + std::to_string(port.number()),
                                      .files = pki.For("host"),
                                      .server = {"demo", tls::Role::kDpu}},
                                     host_lease);
    dialer = std::make_unique<PortDialer>(client->channel(), host.sync);
    REQUIRE(Eventually([&] { return host.sync.connected() && dpu.sync.connected(); }));
  }
  void StartDpuServer() {
    server = *PeerServer::Start(
        {.listen = "127.0.0.1:" + std::to_string(port.number()), .files = pki.For("dpu"), .node = "demo"},
        {.dpu = &half, .lease = &dpu_lease, .ports = &dpu.sync, .refusals = &refusals});
  }
  ~Node() {
    dialer.reset();
    server.reset();
  }
};

}  // namespace

TEST_CASE("a port opened on one PU is enforced on the other, acknowledged, and let go when closed") {
  Node node;
  node.host.AddPod("p");
  node.dpu.AddPod("p");

  node.host.ports.Open("p", Key("0.0.0.0", 8080), 100);
  CHECK(node.dpu.Enforces("p", Key("0.0.0.0", 8080)));
  CHECK(node.host.acks.WaitUntil([&] { return node.host.acks.count == 1; }));
  node.dpu.ports.Open("p", Key("127.0.0.1", 514, Protocol::kUdp), 200);
  CHECK(node.host.Enforces("p", Key("127.0.0.1", 514, Protocol::kUdp)));

  node.host.ports.Close("p", Key("0.0.0.0", 8080));
  CHECK(node.dpu.LetsGo("p", Key("0.0.0.0", 8080)));
}

TEST_CASE("both PUs steer by the DPU's ports, except those on localhost") {
  Node node;
  node.host.AddPod("p");
  node.dpu.AddPod("p");

  node.dpu.ports.Open("p", Key("127.0.0.1", 9000), 1);
  node.host.ports.Open("p", Key("0.0.0.0", 8080), 2);
  node.dpu.ports.Open("p", Key("0.0.0.0", 80), 3);

  CHECK(node.dpu.Steers("p", 80));
  CHECK(node.host.Steers("p", 80));
  REQUIRE(node.host.Enforces("p", Key("127.0.0.1", 9000)));
  for (Side* side : {&node.host, &node.dpu}) {
    CHECK(side->StopsSteering("p", 9000));
    CHECK(side->StopsSteering("p", 8080));
  }
  node.dpu.ports.Close("p", Key("0.0.0.0", 80));
  CHECK(node.dpu.StopsSteering("p", 80));
  CHECK(node.host.StopsSteering("p", 80));
}

TEST_CASE("two claims on one port keep it steered until the last one closes") {
  Node node;
  node.host.AddPod("p");
  node.dpu.AddPod("p");
  node.dpu.ports.Open("p", Key("0.0.0.0", 80), 1);
  node.dpu.ports.Open("p", Key("::", 80), 2);
  REQUIRE(node.host.Enforces("p", Key("::", 80)));

  node.dpu.ports.Close("p", Key("0.0.0.0", 80));
  REQUIRE(node.host.LetsGo("p", Key("0.0.0.0", 80)));

  CHECK(node.host.Steers("p", 80));
  node.dpu.ports.Close("p", Key("::", 80));
  CHECK(node.host.StopsSteering("p", 80));
}

TEST_CASE("what was open before the connection, or before the other half existed, arrives as a snapshot") {
  Node node;
  node.host.AddPod("p");
  node.host.ports.Open("p", Key("0.0.0.0", 8080), 1);

  node.dpu.AddPod("p");

  CHECK(node.dpu.Enforces("p", Key("0.0.0.0", 8080)));
}

TEST_CASE("a list longer than a Pod's can be is cut") {
  Node node;
  node.host.AddPod("p");
  for (size_t i = 0; i < ports::kMostClaimsOfAPod + 10; ++i) {
    node.host.ports.Open("p", Key(fmt::format("127.0.{}.{}", i / 250, 1 + i % 250), 80), 1);
  }

  node.dpu.AddPod("p");

  CHECK(Eventually([&] { return node.dpu.sync.counters().failures == 10; }));
  CHECK(node.dpu.Enforces("p", Key("127.0.0.1", 80)));
  // What is let go makes room for one of the others.
  node.host.ports.Close("p", Key("127.0.0.1", 80));
  CHECK(node.dpu.LetsGo("p", Key("127.0.0.1", 80)));
  CHECK(Eventually([&] { return node.dpu.ports.Remote("p").size() == ports::kMostClaimsOfAPod; }));
}

TEST_CASE("a port that found no room on the other PU is enforced there when another Pod lets go") {
  Node node;
  node.dpu.ports.room = 2;
  for (const char* pod : {"greedy", "p"}) {
    node.host.AddPod(pod);
    node.dpu.AddPod(pod);
  }
  node.host.ports.Open("greedy", Key("0.0.0.0", 1), 1);
  node.host.ports.Open("greedy", Key("0.0.0.0", 2), 1);
  REQUIRE(node.dpu.Enforces("greedy", Key("0.0.0.0", 2)));
  for (uint16_t port : {80, 81, 82}) node.host.ports.Open("p", Key("0.0.0.0", port), 2);
  CHECK(Eventually([&] { return node.dpu.sync.counters().failures == 3; }));

  node.host.ports.Close("p", Key("0.0.0.0", 80));
  node.host.ports.Close("greedy", Key("0.0.0.0", 1));
  CHECK(node.dpu.Enforces("p", Key("0.0.0.0", 81)));
  REQUIRE_OK(node.dpu.synced.RemovePod("greedy"));
  CHECK(node.dpu.Enforces("p", Key("0.0.0.0", 82)));
  CHECK(node.dpu.ports.Remote("p").size() == 2);
}

TEST_CASE("the older claim wins; the loser is told, and gets the port when the winner closes") {
  Node node;
  node.host.AddPod("p");
  node.dpu.AddPod("p");
  // Both sides listened before either knew of the other: the host first.
  node.host.ports.Open("p", Key("0.0.0.0", 80), 100);
  node.dpu.ports.Open("p", Key("0.0.0.0", 80), 200);

  REQUIRE(node.dpu.Enforces("p", Key("0.0.0.0", 80)));
  CHECK(node.dpu.StopsSteering("p", 80));
  CHECK(node.host.StopsSteering("p", 80));
  CHECK(Eventually([&] { return node.dpu.sync.counters().conflicts_lost == 1; }));
  CHECK(node.host.sync.counters().conflicts_won == 1);
  CHECK_THAT(node.dpu.sync.LastConflict("p"), Catch::Contains("of the dpu lost against the host"));
  CHECK_THAT(node.host.sync.LastConflict("p"), Catch::Contains("older socket"));

  node.host.ports.Close("p", Key("0.0.0.0", 80));

  CHECK(node.host.Enforces("p", Key("0.0.0.0", 80)));
  CHECK(node.host.Steers("p", 80));
  CHECK(node.dpu.Steers("p", 80));
}

TEST_CASE("of two claims made at the same time the host's wins, on both PUs") {
  Node node;
  node.host.AddPod("p");
  node.dpu.AddPod("p");
  node.host.ports.Open("p", Key("0.0.0.0", 80), 100);
  node.dpu.ports.Open("p", Key("0.0.0.0", 80), 100);

  CHECK(node.dpu.Enforces("p", Key("0.0.0.0", 80)));
  CHECK(Eventually([&] { return node.dpu.sync.counters().conflicts_lost == 1; }));
  CHECK(node.host.sync.counters().conflicts_won == 1);
  CHECK(node.host.sync.counters().conflicts_lost == 0);
  CHECK(node.dpu.StopsSteering("p", 80));
}

TEST_CASE("a lost connection leaves the last state enforced, and the next one brings what was missed") {
  Node node;
  node.host.AddPod("p");
  node.dpu.AddPod("p");
  node.dpu.ports.Open("p", Key("0.0.0.0", 80), 1);
  node.dpu.ports.Open("p", Key("0.0.0.0", 81), 2);
  REQUIRE(node.host.Enforces("p", Key("0.0.0.0", 81)));

  node.server.reset();
  REQUIRE(Eventually([&] { return !node.host.sync.connected(); }));
  node.dpu.ports.Close("p", Key("0.0.0.0", 80));
  node.dpu.ports.Open("p", Key("0.0.0.0", 82), 3);
  CHECK(node.host.Enforces("p", Key("0.0.0.0", 80)));
  node.StartDpuServer();

  CHECK(node.host.Enforces("p", Key("0.0.0.0", 82)));
  CHECK(node.host.LetsGo("p", Key("0.0.0.0", 80)));
  CHECK(node.host.Enforces("p", Key("0.0.0.0", 81)));
  CHECK(node.host.StopsSteering("p", 80));
}

TEST_CASE("what an earlier heterod left in the kernel is corrected when its Pod is added") {
  Node node;
  node.host.podnet.Leave("p", 7777);
  node.host.AddPod("p");
  node.dpu.AddPod("p");
  node.dpu.ports.Open("p", Key("0.0.0.0", 80), 1);

  CHECK(node.host.Steers("p", 80));
  CHECK(node.host.StopsSteering("p", 7777));
}

TEST_CASE("a removed Pod takes its ports along") {
  Node node;
  node.host.AddPod("p");
  node.dpu.AddPod("p");
  node.dpu.ports.Open("p", Key("0.0.0.0", 80), 1);
  REQUIRE(node.host.Enforces("p", Key("0.0.0.0", 80)));

  REQUIRE_OK(node.dpu.synced.RemovePod("p"));

  CHECK(node.host.LetsGo("p", Key("0.0.0.0", 80)));
}

TEST_CASE("a thousand ports opened at once all arrive and are all acknowledged") {
  Node node;
  node.host.AddPod("p");
  node.dpu.AddPod("p");

  for (uint16_t i = 0; i < 1000; ++i) node.host.ports.Open("p", Key("0.0.0.0", 1024 + i), 1 + i);

  CHECK(node.dpu.Enforces("p", Key("0.0.0.0", 2023)));
  CHECK(node.host.acks.WaitUntil([&] { return node.host.acks.count == 1000; }));
}

}  // namespace heterok8s::peer
