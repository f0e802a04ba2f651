#include <fmt/format.h>

#include <memory>

#include "common/netlink/libnl_netlink.h"
#include "common/sys/file.h"
#include "node-agent/podnet/uplink.h"

namespace heterok8s::podnet {
namespace {

absl::StatusOr<bool> IsSet(const std::string& path) {
  HK_ASSIGN_OR_RETURN(std::string text, sys::ReadFile(path));
  return !text.empty() && text[0] != '0';
}

// A device that forwards ignores router advertisements unless accept_ra is 2, so a Node that learned its default route
// from them would lose it some minutes after we start.
absl::Status KeepRouterAdvertisements() {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Netlink> netlink, netlink::OpenNetlink());
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Link> links, netlink->Links());
  for (const netlink::Link& link : links) {
    if (!link.inet6 || link.inet6->accept_ra != 1 || link.kind == "veth" || link.name == "lo") continue;
    absl::Status set = sys::SetSysctl(fmt::format("net/ipv6/conf/{}/accept_ra", link.name), "2");
    // A device may go while we look.
    if (!set.ok() && !absl::IsNotFound(set)) return set;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status EnableForwarding() {
  // Writing the value that is there already is not free of effects: it resets other settings of every device.
  HK_ASSIGN_OR_RETURN(bool v4, IsSet("/proc/sys/net/ipv4/ip_forward"));
  if (!v4) HK_RETURN_IF_ERROR(sys::SetSysctl("net.ipv4.ip_forward", "1"));
  absl::StatusOr<bool> v6 = IsSet("/proc/sys/net/ipv6/conf/all/forwarding");
  if (absl::IsNotFound(v6.status())) return absl::OkStatus();  // a kernel without IPv6
  if (!v6.ok()) return v6.status();
  if (*v6) return absl::OkStatus();
  HK_RETURN_IF_ERROR(KeepRouterAdvertisements());
  return sys::SetSysctl("net.ipv6.conf.all.forwarding", "1");
}

}  // namespace heterok8s::podnet
