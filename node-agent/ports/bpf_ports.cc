#include "node-agent/ports/bpf_ports.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "common/sys/file.h"
#include "node-agent/ports/claims.h"
#include "node-agent/ports/clock.h"
#include "node-agent/ports/layout.h"
#include "node-agent/ports/pace.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71  // asm-generic/socket.h, kernel 5.14
#endif

namespace heterok8s::ports {
namespace {

// For what takes the event thread less than a millisecond, unless the machine starves it.
constexpr std::chrono::seconds kTellPatience{20};

absl::StatusOr<uint64_t> CookieHere() {
  sys::UniqueFd fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  if (!fd.valid() || getsockopt(fd.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) != 0) {
    return ErrnoToStatus(errno, "read the cookie of a network namespace");
  }
  return cookie;
}

// A multipath TCP listener's inner socket may not enter a sockhash, so one bound to localhost could not be reached from
// the other PU. Where it is off, programs that ask for it (Go's net.Listen) get TCP instead.
absl::Status DisableMultipathTcp() {
  absl::Status status = sys::SetSysctl("net.mptcp.enabled", "0");
  return absl::IsNotFound(status) ? absl::OkStatus() : status;  // a kernel without it
}

// Another Pod may have them by now: a host that lost power gives out again what it does not remember.
absl::Status EraseLinks(const Kernel& kernel, uint64_t cookie, const hk_pod& pod) {
  for (const hk_pair& pair : pod.pair) {
    for (const hk_addr& self : pair.self) {
      const std::optional<hk_link> link = kernel.links.Get(self);
      if (link.has_value() && link->netns == cookie) HK_RETURN_IF_ERROR(kernel.links.Erase(self));
    }
  }
  return absl::OkStatus();
}

// What is right already stays: programs have written to it, and calls go on.
absl::Status PutLinks(const Kernel& kernel, uint64_t cookie, const hk_pod& pod) {
  for (uint32_t meaning : {HK_LOCALHOST, HK_POD_IP}) {
    for (const hk_addr& self : pod.pair[meaning].self) {
      const std::optional<hk_link> link = kernel.links.Get(self);
      if (link.has_value() && link->netns == cookie && link->meaning == meaning) continue;
      HK_RETURN_IF_ERROR(kernel.links.Put(self, {.netns = cookie, .meaning = meaning}));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ports>> NewBpfPorts(Options options, Listener listener) {
  HK_ASSIGN_OR_RETURN(std::unique_ptr<Kernel> kernel, Kernel::Load(options));
  auto ports = std::make_unique<BpfPorts>(std::move(kernel), std::move(listener));
  HK_RETURN_IF_ERROR(ports->Start());
  return ports;
}

absl::StatusOr<BpfPorts::Pod*> BpfPorts::FindLocked(const std::string& pod_key) {
  auto found = pods_.find(pod_key);
  if (found == pods_.end()) return absl::NotFoundError(fmt::format("ports: no Pod '{}'", pod_key));
  return &found->second;
}

// What an earlier heterod pinned. Its listener was told of every claim, or will ask Local(): nothing is reported until
// AddPod is called or a socket changes.
void BpfPorts::AdoptLocked() {
  for (const auto& [cookie, name] : kernel_->pod_names.All()) {
    std::optional<hk_pod> wire = kernel_->pods.Get(cookie);
    if (!wire.has_value()) {  // AddPod was cut off between two maps
      (void)kernel_->pod_names.Erase(cookie);
      continue;
    }
    Pod& pod = pods_[name.pod_key];
    pod.ports = FromWire(*wire, name);
    pod.cookie = cookie;
    pod.generation = wire->generation;
    // The heterod before may have been told that more has changed, and died before it looked.
    pod.behind_until_ns = pod.compare_at_ns = MonotonicNs() + HK_WINDOW_NS;
    key_of_cookie_[cookie] = pod.ports.pod_key;
  }
  for (const auto& [key, claim] : kernel_->local.All()) {
    auto name = key_of_cookie_.find(key.netns);
    if (name == key_of_cookie_.end()) {
      (void)kernel_->Order(HK_FORGET_CLAIM, key);
    } else if (IsOpen(claim)) {
      pods_[name->second].reported[{static_cast<Protocol>(key.protocol), key.port}][FromWire(key)] = claim.since_ns;
    }
  }
  for (const auto& [cookie, share] : kernel_->shares.All()) {
    if (!key_of_cookie_.contains(cookie)) (void)kernel_->Order(HK_DROP_SHARE, {.netns = cookie});
  }
  for (const auto& [key, bits] : kernel_->callers.All()) {
    if (!key_of_cookie_.contains(key.netns)) (void)kernel_->callers.Erase(key);
  }
  for (const auto& [number, claims] : kernel_->remote.All()) {
    auto name = key_of_cookie_.find(number.netns);
    if (name == key_of_cookie_.end()) {
      (void)kernel_->remote.Erase(number);
      continue;
    }
    Pod& pod = pods_[name->second];
    std::set<PortKey> keys = FromWire(number, claims);
    pod.remote_claims += keys.size();
    pod.remote[{static_cast<Protocol>(number.protocol), number.port}] = std::move(keys);
    if (pod.remote.size() > HK_SHARE_GUARANTEED) ++remote_burst_;
  }
}

absl::Status BpfPorts::AddPod(const PodPorts& ports) {
  std::string context = fmt::format("ports of Pod '{}'", ports.pod_key);
  absl::StatusOr<sys::NetnsRef> ns = sys::NetnsRef::Open(ports.netns_path);
  if (!ns.ok()) return Annotate(ns.status(), context);
  absl::Status added = sys::InNetns(*ns, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(uint64_t cookie, CookieHere());
    HK_RETURN_IF_ERROR(DisableMultipathTcp());
    {
      std::lock_guard lock(mutex_);
      HK_RETURN_IF_ERROR(AddLocked(ports, *ns, cookie));
    }
    // The hooks see every socket from here on; these are the ones that were there before.
    HK_RETURN_IF_ERROR(kernel_->ScanTcp());
    return kernel_->ScanUdp();
  });
  if (!added.ok()) return Annotate(added, context);
  Wake();
  std::unique_lock lock(mutex_);
  auto pod = pods_.find(ports.pod_key);
  if (pod == pods_.end() || std::exchange(pod->second.announced, true)) return absl::OkStatus();
  if (pod->second.is_new ? !HasClaims(pod->second.cookie) : pod->second.reported.empty()) return absl::OkStatus();
  tell_again_.insert(ports.pod_key);
  Wake();
  const auto is_told = [&] { return !tell_again_.contains(ports.pod_key) && !telling_again_.contains(ports.pod_key); };
  if (!told_again_.wait_for(lock, kTellPatience, is_told)) {
    spdlog::warn("ports of Pod '{}': what it has open is told later", ports.pod_key);
  }
  return absl::OkStatus();
}

bool BpfPorts::HasClaims(uint64_t cookie) const {
  const std::optional<hk_share> share = kernel_->shares.Get(cookie);
  return !share.has_value() || share->used > 0;
}

// A walk passes the room of all Pods.
std::vector<std::pair<hk_claim_key, hk_local>> BpfPorts::OpenClaims(uint64_t cookie) const {
  std::vector<std::pair<hk_claim_key, hk_local>> open;
  if (!HasClaims(cookie)) return open;
  for (const auto& [key, claim] : kernel_->local.All()) {
    if (key.netns == cookie && IsOpen(claim)) open.emplace_back(key, claim);
  }
  return open;
}

absl::Status BpfPorts::AddLocked(const PodPorts& ports, const sys::NetnsRef& ns, uint64_t cookie) {
  HK_ASSIGN_OR_RETURN(hk_pod wire, ToWire(ports));
  HK_ASSIGN_OR_RETURN(hk_pod_name name, NameToWire(ports));
  if (auto other = key_of_cookie_.find(cookie); other != key_of_cookie_.end() && other->second != ports.pod_key) {
    return absl::AlreadyExistsError(
        fmt::format("'{}' is the network namespace of Pod '{}'", ports.netns_path, other->second));
  }
  if (auto former = pods_.find(ports.pod_key); former != pods_.end() && former->second.cookie != cookie) {
    HK_RETURN_IF_ERROR(RemoveLocked(ports.pod_key));  // the sandbox was made anew
  }
  if (gone_.contains(cookie)) HK_RETURN_IF_ERROR(SweepNowLocked(cookie));
  Pod& pod = pods_[ports.pod_key];
  if (pod.generation == 0) {
    pod.generation = MonotonicNs();
    pod.is_new = true;
  }
  pod.ports = ports;
  pod.cookie = cookie;
  key_of_cookie_[cookie] = ports.pod_key;
  wire.generation = pod.generation;
  absl::Status made = [&]() -> absl::Status {
    HK_RETURN_IF_ERROR(kernel_->pod_names.Put(cookie, name));
    if (std::optional<hk_pod> former = kernel_->pods.Get(cookie)) {
      if (std::memcmp(former->pair, wire.pair, sizeof wire.pair) != 0)
        HK_RETURN_IF_ERROR(EraseLinks(*kernel_, cookie, *former));
      wire.has_bound_callers = former->has_bound_callers;
    }
    if (!kernel_->shares.Get(cookie).has_value()) HK_RETURN_IF_ERROR(kernel_->shares.Put(cookie, {}, BPF_NOEXIST));
    HK_RETURN_IF_ERROR(PutLinks(*kernel_, cookie, wire));
    HK_RETURN_IF_ERROR(kernel_->pods.Put(cookie, wire));
    return kernel_->AttachPod(cookie, ns.fd());
  }();
  if (made.ok()) return absl::OkStatus();
  if (absl::Status undone = RemoveLocked(ports.pod_key); !undone.ok()) spdlog::warn("ports: undo: {}", Message(undone));
  return made;
}

absl::Status BpfPorts::RemovePod(const std::string& pod_key) {
  std::lock_guard lock(mutex_);
  return RemoveLocked(pod_key);
}

absl::Status BpfPorts::RemoveLocked(const std::string& pod_key) {
  auto found = pods_.find(pod_key);
  if (found == pods_.end()) return absl::OkStatus();
  Pod& pod = found->second;
  uint64_t cookie = pod.cookie;
  // First what rules traffic and makes new entries, the name last: the next Create() still lists a Pod that was cut off
  // before its entry in `pods` went, and forgets what is left of any other.
  HK_RETURN_IF_ERROR(kernel_->DetachPod(cookie));
  if (std::optional<hk_pod> wire = kernel_->pods.Get(cookie)) HK_RETURN_IF_ERROR(EraseLinks(*kernel_, cookie, *wire));
  HK_RETURN_IF_ERROR(kernel_->pods.Erase(cookie));
  for (const auto& [number, claims] : pod.remote) {
    hk_port_key key{.netns = cookie, .port = number.second, .protocol = static_cast<uint8_t>(number.first)};
    HK_RETURN_IF_ERROR(kernel_->remote.Erase(key));
  }
  if (pod.remote.size() > HK_SHARE_GUARANTEED) remote_burst_ -= pod.remote.size() - HK_SHARE_GUARANTEED;
  pod.remote.clear();
  HK_RETURN_IF_ERROR(kernel_->pod_names.Erase(cookie));
  key_of_cookie_.erase(cookie);
  pods_.erase(found);
  gone_[cookie] = MonotonicNs() + kGoneNs;
  Wake();
  return absl::OkStatus();
}

std::vector<std::string> BpfPorts::ListPods() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> keys;
  for (const auto& [key, pod] : pods_) keys.push_back(key);
  return keys;
}

std::vector<OwnedPort> BpfPorts::Local(const std::string& pod_key) const {
  std::lock_guard lock(mutex_);
  std::vector<OwnedPort> owned;
  auto found = pods_.find(pod_key);
  if (found == pods_.end()) return owned;
  int64_t boot_ns = static_cast<int64_t>(RealNs()) - static_cast<int64_t>(MonotonicNs());
  for (const auto& [key, claim] : OpenClaims(found->second.cookie)) {
    owned.push_back({.key = FromWire(key),
                     .since_unix_ms = (boot_ns + static_cast<int64_t>(claim.since_ns)) / 1'000'000,
                     .sockets = HK_SOCKETS(claim.life)});
  }
  std::sort(owned.begin(), owned.end(), [](const OwnedPort& a, const OwnedPort& b) { return a.key < b.key; });
  return owned;
}

std::vector<PortKey> BpfPorts::Remote(const std::string& pod_key) const {
  std::lock_guard lock(mutex_);
  std::vector<PortKey> keys;
  if (auto found = pods_.find(pod_key); found != pods_.end()) {
    for (const auto& [number, claims] : found->second.remote) keys.insert(keys.end(), claims.begin(), claims.end());
  }
  return keys;
}

std::optional<Refusal> BpfPorts::LastRefusal(const std::string& pod_key) const {
  std::lock_guard lock(mutex_);
  auto found = pods_.find(pod_key);
  return found == pods_.end() ? std::nullopt : found->second.last_refusal;
}

Ports::Counters BpfPorts::counters() const {
  Counters counters{.opened = kernel_->Stat(HK_STAT_OPENED),
                    .closed = kernel_->Stat(HK_STAT_CLOSED),
                    .direct_connects = kernel_->Stat(HK_STAT_DIRECT),
                    .lost_events = kernel_->Stat(HK_STAT_LOST),
                    .refused_binds = kernel_->Stat(HK_STAT_REFUSED),
                    .refused_over_share = kernel_->Stat(HK_STAT_NO_ROOM),
                    .unowned_over_share = kernel_->Stat(HK_STAT_UNOWNED)};
  std::lock_guard lock(mutex_);
  counters.comparisons = comparisons_;
  for (const auto& [pod_key, pod] : pods_) {
    for (const auto& [number, claims] : pod.reported) counters.owned += claims.size();
  }
  return counters;
}

}  // namespace heterok8s::ports
