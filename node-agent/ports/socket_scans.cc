// Looks at a Pod's sockets, for what only an iterator may do: UDP sockets into the sockhash, free slots of it to
// sockets that found none, and an owner to sockets that found no room.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "common/sys/netns.h"
#include "node-agent/ports/bpf_ports.h"
#include "node-agent/ports/clock.h"
#include "node-agent/ports/pace.h"

namespace heterok8s::ports {

// Only an iterator may put a UDP socket into the sockhash. Until then nobody on the other PU knows of the port.
bool BpfPorts::NeedsScan(const Pod& pod, const PortKey& key) {
  const std::vector<IpAddress>& addresses = pod.ports.addresses;
  return key.protocol == Protocol::kUdp &&
         (key.address.is_loopback() || std::find(addresses.begin(), addresses.end(), key.address) != addresses.end());
}

// One Pod, in turn: a scan looks at all sockets of its Pod.
void BpfPorts::InsertUdp() {
  const uint64_t now = MonotonicNs();
  std::erase_if(scans_paid_at_, [&](const auto& entry) { return now >= entry.second; });
  auto next = udp_inserts_.upper_bound(last_insert_);
  for (size_t tried = 0; tried < udp_inserts_.size(); ++tried, ++next) {
    if (next == udp_inserts_.end()) next = udp_inserts_.begin();
    if (!MayScan(*next)) continue;
    last_insert_ = *next;
    udp_inserts_.erase(next);
    ScanInto(last_insert_, /*tcp=*/false);
    Tell();
    return;
  }
}

bool BpfPorts::MayScan(uint64_t cookie) const {
  auto paid_at = scans_paid_at_.find(cookie);
  return paid_at == scans_paid_at_.end() || paid_at->second <= MonotonicNs() + kScanCreditNs;
}

void BpfPorts::ScanInto(uint64_t cookie, bool tcp) {
  std::string path;
  {
    std::lock_guard lock(mutex_);
    auto name = key_of_cookie_.find(cookie);
    if (name == key_of_cookie_.end()) return;
    path = pods_[name->second].ports.netns_path;
  }
  const uint64_t began = MonotonicNs();
  absl::Status scanned = [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(path));
    return sys::InNetns(ns, [&] { return tcp ? kernel_->ScanTcp() : kernel_->ScanUdp(); });
  }();
  uint64_t& paid_at = scans_paid_at_[cookie];
  paid_at = std::max(paid_at, began) + kScanShare * (MonotonicNs() - began);
  // The namespace went away with its sockets, or the kernel is out of memory. The port is reported all the same.
  if (!scanned.ok()) {
    spdlog::warn("ports: {}; sockets bound to one address stay unreachable from the other PU", Message(scanned));
  }
}

// A Pod where slots come free all the time is looked at all the same, and once more for the last of them.
void BpfPorts::LookForSlots(uint64_t cookie, uint64_t at_ns) {
  auto [look, is_first] = slots_free_.try_emplace(cookie, Look{.at_ns = at_ns, .again_ns = at_ns});
  look->second.again_ns = std::max(look->second.again_ns, at_ns);
}

void BpfPorts::FillFreeSlots() {
  const uint64_t now = MonotonicNs();
  auto look = std::find_if(slots_free_.begin(), slots_free_.end(),
                           [&](const auto& entry) { return now >= entry.second.at_ns && MayScan(entry.first); });
  if (look == slots_free_.end()) return;
  ScanInto(look->first, /*tcp=*/true);
  ScanInto(look->first, /*tcp=*/false);
  look->second.at_ns = look->second.again_ns;
  if (look->second.again_ns <= now) slots_free_.erase(look);
}

// Sockets that no hook could refuse get their owner when there is room, whoever made it: the same scan finds them as
// finds those that have no slot. The first look is at all Pods: a former heterod may have left some.
void BpfPorts::OwnUnowned() {
  const uint64_t ever = kernel_->Stat(HK_STAT_UNOWNED), now = MonotonicNs();
  std::lock_guard lock(mutex_);
  if (std::exchange(unowned_seen_, ever) != ever) {
    for (const auto& [cookie, pod_key] : key_of_cookie_) unowned_.insert(cookie);
  }
  if (now < unowned_after_ns_) return;
  std::erase_if(unowned_, [&](uint64_t cookie) {
    const std::optional<hk_share> share = kernel_->shares.Get(cookie);
    if (!share.has_value() || share->unowned == 0) return true;
    if (kernel_->HasRoom(*share)) LookForSlots(cookie, now);
    return false;
  });
  unowned_after_ns_ = now + kUnownedNs;
}

}  // namespace heterok8s::ports
