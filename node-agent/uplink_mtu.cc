#include "node-agent/uplink_mtu.h"

#include <spdlog/spdlog.h>

#include <memory>
#include <vector>

#include "common/netlink/libnl_netlink.h"

namespace heterok8s::agent {
namespace {

// Two dumps of the kernel's tables, which grow with the Pods.
constexpr std::chrono::seconds kReadEvery{1};

absl::StatusOr<int> Read() {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Netlink> netlink, netlink::OpenNetlink());
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Route> routes, netlink->Routes(netlink::kTableMain));
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Link> links, netlink->Links());
  for (Family family : {Family::kV4, Family::kV6}) {
    for (const netlink::Route& route : routes) {
      if (route.destination.length != 0 || route.destination.address.family != family) continue;
      for (const netlink::Link& link : links) {
        if (link.index == route.link) return link.mtu;
      }
    }
  }
  return 0;
}

}  // namespace

int UplinkMtu::Now() {
  std::lock_guard lock(mutex_);
  const auto now = std::chrono::steady_clock::now();
  if (read_at_ != std::chrono::steady_clock::time_point{} && now - read_at_ < kReadEvery) return last_;
  absl::StatusOr<int> mtu = Read();
  read_at_ = now;
  if (mtu.ok()) {
    last_ = *mtu;
  } else {
    spdlog::warn("read the MTU of the default route's device: {}; keeping {}", Message(mtu.status()), last_);
  }
  return last_;
}

}  // namespace heterok8s::agent
