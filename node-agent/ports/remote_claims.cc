// What the other PU owns.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "node-agent/ports/bpf_ports.h"
#include "node-agent/ports/claims.h"

namespace heterok8s::ports {
namespace {

static_assert(kMostClaimsOfAPod == HK_SHARE_MOST);

}  // namespace

// The other PU obeys the same limits. What is refused here is the list of one that does not.
absl::Status BpfPorts::RoomForRemoteLocked(const Pod& pod) const {
  if (pod.remote_claims >= kMostClaimsOfAPod) {
    return absl::ResourceExhaustedError(
        fmt::format("the other PU reports more than {} ports of Pod '{}'", kMostClaimsOfAPod, pod.ports.pod_key));
  }
  return absl::OkStatus();
}

absl::Status BpfPorts::PutRemoteLocked(Pod& pod, PortNumber number, std::set<PortKey> claims) {
  hk_port_key key{.netns = pod.cookie, .port = number.second, .protocol = static_cast<uint8_t>(number.first)};
  auto found = pod.remote.find(number);
  const bool beyond = pod.remote.size() >= HK_SHARE_GUARANTEED + (found == pod.remote.end() ? 0u : 1u);
  if (claims.empty()) {
    HK_RETURN_IF_ERROR(kernel_->remote.Erase(key));
    if (found == pod.remote.end()) return absl::OkStatus();
    if (beyond) --remote_burst_;
    pod.remote_claims -= found->second.size();
    pod.remote.erase(found);
    return absl::OkStatus();
  }
  if (found == pod.remote.end() && beyond && remote_burst_ >= HK_REMOTE_BURST) {
    return absl::ResourceExhaustedError(
        fmt::format("no room for more than {} ports of the other PU", pod.remote.size()));
  }
  // Beyond HK_REMOTE_CLAIMS the entry stays as it is.
  const bool same =
      found != pod.remote.end() && found->second.size() > HK_REMOTE_CLAIMS && claims.size() > HK_REMOTE_CLAIMS;
  if (!same) HK_RETURN_IF_ERROR(kernel_->remote.Put(key, ToWire(claims)));
  if (found == pod.remote.end()) {
    if (beyond) ++remote_burst_;
    found = pod.remote.try_emplace(number).first;
  }
  pod.remote_claims = pod.remote_claims - found->second.size() + claims.size();
  found->second = std::move(claims);
  return absl::OkStatus();
}

absl::Status BpfPorts::AddRemoteLocked(Pod& pod, const PortKey& key) {
  PortNumber number{key.protocol, key.port};
  std::set<PortKey> claims;
  if (auto found = pod.remote.find(number); found != pod.remote.end()) {
    if (found->second.contains(key)) return absl::OkStatus();
    if (found->second.size() > HK_REMOTE_CLAIMS) {  // in force already: nothing to tell the kernel, nothing to copy
      found->second.insert(key);
      ++pod.remote_claims;
      return absl::OkStatus();
    }
    claims = found->second;
  }
  claims.insert(key);
  return PutRemoteLocked(pod, number, std::move(claims));
}

absl::Status BpfPorts::DropRemoteLocked(Pod& pod, const PortKey& key) {
  auto found = pod.remote.find({key.protocol, key.port});
  if (found == pod.remote.end() || !found->second.contains(key)) return absl::OkStatus();
  if (found->second.size() > HK_REMOTE_CLAIMS + 1) {
    found->second.erase(key);
    --pod.remote_claims;
    return absl::OkStatus();
  }
  if (key.protocol == Protocol::kUdp) {  // who binds the port next need not be a caller that bound itself
    HK_RETURN_IF_ERROR(kernel_->Order(HK_FORGET_CALLERS, {.netns = pod.cookie, .port = key.port}).status());
  }
  std::set<PortKey> claims = found->second;
  claims.erase(key);
  return PutRemoteLocked(pod, found->first, std::move(claims));
}

absl::Status BpfPorts::SetRemote(const std::string& pod_key, const PortKey& given, bool owned, uint64_t epoch_ns) {
  PortKey key = Normalized(given);
  PortNumber number{key.protocol, key.port};
  std::lock_guard lock(mutex_);
  HK_ASSIGN_OR_RETURN(Pod * pod, FindLocked(pod_key));
  auto contested = pod->contested.find(number);
  const bool is_contested = contested != pod->contested.end() && contested->second.contains(key);
  if (!owned) {
    if (is_contested) {
      --pod->remote_claims;
      contested->second.erase(key);
      if (contested->second.empty()) pod->contested.erase(contested);
    }
    return DropRemoteLocked(*pod, key);
  }
  if (auto reported = pod->reported.find(number); reported != pod->reported.end()) {
    for (const auto& [mine, since_ns] : reported->second) {
      if (since_ns > epoch_ns || !Overlaps(mine, key)) continue;
      HK_RETURN_IF_ERROR(DropRemoteLocked(*pod, key));  // it was in force before the other PU closed and reopened it
      if (!is_contested && RoomForRemoteLocked(*pod).ok()) {
        pod->contested[number].insert(key);
        ++pod->remote_claims;
      }
      return absl::FailedPreconditionError(fmt::format(
          "{} of the other PU collides with {} of this one, which is older", key.ToString(), mine.ToString()));
    }
  }
  if (auto found = pod->remote.find(number); found != pod->remote.end() && found->second.contains(key)) {
    return absl::OkStatus();
  }
  HK_RETURN_IF_ERROR(RoomForRemoteLocked(*pod));
  return AddRemoteLocked(*pod, key);
}

// After a claim of this PU closed: what the other PU had claimed too is its own now.
void BpfPorts::SettleLocked(Pod& pod, PortNumber closed) {
  auto contested = pod.contested.find(closed);
  if (contested == pod.contested.end()) return;
  auto reported = pod.reported.find(closed);
  std::erase_if(contested->second, [&](const PortKey& key) {
    if (reported != pod.reported.end()) {
      for (const auto& [mine, since_ns] : reported->second) {
        if (Overlaps(mine, key)) return false;
      }
    }
    --pod.remote_claims;
    absl::Status added = AddRemoteLocked(pod, key);
    if (!added.ok()) spdlog::warn("ports of Pod '{}': {}", pod.ports.pod_key, Message(added));
    return true;
  });
  if (contested->second.empty()) pod.contested.erase(contested);
}

absl::Status BpfPorts::ReplaceRemote(const std::string& pod_key, const std::vector<PortKey>& keys) {
  std::lock_guard lock(mutex_);
  HK_ASSIGN_OR_RETURN(Pod * pod, FindLocked(pod_key));
  std::map<PortNumber, std::set<PortKey>> wanted;
  size_t count = 0;
  for (const PortKey& given : keys) {
    PortKey key = Normalized(given);
    count += wanted[{key.protocol, key.port}].insert(key).second;
  }
  if (count > kMostClaimsOfAPod) {
    return absl::ResourceExhaustedError(
        fmt::format("the other PU reports {} ports of Pod '{}'; it may have {}", count, pod_key, kMostClaimsOfAPod));
  }
  for (const auto& [number, claims] : std::exchange(pod->contested, {})) pod->remote_claims -= claims.size();
  std::map<PortNumber, std::set<PortKey>> present = pod->remote;
  for (const auto& [number, claims] : present) {
    if (!wanted.contains(number)) HK_RETURN_IF_ERROR(PutRemoteLocked(*pod, number, {}));
  }
  for (auto& [number, claims] : wanted) {
    if (auto found = present.find(number); found != present.end() && found->second == claims) continue;
    HK_RETURN_IF_ERROR(PutRemoteLocked(*pod, number, std::move(claims)));
  }
  return absl::OkStatus();
}

}  // namespace heterok8s::ports
