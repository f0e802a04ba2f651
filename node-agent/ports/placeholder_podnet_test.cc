// Placeholder sockets and NAT in a Pod that podnet wired: the two tables in one namespace.
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <atomic>
#include <catch2/catch.hpp>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <set>

#include "common/sys/file.h"
#include "common/testing/matchers.h"
#include "node-agent/podnet/link.h"
#include "node-agent/podnet/split_pod_topology.h"
#include "node-agent/podnet/test_sockets.h"
#include "node-agent/ports/placeholder_mechanism.h"
#include "node-agent/ports/placeholder_ports.h"

namespace heterok8s::ports {
namespace {

using podnet::At;

// The topology of split_pod_topology.h with a Ports on each side; each tells the other, and podnet what the DPU owns.
class WiredPod {
 public:
  WiredPod() {
    for (pu::Side side : {pu::Side::kHost, pu::Side::kDpu}) REQUIRE_OK(podnet::EnsureLink(Spec(side)));
    pod_.AwaitLink();
    for (pu::Side side : {pu::Side::kHost, pu::Side::kDpu}) {
      auto made = NewPlaceholderPorts({.instance = "test", .bpffs = "/run/hk-no-pins", .cgroup2 = ""},
                                      [this, side](const PortChange& change) { Tell(side, change); });
      REQUIRE_OK(made);
      ports_[side == pu::Side::kDpu] = *std::move(made);
    }
    started_ = true;
    for (pu::Side side : {pu::Side::kHost, pu::Side::kDpu})
      REQUIRE_OK(ports_[side == pu::Side::kDpu]->AddPod(Pod(side)));
  }
  ~WiredPod() {
    started_ = false;
    for (auto& ports : ports_) ports.reset();
  }

  const sys::NetnsRef& Ns(pu::Side side) const { return side == pu::Side::kHost ? pod_.pod_h() : pod_.pod_d(); }
  const sys::NetnsRef& far() const { return pod_.far(); }
  Ports& ports(pu::Side side) { return *ports_[side == pu::Side::kDpu]; }
  std::string Localnet(pu::Side side) const {
    std::string value;
    REQUIRE_OK(sys::InNetns(Ns(side), [&]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(value, sys::ReadFile("/proc/sys/net/ipv4/conf/" + Spec(side).ifname + "/route_localnet"));
      return absl::OkStatus();
    }));
    return value;
  }

  sys::UniqueFd Serve(pu::Side side, Protocol protocol, const char* address, uint16_t* port) {
    sys::UniqueFd server = podnet::Listen(Ns(side), protocol, At(address, 0));
    *port = podnet::LocalPort(server);
    PortKey key{.protocol = protocol, .address = *IpAddress::Parse(address), .port = *port};
    std::unique_lock lock(mutex_);
    REQUIRE(changed_.wait_for(lock, podnet::kPatience, [&] { return told_.contains(key); }));
    return server;
  }

 private:
  podnet::LinkSpec Spec(pu::Side side) const { return side == pu::Side::kHost ? pod_.HostSpec() : pod_.DpuSpec(); }
  PodPorts Pod(pu::Side side) const {
    podnet::LinkSpec spec = Spec(side);
    bool host = side == pu::Side::kHost;
    return {.pod_key = "pod-1",
            .side = side,
            .netns_path = spec.netns_path,
            .addresses = spec.addresses,
            .link = spec.link,
            .own_ephemeral = host ? spec.host_ephemeral : spec.dpu_ephemeral,
            .other_ephemeral = host ? spec.dpu_ephemeral : spec.host_ephemeral};
  }
  void Tell(pu::Side side, const PortChange& change) {
    if (!started_) return;
    bool of_dpu = side == pu::Side::kDpu;
    (void)ports_[!of_dpu]->SetRemote(change.pod_key, change.key, change.opened, change.epoch_ns);
    if (of_dpu) {
      for (pu::Side each : {pu::Side::kHost, pu::Side::kDpu}) {
        (void)podnet::SetPort(Spec(each), change.key.protocol, change.key.port, change.opened);
      }
    }
    std::lock_guard lock(mutex_);
    change.opened ? (void)told_.insert(change.key) : (void)told_.erase(change.key);
    changed_.notify_all();
  }

