#include "heteroctl/lab/topology.h"

#include <fmt/format.h>

#include <map>
#include <vector>

#include "common/sys/file.h"
#include "common/sys/netns.h"
#include "common/sys/process.h"

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

absl::Status WireDpu(const Layout& layout, const sys::NetnsRef& dpu) {
  HK_RETURN_IF_ERROR(Ip(
      dpu, {},
      fmt::format(R"(link add node0 type veth peer name node0 netns {host_ns}
link add uplink0 type veth peer name eth0 netns {client_ns}
link set node0 up
link set uplink0 up
address add {dpu}/24 dev node0
address add {dpu6}/64 dev node0 nodad
address add 198.51.100.1/24 dev uplink0
address add fd00:100::1/64 dev uplink0 nodad
route add {pods} via {host}
route add {pods6} via {host6}
rule add pref 31000 iif node0 to {pods} lookup main suppress_prefixlength 31
rule add pref 31001 iif node0 to {pods} unreachable
)",
                  fmt::arg("host_ns", layout.Netns(Place::kHost)), fmt::arg("client_ns", layout.Netns(Place::kClient)),
                  fmt::arg("dpu", kDpuAddress), fmt::arg("dpu6", kDpuAddress6), fmt::arg("host", kHostAddress),
                  fmt::arg("host6", kHostAddress6), fmt::arg("pods", kPodRange), fmt::arg("pods6", kPodRange6))));
  return Ip(dpu, {"-6"},
            fmt::format(R"(rule add pref 31000 iif node0 to {pods} lookup main suppress_prefixlength 127
rule add pref 31001 iif node0 to {pods} unreachable
)",
                        fmt::arg("pods", kPodRange6)));
}

absl::Status WireEdge(const sys::NetnsRef& ns, const std::string& device, const std::string& address,
                      const std::string& address6, const std::string& gateway, const std::string& gateway6) {
  return Ip(ns, {},
            fmt::format(R"(link set {device} up
address add {address}/24 dev {device}
address add {address6}/64 dev {device} nodad
route add default via {gateway}
route add default via {gateway6}
)",
                        fmt::arg("device", device), fmt::arg("address", address), fmt::arg("address6", address6),
                        fmt::arg("gateway", gateway), fmt::arg("gateway6", gateway6)));
}

}  // namespace

absl::Status MakeTopology(const Layout& layout) {
  std::map<Place, sys::NetnsRef> ns;
  for (Place place : kPlaces) {
    HK_ASSIGN_OR_RETURN(sys::NetnsRef made, sys::CreateNetns(layout.Netns(place)));
    HK_RETURN_IF_ERROR(SetForwarding(made, place != Place::kClient));
    ns.emplace(place, std::move(made));
  }
  HK_RETURN_IF_ERROR(WireDpu(layout, ns.at(Place::kDpu)));
  HK_RETURN_IF_ERROR(WireEdge(ns.at(Place::kHost), "node0", kHostAddress, kHostAddress6, kDpuAddress, kDpuAddress6));
  return WireEdge(ns.at(Place::kClient), "eth0", kClientAddress, kClientAddress6, "198.51.100.1", "fd00:100::1");
}

}  // namespace heterok8s::lab
