// Two heterods' gRPC over loopback, with real certificates and halves that remember what they were asked.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cerrno>
#include <latch>

#include "common/cni/types.h"
#include "common/sys/unique_fd.h"
#include "common/tls/grpc_log.h"
#include "node-agent/peer/client.h"
#include "node-agent/peer/server.h"
#include "node-agent/peer/testing.h"

namespace heterok8s::peer {
namespace {

using heterok8s::testing::HasCode;
using heterok8s::testing::Says;
using peer::testing::TempPki;

class RememberingDpu final : public attach::DpuHalf, public testing::Watched {
 public:
  absl::Status ready;
  absl::Status answer;
  attach::PrepareRequest prepared;
  attach::SyncRequest synced;
  attach::PodGeneration committed, checked;
  std::function<void()> on_call;  // in Prepare and Commit

  absl::Status Ready() const override { return ready; }
  absl::StatusOr<attach::PrepareReply> Prepare(const attach::PrepareRequest& request) override {
    prepared = request;
    if (on_call) on_call();
    HK_RETURN_IF_ERROR(answer);
    return attach::PrepareReply{.netns_path = "/run/netns/pod-d", .uplink_mac = "02:00:00:00:00:01", .twin = true};
  }
  absl::Status Commit(const attach::PodGeneration& pod) override {
    committed = pod;
    if (on_call) on_call();
    return answer;
  }
  absl::Status CheckHalf(const attach::PodGeneration& pod) override {
    checked = pod;
    return answer;
  }
  absl::Status Remove(const attach::PodGeneration&) override { return answer; }
  absl::StatusOr<attach::SyncReply> Sync(const attach::SyncRequest& request) override {
    synced = request;
    return attach::SyncReply{.pods = request.pods};
  }
  std::vector<attach::PodGeneration> Halves() const override { return {{"uid-1", 41}}; }
};

class RememberingHost final : public attach::HostHalf {
 public:
  attach::ReserveRequest reserved;
  std::string released;
  absl::Status Ready() const override { return absl::OkStatus(); }
  absl::StatusOr<attach::ReserveReply> Reserve(const attach::ReserveRequest& request) override {
    reserved = request;
    return attach::ReserveReply{.addresses = {*IpPrefix::Parse("10.88.0.5/16"), *IpPrefix::Parse("fd00:88::5/64")},
                                .routes = {{.destination = *IpPrefix::Parse("10.0.0.0/8"), .mtu = 1300}},
                                .mtu = 1400};
  }
  absl::Status Release(const std::string& pod_key) override {
    released = pod_key;
    return absl::OkStatus();
  }
};

struct CountingWatcher final : attach::PeerWatcher, testing::Watched {
  void PeerReturned() override {
    std::lock_guard lock(mutex_);
    ++returned;
    changed_.notify_all();
  }
  void PeerHas(const std::vector<attach::PodGeneration>& now) override {
    std::lock_guard lock(mutex_);
    halves = now;
    changed_.notify_all();
  }
  int returned = 0;
  std::vector<attach::PodGeneration> halves;
};

// A DPU's server and the host's client of it.
struct Pair {
  TempPki pki;
  RememberingDpu dpu;
  RememberingHost host;
  Lease host_lease{{.duration = testing::kPatience, .address = "dpu"}};  // no test waits for its end
  Lease dpu_lease{{.duration = testing::kPatience, .address = "host"}};
  PortSync sync{pu::Side::kDpu, nullptr};
  Refusals refused_by_dpu, refused_by_host;
  testing::HeldPort dpu_port;
  std::unique_ptr<PeerServer> dpu_server, host_server;
  std::unique_ptr<GrpcPeerClient> to_dpu, to_host;

