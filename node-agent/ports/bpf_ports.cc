#include "node-agent/ports/bpf_ports.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/sys/file.h"
#include "node-agent/ports/claims.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71  // asm-generic/socket.h, kernel 5.14
#endif

namespace heterok8s::ports {
namespace {

uint64_t Now(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

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

absl::Status EraseLinks(const Kernel& kernel, const hk_pod& pod) {
  for (const hk_pair& pair : pod.pair) {
    for (const hk_addr& self : pair.self) HK_RETURN_IF_ERROR(kernel.links.Erase(self));
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
    pod.announced = false;
    key_of_cookie_[cookie] = pod.ports.pod_key;
  }
  for (const auto& [key, claim] : kernel_->local.All()) {
    auto name = key_of_cookie_.find(key.netns);
    if (name == key_of_cookie_.end()) {
      (void)kernel_->local.Erase(key);
    } else if (claim.sockets > 0) {
      pods_[name->second].reported[FromWire(key)] = claim.since_ns;
    } else {
      leftovers_.push_back({key, claim.changed_ns});
    }
  }
  for (const auto& [number, claims] : kernel_->remote.All()) {
    auto name = key_of_cookie_.find(number.netns);
    if (name == key_of_cookie_.end()) {
      (void)kernel_->remote.Erase(number);
      continue;
    }
    pods_[name->second].remote[{static_cast<Protocol>(number.protocol), number.port}] = FromWire(number, claims);
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
  {
    std::lock_guard lock(mutex_);
    auto pod = pods_.find(ports.pod_key);
    if (pod != pods_.end() && !pod->second.announced) {
      pod->second.announced = true;
      pod->second.reported.clear();  // what is open is told again: the caller has no memory of it
      compare_all_ = true;
    }
  }
  Wake();
  return absl::OkStatus();
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
  Pod& pod = pods_[ports.pod_key];
  if (pod.generation == 0) pod.generation = Now(CLOCK_MONOTONIC);
  pod.ports = ports;
  pod.cookie = cookie;
  key_of_cookie_[cookie] = ports.pod_key;
  wire.generation = pod.generation;
  absl::Status made = [&]() -> absl::Status {
    HK_RETURN_IF_ERROR(kernel_->pod_names.Put(cookie, name));
    if (std::optional<hk_pod> former = kernel_->pods.Get(cookie)) {
      if (std::memcmp(former->pair, wire.pair, sizeof wire.pair) != 0)
        HK_RETURN_IF_ERROR(EraseLinks(*kernel_, *former));
      wire.has_bound_callers = former->has_bound_callers;
    }
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
  // First what rules traffic and makes new entries, then the entries, the name last: cut off anywhere, the next
  // Create() still lists the Pod and the caller removes it again.
  HK_RETURN_IF_ERROR(kernel_->DetachPod(cookie));
  if (std::optional<hk_pod> wire = kernel_->pods.Get(cookie)) HK_RETURN_IF_ERROR(EraseLinks(*kernel_, *wire));
  HK_RETURN_IF_ERROR(kernel_->pods.Erase(cookie));
  for (const auto& [number, claims] : pod.remote) {
    hk_port_key key{.netns = cookie, .port = number.second, .protocol = static_cast<uint8_t>(number.first)};
    HK_RETURN_IF_ERROR(kernel_->remote.Erase(key));
  }
  for (const auto& [key, claim] : kernel_->local.All()) {
    if (key.netns == cookie) HK_RETURN_IF_ERROR(kernel_->local.Erase(key));
  }
  HK_RETURN_IF_ERROR(kernel_->pod_names.Erase(cookie));
  key_of_cookie_.erase(cookie);
  pods_.erase(found);
  return absl::OkStatus();
}

std::vector<std::string> BpfPorts::ListPods() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> keys;
  for (const auto& [key, pod] : pods_) keys.push_back(key);
  return keys;
}

absl::Status BpfPorts::PutRemoteLocked(Pod& pod, PortNumber number, std::vector<PortKey> claims) {
  hk_port_key key{.netns = pod.cookie, .port = number.second, .protocol = static_cast<uint8_t>(number.first)};
  if (claims.empty()) {
    HK_RETURN_IF_ERROR(kernel_->remote.Erase(key));
    pod.remote.erase(number);
    return absl::OkStatus();
  }
  HK_ASSIGN_OR_RETURN(hk_remote wire, ToWire(claims));
  HK_RETURN_IF_ERROR(kernel_->remote.Put(key, wire));
  pod.remote[number] = std::move(claims);
  return absl::OkStatus();
}

absl::Status BpfPorts::AddRemoteLocked(Pod& pod, const PortKey& key) {
  PortNumber number{key.protocol, key.port};
  std::vector<PortKey> claims;
  if (auto found = pod.remote.find(number); found != pod.remote.end()) claims = found->second;
  if (std::find(claims.begin(), claims.end(), key) != claims.end()) return absl::OkStatus();
  claims.push_back(key);
  return PutRemoteLocked(pod, number, std::move(claims));
}

absl::Status BpfPorts::SetRemote(const std::string& pod_key, const PortKey& given, bool owned, uint64_t epoch_ns) {
  PortKey key = Normalized(given);
  std::lock_guard lock(mutex_);
  HK_ASSIGN_OR_RETURN(Pod * pod, FindLocked(pod_key));
  if (!owned) {
    pod->contested.erase(key);
    auto found = pod->remote.find({key.protocol, key.port});
    if (found == pod->remote.end()) return absl::OkStatus();
    std::vector<PortKey> claims = found->second;
    if (std::erase(claims, key) == 0) return absl::OkStatus();
    if (key.protocol == Protocol::kUdp) {  // who binds the port next need not be such a caller
      for (uint8_t is_v6 : {0, 1}) {
        for (uint8_t meaning : {HK_LOCALHOST, HK_POD_IP}) {
          HK_RETURN_IF_ERROR(kernel_->bound_callers.Erase(
              {.netns = pod->cookie, .port = key.port, .is_v6 = is_v6, .meaning = meaning}));
        }
      }
    }
    return PutRemoteLocked(*pod, found->first, std::move(claims));
  }
  for (const auto& [mine, since_ns] : pod->reported) {
    if (since_ns > epoch_ns || !Overlaps(mine, key)) continue;
    pod->contested.insert(key);
    return absl::FailedPreconditionError(fmt::format("{} of the other PU collides with {} of this one, which is older",
                                                     key.ToString(), mine.ToString()));
  }
  return AddRemoteLocked(*pod, key);
}

// After a claim of this PU closed: what the other PU had claimed too is its own now.
void BpfPorts::SettleLocked(Pod& pod) {
  std::erase_if(pod.contested, [&](const PortKey& key) {
    for (const auto& [mine, since_ns] : pod.reported) {
      if (Overlaps(mine, key)) return false;
    }
    absl::Status added = AddRemoteLocked(pod, key);
    if (!added.ok()) spdlog::warn("ports of Pod '{}': {}", pod.ports.pod_key, Message(added));
    return true;
  });
}

absl::Status BpfPorts::ReplaceRemote(const std::string& pod_key, const std::vector<PortKey>& keys) {
  std::lock_guard lock(mutex_);
  HK_ASSIGN_OR_RETURN(Pod * pod, FindLocked(pod_key));
  pod->contested.clear();
  std::map<PortNumber, std::vector<PortKey>> wanted;
  for (const PortKey& given : keys) {
    PortKey key = Normalized(given);
    std::vector<PortKey>& claims = wanted[{key.protocol, key.port}];
    if (std::find(claims.begin(), claims.end(), key) == claims.end()) claims.push_back(key);
  }
  std::map<PortNumber, std::vector<PortKey>> present = pod->remote;
  for (const auto& [number, claims] : present) {
    if (!wanted.contains(number)) HK_RETURN_IF_ERROR(PutRemoteLocked(*pod, number, {}));
  }
  for (auto& [number, claims] : wanted) {
    if (auto found = present.find(number); found != present.end() && found->second == claims) continue;
    HK_RETURN_IF_ERROR(PutRemoteLocked(*pod, number, std::move(claims)));
  }
  return absl::OkStatus();
}

std::vector<OwnedPort> BpfPorts::Local(const std::string& pod_key) const {
  std::lock_guard lock(mutex_);
  std::vector<OwnedPort> owned;
  auto found = pods_.find(pod_key);
  if (found == pods_.end()) return owned;
  int64_t boot_ns = static_cast<int64_t>(Now(CLOCK_REALTIME)) - static_cast<int64_t>(Now(CLOCK_MONOTONIC));
  for (const auto& [key, claim] : kernel_->local.All()) {
    if (key.netns != found->second.cookie || claim.sockets == 0) continue;
    owned.push_back({.key = FromWire(key),
                     .since_unix_ms = (boot_ns + static_cast<int64_t>(claim.since_ns)) / 1'000'000,
                     .sockets = claim.sockets});
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
  return {.opened = kernel_->Stat(HK_STAT_OPENED),
          .closed = kernel_->Stat(HK_STAT_CLOSED),
          .refused_binds = kernel_->Stat(HK_STAT_REFUSED),
          .direct_connects = kernel_->Stat(HK_STAT_DIRECT),
          .lost_events = kernel_->Stat(HK_STAT_LOST)};
}

}  // namespace heterok8s::ports
