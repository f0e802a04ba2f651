#include "node-agent/podnet/split_pod_topology.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <catch2/catch.hpp>

#include "common/sys/process.h"
#include "common/testing/eventually.h"
#include "common/testing/matchers.h"

namespace heterok8s::podnet {
namespace {

const pu::OwnerTag kOwner{.instance = "test", .pod_key = "pod-1", .ifname = "eth0"};
constexpr char kHostMac[] = "02:68:6b:00:00:01", kDpuMac[] = "02:68:6b:00:00:02";

}  // namespace

sys::NetnsRef SplitPodTopology::Make(const std::string& name) {
  static std::atomic<int> number{0};
  auto ns = sys::CreateNetns(fmt::format("/run/netns/hk{}-{}-{}", getpid(), name, number++));
  REQUIRE_OK(ns);
  // Duplicate detection of fe80:: addresses would delay the first packets by seconds.
  Sh(*ns, "sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.default.dad_transmits=0");
  return *std::move(ns);
}

std::string SplitPodTopology::Sh(const sys::NetnsRef& ns, const std::string& command) {
  INFO(command);
  auto result = sys::Run({.argv = {"nsenter", "--net=" + ns.path(), "sh", "-c", command}});
  REQUIRE_OK(result);
  INFO(result->stderr_text);
  REQUIRE(result->exit_code == 0);
  return result->stdout_text;
}

std::string SplitPodTopology::Ip(const sys::NetnsRef& ns, const std::string& args) { return Sh(ns, "ip " + args); }

SplitPodTopology::SplitPodTopology(Namespaces)
    : far_(Make("far")), net_(Make("net")), pod_d_(Make("pd")), pod_h_(Make("ph")) {}

SplitPodTopology::SplitPodTopology() : SplitPodTopology(Namespaces::kMade) {
  Sh(far_, fmt::format(R"(set -e
    ip link add up0 type veth peer name far mtu 1300 netns {net}
    ip link set up0 up
    ip addr add 10.99.0.2/24 dev up0; ip addr add fd00:99::2/64 dev up0 nodad
    nsenter --net={net} ip link set far up
    ip route add default via 10.99.0.1; ip route add default via fd00:99::1)",
                       fmt::arg("net", net_.path())));
  Sh(net_, fmt::format(R"(set -e
    sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    ip addr add 10.99.0.1/24 dev far; ip addr add fd00:99::1/64 dev far nodad
    ip link add ethn type veth peer name eth0 netns {pd}
    ip link set ethn up
    ip addr add 10.88.0.1/24 dev ethn; ip addr add fd00:88::1/64 dev ethn nodad)",
                       fmt::arg("pd", pod_d_.path())));
  Sh(pod_d_, fmt::format(R"(set -e
    ip link set eth0 up
    ip addr add 10.88.0.5/32 dev eth0; ip addr add fd00:88::5/128 dev eth0 nodad
    ip route add 10.88.0.1 dev eth0; ip route add default via 10.88.0.1 src 10.88.0.5
    ip route add fd00:88::1 dev eth0; ip route add default via fd00:88::1 src fd00:88::5
    ip link add xpu0 address {dmac} type veth peer name eth0 address {hmac} netns {ph}
    ip link set xpu0 alias {alias}
    nsenter --net={ph} ip link set eth0 alias {alias})",
                         fmt::arg("ph", pod_h_.path()), fmt::arg("dmac", kDpuMac), fmt::arg("hmac", kHostMac),
                         fmt::arg("alias", kOwner.ToAlias())));
  AwaitUp(far_, "up0");
  AwaitUp(net_, "ethn");
}

void SplitPodTopology::AwaitUp(const sys::NetnsRef& ns, const std::string& ifname) {
  REQUIRE(
      testing::Eventually([&] { return Ip(ns, "-o link show dev " + ifname).find("state UP") != std::string::npos; }));
}

void SplitPodTopology::AwaitLink() const {
  for (const LinkSpec& spec : {HostSpec(), DpuSpec()})
    AwaitUp(spec.side == pu::Side::kHost ? pod_h_ : pod_d_, spec.ifname);
}

SplitPodTopology::~SplitPodTopology() {
  for (const sys::NetnsRef* ns : {&far_, &net_, &pod_d_, &pod_h_}) (void)sys::DeleteNetns(ns->path());
}

LinkSpec SplitPodTopology::Spec(pu::Side side) const {
  bool host = side == pu::Side::kHost;
  return {.owner = kOwner,
          .side = side,
          .netns_path = host ? pod_h_.path() : pod_d_.path(),
          .ifname = host ? "eth0" : "xpu0",
          .uplink_ifname = host ? "" : "eth0",
          .addresses = {*IpAddress::Parse("10.88.0.5"), *IpAddress::Parse("fd00:88::5")},
          .link = {.host_localhost = *IpAddress::Parse("169.254.64.4"),
                   .dpu_localhost = *IpAddress::Parse("169.254.64.5"),
                   .host_pod = *IpAddress::Parse("169.254.64.6"),
                   .dpu_pod = *IpAddress::Parse("169.254.64.7")},
          .host_ephemeral = {32768, 47103},
          .dpu_ephemeral = {47104, 60999},
          .mtu = 1500,
          .mac = host ? kHostMac : kDpuMac,
          .peer_mac = host ? kDpuMac : kHostMac};
}

}  // namespace heterok8s::podnet