  podnet::SplitPodTopology pod_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<PortKey> told_;
  std::atomic<bool> started_ = false;
  std::unique_ptr<Ports> ports_[2];
};

const char kPod[] = "10.88.0.5", kPod6[] = "fd00:88::5";

TEST_CASE("NAT beside podnet's table: calls between the halves, answers and resets", "[netns]") {
  WiredPod pod;
  for (pu::Side owner : {pu::Side::kDpu, pu::Side::kHost}) {
    pu::Side caller = owner == pu::Side::kDpu ? pu::Side::kHost : pu::Side::kDpu;
    struct Row {
      const char *bound, *to;
    };
    for (Row row :
         {Row{"0.0.0.0", "127.0.0.1"}, {"127.0.0.1", "127.0.0.1"}, {"0.0.0.0", kPod}, {kPod, kPod}, {kPod6, kPod6}}) {
      INFO((owner == pu::Side::kDpu ? "host calls DPU at " : "DPU calls host at ")
           << row.to << ", bound to " << row.bound);
      uint16_t port = 0;
      sys::UniqueFd server = pod.Serve(owner, Protocol::kTcp, row.bound, &port);
      sys::UniqueFd caller_fd;
      REQUIRE(podnet::Connect(pod.Ns(caller), At(row.to, port), &caller_fd) == 0);
      sys::UniqueFd accepted = podnet::Accept(server);
      REQUIRE(accepted.valid());
      CHECK(podnet::PeerOf(accepted).address.ToString() == row.to);
      CHECK(podnet::PeerOf(caller_fd).address.ToString() == row.to);
      REQUIRE(podnet::Send(caller_fd, "ping"));
      CHECK(podnet::Receive(accepted) == "ping");
      REQUIRE(podnet::Send(accepted, "pong"));
      CHECK(podnet::Receive(caller_fd) == "pong");
      // A reset crosses, though podnet holds back those of flows that it steers.
      linger abrupt{.l_onoff = 1, .l_linger = 0};
      setsockopt(accepted.get(), SOL_SOCKET, SO_LINGER, &abrupt, sizeof abrupt);
      accepted.reset();
      CHECK(podnet::Receive(caller_fd) == fmt::format("error {}", ECONNRESET));

      uint16_t udp_port = 0;
      sys::UniqueFd udp = pod.Serve(owner, Protocol::kUdp, row.bound, &udp_port);
      sys::UniqueFd sender = podnet::ConnectUdp(pod.Ns(caller), At(row.to, udp_port));
      REQUIRE(podnet::Send(sender, "ping"));
      podnet::Endpoint from;
      CHECK(podnet::Receive(udp, &from) == "ping");
      CHECK(from.address.ToString() == row.to);
      REQUIRE(podnet::SendTo(udp, from, "pong"));
      CHECK(podnet::Receive(sender) == "pong");
    }
  }
}

TEST_CASE("a placeholder of the DPU takes no packet from outside that is the host's", "[netns]") {
  WiredPod pod;
  for (pu::Side owner : {pu::Side::kHost, pu::Side::kDpu}) {
    INFO((owner == pu::Side::kHost ? "host" : "DPU") << " owns the port");
    uint16_t port = 0, udp_port = 0;
    sys::UniqueFd tcp = pod.Serve(owner, Protocol::kTcp, "0.0.0.0", &port);
    sys::UniqueFd udp = pod.Serve(owner, Protocol::kUdp, "0.0.0.0", &udp_port);

    sys::UniqueFd caller;
    CHECK(podnet::Connect(pod.far(), At(kPod, port), &caller) == 0);
    CHECK(podnet::Accept(tcp).valid());
    sys::UniqueFd sender = podnet::ConnectUdp(pod.far(), At(kPod, udp_port));
    REQUIRE(podnet::Send(sender, "ping"));
    podnet::Endpoint from;
    CHECK(podnet::Receive(udp, &from) == "ping");
    REQUIRE(podnet::SendTo(udp, from, "pong"));
    CHECK(podnet::Receive(sender) == "pong");
  }
}

TEST_CASE("what lets localhost pass the link is podnet's: no end of the NAT takes it away", "[netns]") {
  WiredPod pod;
  for (pu::Side side : {pu::Side::kHost, pu::Side::kDpu}) {
    REQUIRE(pod.Localnet(side) == "1\n");

    CHECK_OK(RemovePlaceholderNat(pod.Ns(side).path()));
    CHECK(pod.Localnet(side) == "1\n");
    CHECK_OK(RemovePlaceholderNat(pod.Ns(side).path()));  // and there need not be any
    CHECK_OK(pod.ports(side).RemovePod("pod-1"));
    CHECK(pod.Localnet(side) == "1\n");
  }
}

}  // namespace
}  // namespace heterok8s::ports
