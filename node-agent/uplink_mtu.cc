#include "node-agent/uplink_mtu.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "common/netlink/libnl_netlink.h"

namespace heterok8s::agent {
namespace {

// Soon enough for whoever changes a device and then makes a Pod; two dumps of tables that grow with the Pods.
constexpr std::chrono::seconds kReadEvery{1};

absl::StatusOr<int> Read() {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Netlink> netlink, netlink::OpenNetlink());
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Route> routes, netlink->Routes(netlink::kTableMain));
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Link> links, netlink->Links());
  for (Family family : {Family::kV4, Family::kV6}) {
    int smallest = 0;
    std::optional<uint32_t> metric;  // of the route that counts, which may have several next hops
    for (const netlink::Route& route : routes) {
      if (route.destination.length != 0 || route.destination.address.family != family) continue;
      if (metric && *metric != route.metric) continue;
      for (const netlink::Link& link : links) {
        if (link.index != route.link) continue;
        metric = route.metric;
        smallest = smallest == 0 ? link.mtu : std::min(smallest, link.mtu);
      }
    }
    if (smallest != 0) return smallest;
  }
  return 0;
}

}  // namespace

UplinkMtu::~UplinkMtu() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stopped_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void UplinkMtu::Start() {
  ReadNow();
  thread_ = std::thread([this] {
    std::unique_lock lock(mutex_);
    while (!stopped_.wait_for(lock, kReadEvery, [this] { return stop_; })) {
      lock.unlock();
      ReadNow();
      lock.lock();
    }
  });
}

void UplinkMtu::ReadNow() {
  absl::StatusOr<int> mtu = Read();
  if (mtu.ok()) {
    last_ = *mtu;
  } else {
    spdlog::warn("read the MTU of the default route's device: {}; keeping {}", Message(mtu.status()), last_.load());
  }
}

}  // namespace heterok8s::agent
