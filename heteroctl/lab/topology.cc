#include "heteroctl/lab/topology.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mount.h>

#include <cerrno>
#include <map>
#include <vector>

#include "common/sys/file.h"
#include "common/sys/netns.h"
#include "common/sys/process.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::lab {
namespace {

// One line per change, as one would type it after `ip` or `ip -6`.
absl::Status Ip(const sys::NetnsRef& ns, const std::vector<std::string>& family, const std::string& lines) {
  std::vector<std::string> argv = {"ip"};
  argv.insert(argv.end(), family.begin(), family.end());
  argv.insert(argv.end(), {"-batch", "-"});
  return sys::InNetns(ns, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(sys::RunResult result,
                        sys::Run({.argv = argv, .stdin_text = lines, .deadline = std::chrono::seconds(10)}));
    if (result.exit_code == 0) return absl::OkStatus();
    return absl::InternalError(fmt::format("ip -batch in '{}': {}", ns.path(), result.stderr_text));
  });
}

// Before any device is made: devices inherit conf/default.
absl::Status SetForwarding(const sys::NetnsRef& ns, bool router) {
  return sys::InNetns(ns, [&]() -> absl::Status {
    std::vector<std::pair<std::string, std::string>> sysctls = {
        {"net.ipv6.conf.default.accept_dad", "0"},  // addresses are usable at once
        {"net.ipv6.conf.default.accept_ra", "0"},
        {"net.ipv4.conf.all.rp_filter", "0"},  // a split Pod's packets may take the other PU's way back
        {"net.ipv4.conf.default.rp_filter", "0"},
    };
    if (router) {
      sysctls.insert(sysctls.end(), {{"net.ipv4.ip_forward", "1"},
                                     {"net.ipv6.conf.all.forwarding", "1"},
                                     {"net.ipv6.conf.default.forwarding", "1"}});
    }
    for (const auto& [name, value] : sysctls) HK_RETURN_IF_ERROR(sys::SetSysctl(name, value));
    return absl::OkStatus();
  });
}

// The namespace that we are in, by a name that processes in the lab can be given.
absl::Status KeepMachineNetns(const Layout& layout) {
  const std::string path = layout.MachineNetns();
  sys::UniqueFd file(open(path.c_str(), O_RDONLY | O_CREAT | O_CLOEXEC, 0444));
  if (!file.valid()) return ErrnoToStatus(errno, fmt::format("make '{}'", path));
  if (mount("/proc/thread-self/ns/net", path.c_str(), nullptr, MS_BIND, nullptr) == 0) return absl::OkStatus();
  return ErrnoToStatus(errno, fmt::format("bind network namespace at '{}'", path));
}

// A cable between the DPU and the outside: of its own, or into the bridge where several meet.
std::string UplinkLines(const Layout& layout, bool several) {
  const std::string outside = Layout{layout.First()}.Netns(Place::kClient);
  if (!several) return fmt::format("link add uplink0 type veth peer name eth0 netns {}\n", outside);
  return fmt::format("link add uplink0 type veth peer name node{} netns {}\n", layout.Node(), outside);
}

// What the other Nodes have is behind their DPUs.
std::string RoutesToOthers(int own) {
  std::string lines;
  for (int node = 1; node <= kMaxNodes; ++node) {
    if (node == own) continue;
    const Addresses other = AddressesOf(node);
    for (const std::string& range : {other.nodes, other.pods}) {
      lines += fmt::format("route add {} via {}\n", range, other.uplink);
    }
    for (const std::string& range : {other.nodes6, other.pods6}) {
      lines += fmt::format("route add {} via {}\n", range, other.uplink6);
    }
  }
  return lines;
}

