// What the kernel alone takes for a Pod: a CNI plugin that makes the objects of an ADD and nothing else.
//
// Purpose: bench/cni shows this time beside heterod's, as the limit of the machine. Same objects, by the same
// libraries, but in one process: no daemon, no ledger, no addresses to choose, no other PU to ask, no BPF ports. Both
// PUs' halves of a split Pod are made from here, as far as they can be at the same time on two threads; what heterod
// has ahead of a split Pod is made before the clock starts. Its config:
// {"type": "kernel_floor", "split": bool, "peer_netns": PATH, "times": FILE}. The milliseconds of the work alone are
// appended to FILE, since loading this program takes longer than what it measures.
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <future>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/sys/netns.h"
#include "common/sys/unbound_netns.h"
#include "node-agent/podnet/podnet.h"
#include "node-agent/pu/netns_backend.h"

namespace heterok8s {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kInstance[] = "floor";

std::string Environment(const char* name) {
  const char* value = getenv(name);
  return value == nullptr ? "" : value;
}

struct Pod {
  pu::OwnerTag owner{.instance = kInstance, .pod_key = Environment("CNI_CONTAINERID"), .ifname = "eth0"};
  std::string netns = Environment("CNI_NETNS");
  std::string dpu_netns = fmt::format("/run/netns/hkfloor-{}", pu::InterfaceName(owner, 'n'));
  std::vector<IpAddress> addresses;
  podnet::LinkAddresses link;

  Pod() {
    const auto number = static_cast<uint32_t>(getpid() & 0xfffc);  // others' addresses are not asked for
    addresses = {IpAddress::V4(0x0ade0000 + number), IpAddress::Parse("fd00:de::")->Plus(number)};
    const IpAddress first = IpAddress::V4(0xa9fe0000 + (number | 0x4000));
    link = {first, first.Plus(1), first.Plus(2), first.Plus(3)};
  }
  podnet::UplinkSpec Uplink(const std::string& in) const {
    return {.owner = owner, .netns_path = in, .ifname = "eth0", .addresses = addresses};
  }
  podnet::LinkSpec Link(pu::Side side) const {
    const bool host = side == pu::Side::kHost;
    return {.owner = owner,
            .side = side,
            .netns_path = host ? netns : dpu_netns,
            .ifname = host ? "eth0" : "xpu0",
            .uplink_ifname = host ? "" : "eth0",
            .addresses = addresses,
            .link = link,
            .host_ephemeral = {32768, 47103},
            .dpu_ephemeral = {47104, 60999},
            .mac = pu::LinkMac(owner, side),
            .peer_mac = pu::LinkMac(owner, host ? pu::Side::kDpu : pu::Side::kHost)};
  }
};

absl::Status AddOrdinary(const Pod& pod) {
  HK_ASSIGN_OR_RETURN(auto podnet, podnet::NewKernelPodNet({.instance = kInstance}));
  return podnet->EnsureUplink(pod.Uplink(pod.netns)).status();
}

absl::Status DelOrdinary(const Pod& pod) {
  HK_ASSIGN_OR_RETURN(auto podnet, podnet::NewKernelPodNet({.instance = kInstance}));
  return podnet->RemoveUplink(pod.owner, pod.netns);
}

// One PU: its root namespace, and what works in it.
struct Pu {
  std::unique_ptr<podnet::PodNet> podnet;
  std::unique_ptr<pu::Backend> backend;

  static absl::StatusOr<Pu> Open(pu::Side side, const std::string& peer) {
    Pu made;
    HK_ASSIGN_OR_RETURN(made.podnet, podnet::NewKernelPodNet({.instance = kInstance}));
    HK_ASSIGN_OR_RETURN(made.backend, pu::NewNetnsBackend({.side = side, .instance = kInstance, .peer_netns = peer}));
    return made;
  }
};

// What heterod has before it hears of a Pod: both PUs' sockets, and a namespace with the pair of its uplink.
struct Ahead {
  Pu host, dpu;
  std::optional<sys::NetnsRef> dpu_root, spare;