  Pair() {
    StartDpu(1);
    host_server = *PeerServer::Start({.listen = "127.0.0.1:0", .files = pki.For("host"), .node = "demo"},
                                     {.host = &host, .refusals = &refused_by_host});
    to_dpu = Client("host", {"demo", tls::Role::kDpu}, dpu_server->port(), host_lease);
    to_host = Client("dpu", {"demo", tls::Role::kHost}, host_server->port(), dpu_lease);
  }
  void StartDpu(uint64_t epoch) {
    dpu_server = *PeerServer::Start({.listen = "127.0.0.1:" + std::to_string(dpu_port.number()),
                                     .files = pki.For("dpu"),
                                     .node = "demo",
                                     .epoch = epoch,
                                     .boot_id = "boot-d",
                                     .uplink_mtu = [] { return 1400; }},
                                    {.dpu = &dpu, .lease = &dpu_lease, .ports = &sync, .refusals = &refused_by_dpu});
  }
  std::unique_ptr<GrpcPeerClient> Client(const std::string& as, tls::Identity server, int port, Lease& lease) {
    return *GrpcPeerClient::Create({.address = "127.0.0.1:" + std::to_string(port),
                                    .files = pki.For(as),
                                    .server = server,
                                    .heartbeat_interval = std::chrono::milliseconds(20),
                                    .lease_duration = testing::kPatience,
                                    .call_deadline = std::chrono::seconds(10),
                                    .epoch = 41,
                                    .boot_id = "boot-h",
                                    .self_halves =
                                        [] {
                                          return std::vector<attach::PodGeneration>{{"uid-1", 40}};
                                        }},
                                   lease);
  }
};

sys::UniqueFd ConnectTo(int port) {
  sys::UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  return fd;
}

attach::PrepareRequest SomePrepare() {
  return {.pod_key = "uid-1",
          .generation = 9,
          .instance = "demo",
          .network = "podnet",
          .container_id = "c1",
          .ifname = "eth0",
          .pod_namespace = "default",
          .pod_name = "web",
          .addresses = {*IpAddress::Parse("10.88.0.5"), *IpAddress::Parse("fd00:88::5")},
          .routes = {{.destination = *IpPrefix::Parse("10.0.0.0/8"), .mtu = 1400},
                     {.destination = *IpPrefix::Parse("::/0")}},
          .link = {.host_localhost = *IpAddress::Parse("169.254.64.0"),
                   .dpu_localhost = *IpAddress::Parse("169.254.64.1"),
                   .host_pod = *IpAddress::Parse("169.254.64.2"),
                   .dpu_pod = *IpAddress::Parse("169.254.64.3")},
          .host_ephemeral = {32768, 47103},
          .dpu_ephemeral = {47104, 60999},
          .mtu = 1450,
          .bandwidth = podnet::Bandwidth{.ingress_rate_bits = 1, .egress_burst_bits = 2},
          .masquerade_outside = {*IpPrefix::Parse("10.88.0.0/16")},
          .host_ports = {{.protocol = Protocol::kUdp,
                          .host_ip = *IpAddress::Parse("192.0.2.1"),
                          .host_port = 53,
                          .container_port = 5353}}};
}

}  // namespace

TEST_CASE("Prepare arrives as it was sent, and so does its answer") {
  Pair pair;

  absl::StatusOr<attach::PrepareReply> reply = pair.to_dpu->Prepare(SomePrepare());

  REQUIRE_OK(reply);
  CHECK(reply->netns_path == "/run/netns/pod-d");
  CHECK(reply->twin);
  const attach::PrepareRequest sent = SomePrepare(), got = pair.dpu.prepared;
  CHECK(got.pod_key == sent.pod_key);
  CHECK(got.generation == 9);
  CHECK(got.addresses == sent.addresses);
  CHECK(got.routes == sent.routes);
  CHECK(got.link.dpu_pod == sent.link.dpu_pod);
  CHECK(got.dpu_ephemeral == sent.dpu_ephemeral);
  CHECK(got.bandwidth == sent.bandwidth);
  CHECK(got.masquerade_outside == sent.masquerade_outside);
  CHECK(got.host_ports == sent.host_ports);
  CHECK(got.mtu == 1450);
}

TEST_CASE("what the caller does meanwhile is done when its request has arrived and before it is answered") {
  Pair pair;
  REQUIRE_OK(pair.to_dpu->Remove({"uid-1", 1}));  // connected
  std::latch arrived(1), worked(1);
  int runs = 0;
  auto meanwhile = [&] {
    ++runs;
    arrived.wait();
    worked.count_down();
  };
  pair.dpu.on_call = [&] {
    arrived.count_down();
    worked.wait();
  };

  SECTION("of Prepare") { CHECK_OK(pair.to_dpu->Prepare(SomePrepare(), meanwhile)); }
  SECTION("of Commit") { CHECK_OK(pair.to_dpu->Commit({"uid-1", 9}, meanwhile)); }
  SECTION("of one that is refused") {
    pair.dpu.answer = absl::FailedPreconditionError("generation 10 is here");
    CHECK_THAT(pair.to_dpu->Prepare(SomePrepare(), meanwhile).status(), Says("generation 10 is here"));
  }

  CHECK(runs == 1);
}

TEST_CASE("Commit, Check, Remove, Sync, Reserve and Release reach the other half") {
  Pair pair;

  CHECK_OK(pair.to_dpu->Commit({"uid-1", 9}));
  CHECK(pair.dpu.committed == attach::PodGeneration{"uid-1", 9});
  CHECK_OK(pair.to_dpu->CheckHalf({"uid-1", 9}));
  CHECK(pair.dpu.checked == attach::PodGeneration{"uid-1", 9});
  CHECK_OK(pair.to_dpu->Remove({"uid-1", 9}));
  absl::StatusOr<attach::SyncReply> sync =
      pair.to_dpu->Sync({.epoch = 3, .pods = {{"uid-1", 9}, {"uid-2", 4}}, .newest_generation = 9});
  REQUIRE_OK(sync);
  CHECK(sync->pods.size() == 2);
  CHECK(pair.dpu.synced.epoch == 3);
  CHECK(pair.dpu.synced.newest_generation == 9);
  absl::StatusOr<attach::ReserveReply> reserve = pair.to_host->Reserve(
      {.pod_key = "uid-1", .network = "podnet", .annotations = {{"a", "b"}}, .network_config = "{}"});
  REQUIRE_OK(reserve);
  CHECK(reserve->addresses[1].ToString() == "fd00:88::5/64");
  CHECK(reserve->mtu == 1400);
  CHECK(reserve->routes == std::vector<podnet::PodRoute>{{.destination = *IpPrefix::Parse("10.0.0.0/8"), .mtu = 1300}});
  CHECK(pair.host.reserved.annotations.at("a") == "b");
  CHECK_OK(pair.to_host->Release("uid-1"));
  CHECK(pair.host.released == "uid-1");
}

TEST_CASE("the other half's own error crosses unchanged, CNI code included") {
  Pair pair;
  pair.dpu.answer = cni::MakeError(cni::kTryAgainLater, "pod default/web: generation 10 is known", "details");

  const absl::Status status = pair.to_dpu->Commit({"uid-1", 9});

  CHECK(status == pair.dpu.answer);
  CHECK(cni::CodeOf(status) == cni::kTryAgainLater);
}

TEST_CASE("a caller of the wrong role is refused and the half never hears of it") {
  Pair pair;
  auto as_cri = pair.Client("cri", {"demo", tls::Role::kDpu}, pair.dpu_server->port(), pair.host_lease);
  auto as_dpu = pair.Client("dpu", {"demo", tls::Role::kDpu}, pair.dpu_server->port(), pair.host_lease);
  auto host_to_host = pair.Client("host", {"demo", tls::Role::kHost}, pair.host_server->port(), pair.host_lease);

  CHECK_THAT(as_cri->Commit({"uid-1", 9}), HasCode(absl::StatusCode::kPermissionDenied));
  CHECK_THAT(as_dpu->Commit({"uid-1", 9}), HasCode(absl::StatusCode::kPermissionDenied));
  CHECK_THAT(as_dpu->CheckHalf({"uid-1", 9}), HasCode(absl::StatusCode::kPermissionDenied));
  CHECK_THAT(host_to_host->Release("uid-1"), Says("the caller is heterok8s://demo/host"));
  CHECK(pair.refused_by_dpu.not_allowed() == 3);
  CHECK(pair.refused_by_host.not_allowed() == 1);
  // The half that this role does not have.
  CHECK_THAT(host_to_host->Commit({"uid-1", 9}), HasCode(absl::StatusCode::kUnimplemented));
  CHECK(pair.dpu.committed.pod_key.empty());
  CHECK(pair.host.released.empty());
}

TEST_CASE("a peer that is away is an error that names it, within the deadline") {
  Pair pair;
  pair.dpu_server.reset();

  const absl::Status status = pair.to_dpu->Commit({"uid-1", 9});

  CHECK_THAT(status, HasCode(absl::StatusCode::kUnavailable));
  CHECK_THAT(status, Says("peer heterok8s://demo/dpu at 127.0.0.1:"));
}

TEST_CASE("a peer that comes is met without a call, so that the first call finds it") {
  Pair pair;
  pair.dpu_server.reset();
  auto client = pair.Client("host", {"demo", tls::Role::kDpu}, pair.dpu_port.number(), pair.host_lease);
  auto state = [&] { return client->channel()->GetState(/*try_to_connect=*/false); };
  REQUIRE(testing::Eventually([&] { return state() == GRPC_CHANNEL_TRANSIENT_FAILURE; }));

  pair.StartDpu(2);

  CHECK(testing::Eventually([&] { return state() == GRPC_CHANNEL_READY; }));
}

TEST_CASE("heartbeats keep both sides' leases and tell the engine when the other heterod restarts") {
  CountingWatcher watcher;  // outlives the heartbeats
  Pair pair;
  pair.host_lease.SetWatcher(&watcher);
  pair.to_dpu->StartHeartbeats();
  REQUIRE(watcher.WaitUntil([&] { return watcher.returned == 1; }));
  CHECK(pair.host_lease.state().valid);
  CHECK(pair.host_lease.state().peer_ready);
  CHECK(pair.host_lease.state().peer_epoch == 1);
  CHECK(pair.host_lease.state().peer_boot_id == "boot-d");
  CHECK(pair.host_lease.state().peer_uplink_mtu == 1400);
  CHECK(pair.dpu_lease.state().valid);
  CHECK(pair.dpu_lease.state().peer_epoch == 41);
  CHECK(watcher.WaitUntil([&] { return watcher.halves == std::vector<attach::PodGeneration>{{"uid-1", 41}}; }));

  pair.dpu_server.reset();
  pair.StartDpu(2);

  REQUIRE(watcher.WaitUntil([&] { return watcher.returned == 2; }));
  CHECK(pair.host_lease.state().peer_epoch == 2);
}

TEST_CASE("a half that has not reconciled says why in the heartbeat") {
  CountingWatcher watcher;
  Pair pair;
  pair.dpu.ready = absl::UnavailableError("reconciling 3 of 7 pods");
  pair.host_lease.SetWatcher(&watcher);
  pair.to_dpu->StartHeartbeats();

  REQUIRE(watcher.WaitUntil([&] { return watcher.returned == 1; }));
  CHECK(pair.host_lease.state().valid);
  CHECK_FALSE(pair.host_lease.state().peer_ready);
  CHECK(pair.host_lease.state().last_error == "reconciling 3 of 7 pods");
}

TEST_CASE("connections that never begin their handshake keep nobody out, are closed and counted") {
  tls::TakeGrpcLog();
  const uint64_t failed_before = tls::FailedHandshakes();
  CountingWatcher watcher;
  Pair pair;
  pair.host_lease.SetWatcher(&watcher);
  std::vector<sys::UniqueFd> silent;
  for (int i = 0; i < 200; ++i) silent.push_back(ConnectTo(pair.dpu_server->port()));

  pair.to_dpu->StartHeartbeats();  // its first call: a connection and a handshake of its own

  CHECK(watcher.WaitUntil([&] { return watcher.returned == 1; }));
  // gRPC alone would wait for two minutes, and a test's patience is one.
  const auto is_closed = [](const sys::UniqueFd& fd) {
    char byte;
    const ssize_t got = recv(fd.get(), &byte, 1, MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno == ECONNRESET);
  };
  CHECK(testing::Eventually([&] { return std::all_of(silent.begin(), silent.end(), is_closed); }));
  CHECK(testing::Eventually([&] { return tls::FailedHandshakes() >= failed_before + silent.size(); }));
  CHECK(pair.host_lease.state().valid);
}

TEST_CASE("two servers do not share one address") {
  Pair pair;

  const auto second = PeerServer::Start(
      {.listen = "127.0.0.1:" + std::to_string(pair.dpu_server->port()), .files = pair.pki.For("dpu"), .node = "demo"},
      {.dpu = &pair.dpu, .lease = &pair.dpu_lease, .ports = &pair.sync, .refusals = &pair.refused_by_dpu});

  CHECK_THAT(second.status(), HasCode(absl::StatusCode::kUnavailable));
}

}  // namespace heterok8s::peer