absl::Status WireDpu(const Layout& layout, const Addresses& at, const sys::NetnsRef& dpu, bool several) {
  HK_RETURN_IF_ERROR(
      Ip(dpu, {},
         fmt::format("link add node0 type veth peer name node0 netns {}\n", layout.Netns(Place::kHost)) +
             UplinkLines(layout, several) +
             fmt::format(R"(link set node0 up
link set uplink0 up
address add {dpu}/28 dev node0
address add {dpu6}/64 dev node0 nodad
address add {uplink}/24 dev uplink0
address add {uplink6}/64 dev uplink0 nodad
route add {pods} via {host}
route add {pods6} via {host6}
rule add pref 31000 iif node0 to {pods} lookup main suppress_prefixlength 31
rule add pref 31001 iif node0 to {pods} unreachable
)",
                         fmt::arg("dpu", at.dpu), fmt::arg("dpu6", at.dpu6), fmt::arg("uplink", at.uplink),
                         fmt::arg("uplink6", at.uplink6), fmt::arg("host", at.host), fmt::arg("host6", at.host6),
                         fmt::arg("pods", at.pods), fmt::arg("pods6", at.pods6)) +
             (several ? RoutesToOthers(layout.Node()) : "")));
  return Ip(dpu, {"-6"},
            fmt::format(R"(rule add pref 31000 iif node0 to {pods} lookup main suppress_prefixlength 127
rule add pref 31001 iif node0 to {pods} unreachable
)",
                        fmt::arg("pods", at.pods6)));
}

absl::Status WireEdge(const sys::NetnsRef& ns, const std::string& device, const std::string& address,
                      const std::string& address6, const std::string& gateway, const std::string& gateway6) {
  return Ip(ns, {},
            fmt::format(R"(link set {device} up
address add {address} dev {device}
address add {address6} dev {device} nodad
route add default via {gateway}
route add default via {gateway6}
)",
                        fmt::arg("device", device), fmt::arg("address", address), fmt::arg("address6", address6),
                        fmt::arg("gateway", gateway), fmt::arg("gateway6", gateway6)));
}

}  // namespace

Addresses AddressesOf(int node) {
  const int i = node - 1;
  const std::string six = i == 0 ? "fd00:2" : fmt::format("fd00:2:0:{:x}", i);
  return {.host = fmt::format("192.0.2.{}", 16 * i + 1),
          .dpu = fmt::format("192.0.2.{}", 16 * i + 2),
          .uplink = fmt::format("198.51.100.{}", 10 * i + 1),
          .client = "198.51.100.2",
          .nodes = fmt::format("192.0.2.{}/28", 16 * i),
          .pods = fmt::format("10.{}.0.0/16", 88 + i),
          .host6 = six + "::1",
          .dpu6 = six + "::2",
          .uplink6 = fmt::format("fd00:100::{:x}", 0x10 * i + 1),
          .client6 = "fd00:100::2",
          .nodes6 = six + "::/64",
          .pods6 = fmt::format("fd00:{:x}::/64", 0x88 + i)};
}

absl::Status MakeTopology(const Layout& layout, bool several) {
  const bool first = layout.Node() == 1;
  const Addresses at = AddressesOf(layout.Node());
  std::map<Place, sys::NetnsRef> ns;
  for (Place place : kPlaces) {
    if (place == Place::kClient && !first) continue;
    HK_ASSIGN_OR_RETURN(sys::NetnsRef made, sys::CreateNetns(layout.Netns(place)));
    HK_RETURN_IF_ERROR(SetForwarding(made, place != Place::kClient));
    ns.emplace(place, std::move(made));
  }
  if (!first) {
    HK_ASSIGN_OR_RETURN(sys::NetnsRef outside, sys::NetnsRef::Open(Layout{layout.First()}.Netns(Place::kClient)));
    ns.emplace(Place::kClient, std::move(outside));
  }
  if (first && several) HK_RETURN_IF_ERROR(KeepMachineNetns(layout));
  if (first && several)
    HK_RETURN_IF_ERROR(Ip(ns.at(Place::kClient), {}, "link add eth0 type bridge forward_delay 0\n"));
  HK_RETURN_IF_ERROR(WireDpu(layout, at, ns.at(Place::kDpu), several));
  HK_RETURN_IF_ERROR(WireEdge(ns.at(Place::kHost), "node0", at.host + "/28", at.host6 + "/64", at.dpu, at.dpu6));
  if (several) {
    HK_RETURN_IF_ERROR(Ip(ns.at(Place::kClient), {},
                          fmt::format("link set node{0} master eth0\nlink set node{0} up\n", layout.Node())));
  }
  if (!first) return absl::OkStatus();
  HK_RETURN_IF_ERROR(
      WireEdge(ns.at(Place::kClient), "eth0", at.client + "/24", at.client6 + "/64", at.uplink, at.uplink6));
  return several ? Ip(ns.at(Place::kClient), {}, RoutesToOthers(1)) : absl::OkStatus();
}

}  // namespace heterok8s::lab