  static absl::StatusOr<Ahead> Make(const std::string& peer) {
    Ahead made;
    HK_ASSIGN_OR_RETURN(made.host, Pu::Open(pu::Side::kHost, peer));
    HK_ASSIGN_OR_RETURN(made.dpu_root, sys::NetnsRef::Open(peer));
    HK_RETURN_IF_ERROR(sys::InNetns(*made.dpu_root, [&made]() -> absl::Status {
      HK_ASSIGN_OR_RETURN(made.dpu, Pu::Open(pu::Side::kDpu, ""));
      HK_ASSIGN_OR_RETURN(made.spare, sys::CreateUnboundNetns());
      return podnet::FurnishDpuNetns(*made.spare);
    }));
    return made;
  }
};

// In the order of heterod, with its overlaps; what it does at the same time is not shared with anything else here.
absl::Status AddSplit(const Pod& pod, const Ahead& ahead) {
  const Pu &host = ahead.host, &dpu = ahead.dpu;
  HK_ASSIGN_OR_RETURN(sys::NetnsRef host_ns, sys::NetnsRef::Open(pod.netns));
  auto guarded = std::async(std::launch::async, [&] { return host.podnet->EnsureGuards(pod.Link(pu::Side::kHost)); });
  return sys::InNetns(*ahead.dpu_root, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(sys::NetnsRef dpu_ns, sys::BindNetns(*ahead.spare, pod.dpu_netns));
    HK_ASSIGN_OR_RETURN(podnet::PlacedUplink uplink, dpu.podnet->PlaceUplink(pod.Uplink(pod.dpu_netns)));
    auto ready = std::async(std::launch::async, [&]() -> absl::Status {
      HK_RETURN_IF_ERROR(uplink.finish());
      return dpu.podnet->EnsureGuards(pod.Link(pu::Side::kDpu));
    });
    absl::Status linked =
        host.backend->AcquireLink(pod.owner, {.mtu = 1500, .netns = &host_ns, .ifname = "eth0"}).status();
    HK_RETURN_IF_ERROR(guarded.get());
    HK_RETURN_IF_ERROR(ready.get());
    HK_RETURN_IF_ERROR(linked);
    auto wired = std::async(std::launch::async, [&] {
      return host.podnet->EnsureLink(pod.Link(pu::Side::kHost), podnet::Guards::kAreThere);
    });
    HK_RETURN_IF_ERROR(dpu.backend->AcceptLink(pod.owner, {.mtu = 1500, .netns = &dpu_ns, .ifname = "xpu0"}).status());
    HK_RETURN_IF_ERROR(dpu.podnet->EnsureLink(pod.Link(pu::Side::kDpu), podnet::Guards::kAreThere));
    HK_RETURN_IF_ERROR(dpu.podnet->RouteUplink(pod.Uplink(pod.dpu_netns)));
    return wired.get();
  });
}

absl::Status DelSplit(const Pod& pod, const std::string& peer) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef dpu_root, sys::NetnsRef::Open(peer));
  HK_ASSIGN_OR_RETURN(Pu host, Pu::Open(pu::Side::kHost, peer));
  absl::StatusOr<sys::NetnsRef> host_ns = sys::NetnsRef::Open(pod.netns);
  HK_RETURN_IF_ERROR(host.backend->ReleaseLink(pod.owner, host_ns.ok() ? &*host_ns : nullptr));
  return sys::InNetns(dpu_root, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(Pu dpu, Pu::Open(pu::Side::kDpu, ""));
    HK_RETURN_IF_ERROR(dpu.podnet->RemoveUplink(pod.owner, pod.dpu_netns));
    return sys::DeleteNetns(pod.dpu_netns);
  });
}

// `start` is moved to where a Pod's own work begins.
absl::Status Run(const nlohmann::json& config, Clock::time_point& start) {
  const Pod pod;
  const bool add = Environment("CNI_COMMAND") == "ADD";
  if (!config.value("split", false)) return add ? AddOrdinary(pod) : DelOrdinary(pod);
  const std::string peer = config.value("peer_netns", "");
  if (!add) return DelSplit(pod, peer);
  HK_ASSIGN_OR_RETURN(const Ahead ahead, Ahead::Make(peer));
  start = Clock::now();
  return AddSplit(pod, ahead);
}

}  // namespace
}  // namespace heterok8s

int main() {
  auto start = heterok8s::Clock::now();
  const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
  const nlohmann::json config = nlohmann::json::parse(text, nullptr, false);
  if (!config.is_object()) return 2;
  absl::Status done = heterok8s::Run(config, start);
  if (!done.ok()) {
    std::cout << nlohmann::json{{"cniVersion", "1.0.0"}, {"code", 100}, {"msg", heterok8s::Message(done)}}.dump();
    return 1;
  }
  if (heterok8s::Environment("CNI_COMMAND") == "ADD") std::cout << R"({"cniVersion": "1.0.0", "ips": []})";
  const std::chrono::duration<double, std::milli> took = heterok8s::Clock::now() - start;
  std::ofstream(config.value("times", "/dev/null"), std::ios::app)
      << heterok8s::Environment("CNI_COMMAND") << " " << took.count() << "\n";
  return 0;
}
