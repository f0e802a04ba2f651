// Fakes that behave, for the tests of the peer: a kernel's ports and steering sets in maps, a PKI in a temporary
// folder.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/testing/eventually.h"
#include "common/testing/held_port.h"
#include "common/testing/matchers.h"
#include "common/tls/credentials.h"
#include "common/tls/pki.h"
#include "node-agent/peer/port_sync.h"
#include "node-agent/podnet/podnet.h"
#include "node-agent/ports/ports.h"

namespace heterok8s::peer::testing {

struct TempPki {
  TempPki() {
    char name[] = "/tmp/hk-peer-XXXXXX";
    dir = mkdtemp(name);
    REQUIRE_OK(tls::InitPki({.dir = dir, .node = "demo"}));
  }
  ~TempPki() { std::filesystem::remove_all(dir); }
  tls::Files For(const std::string& name) const {
    return {.ca = dir + "/ca.crt", .certificate = dir + "/" + name + ".crt", .key = dir + "/" + name + ".key"};
  }
  std::string dir;
};

using heterok8s::testing::Eventually;
using heterok8s::testing::HeldPort;
using heterok8s::testing::kPatience;

// Something several threads change and a test waits for.
class Watched {
 public:
  // True as soon as `condition` holds; false when a test's patience is over.
  bool WaitUntil(const std::function<bool()>& condition) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, condition);
  }

 protected:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
};

inline ports::PortKey Key(const std::string& address, uint16_t port, Protocol protocol = Protocol::kTcp) {
  return {.protocol = protocol, .address = *IpAddress::Parse(address), .port = port};
}

// The contract of ports::Ports in maps: an overlapping older local claim refuses a remote one.
class FakePorts final : public ports::Ports, public Watched {
 public:
  ports::Listener listener;
  size_t room = SIZE_MAX;                                         // for the other PU's ports, of all Pods
  size_t fewest = SIZE_MAX;                                       // of them at a time, so far
  std::function<void(const std::string& pod)> before_set_remote;  // set before there are calls

  void Open(const std::string& pod, const ports::PortKey& key, uint64_t epoch_ns) {
    {
      std::lock_guard lock(mutex_);
      local_[pod][key] = epoch_ns;
    }
    listener({.pod_key = pod, .key = key, .opened = true, .epoch_ns = epoch_ns});
  }
  void Close(const std::string& pod, const ports::PortKey& key) {
    {
      std::lock_guard lock(mutex_);
      local_[pod].erase(key);
    }
    listener({.pod_key = pod, .key = key, .opened = false, .epoch_ns = 0});
  }
  bool HasRemote(const std::string& pod, const ports::PortKey& key) const {
    return remote_.contains({pod, key});
  }  // in WaitUntil

  ports::KernelFeatures features() const override { return {}; }
  absl::Status AddPod(const ports::PodPorts& pod) override {
    std::map<ports::PortKey, uint64_t> existing;
    {
      std::lock_guard lock(mutex_);
      pods_.insert(pod.pod_key);
      existing = local_[pod.pod_key];
    }
    for (const auto& [key, epoch] : existing) {
      listener({.pod_key = pod.pod_key, .key = key, .opened = true, .epoch_ns = epoch});
    }
    return absl::OkStatus();
  }
  absl::Status RemovePod(const std::string& pod_key) override {
    std::lock_guard lock(mutex_);
    pods_.erase(pod_key);
    local_.erase(pod_key);
    std::erase_if(remote_, [&](const auto& entry) { return entry.first == pod_key; });
    changed_.notify_all();
    return absl::OkStatus();
  }
  std::vector<std::string> ListPods() const override {
    std::lock_guard lock(mutex_);
    return {pods_.begin(), pods_.end()};
  }
  absl::Status SetRemote(const std::string& pod, const ports::PortKey& key, bool owned, uint64_t epoch_ns) override {
    if (before_set_remote) before_set_remote(pod);
    std::lock_guard lock(mutex_);
    if (!pods_.contains(pod)) return absl::NotFoundError("no Pod " + pod);
    for (const auto& [mine, since] : local_[pod]) {
      if (owned && mine.port == key.port && mine.protocol == key.protocol && since <= epoch_ns) {
        remote_.erase({pod, key});
        return absl::FailedPreconditionError("port is held by an older socket");
      }
    }
    if (owned) {
      if (remote_.size() >= room && !remote_.contains({pod, key})) return absl::ResourceExhaustedError("no room");
      remote_.insert({pod, key});
    } else {
      remote_.erase({pod, key});
    }
    fewest = std::min(fewest, remote_.size());
    changed_.notify_all();
    return absl::OkStatus();
  }
  absl::Status ReplaceRemote(const std::string&, const std::vector<ports::PortKey>&) override {
    return absl::UnimplementedError("unused");
  }
  std::vector<ports::OwnedPort> Local(const std::string&) const override { return {}; }
  std::vector<ports::PortKey> Remote(const std::string& pod) const override {
    std::lock_guard lock(mutex_);
    std::vector<ports::PortKey> keys;
    for (const auto& [owner, key] : remote_) {
      if (owner == pod) keys.push_back(key);
    }
    return keys;
  }
  std::optional<ports::Refusal> LastRefusal(const std::string&) const override { return std::nullopt; }
  Counters counters() const override { return {}; }

 private:
  std::set<std::string> pods_;
  std::map<std::string, std::map<ports::PortKey, uint64_t>> local_;
  std::set<std::pair<std::string, ports::PortKey>> remote_;
};

// The set `dpu_ports` of each Pod, and nothing else.
class FakePodNet final : public podnet::PodNet, public Watched {
 public:
  int changes = 0;

  bool Steers(const std::string& pod, uint16_t port) const {  // in WaitUntil
    auto it = ports_.find(pod);
    return it != ports_.end() && it->second.contains({Protocol::kTcp, port});
  }
  void Leave(const std::string& pod, uint16_t port) { ports_[pod].insert({Protocol::kTcp, port}); }

  absl::Status SetPort(const podnet::LinkSpec& spec, Protocol protocol, uint16_t port, bool present) override {
    std::lock_guard lock(mutex_);
    if (present) {
      ports_[spec.owner.pod_key].insert({protocol, port});
    } else {
      ports_[spec.owner.pod_key].erase({protocol, port});
    }
    ++changes;
    changed_.notify_all();
    return absl::OkStatus();
  }
  absl::Status ReplacePorts(const podnet::LinkSpec& spec,
                            const std::vector<std::pair<Protocol, uint16_t>>& ports) override {
    std::lock_guard lock(mutex_);
    ports_[spec.owner.pod_key] = {ports.begin(), ports.end()};
    ++changes;
    changed_.notify_all();
    return absl::OkStatus();
  }

  absl::Status PrepareRoot() override { return absl::OkStatus(); }
  absl::StatusOr<podnet::Uplink> EnsureUplink(const podnet::UplinkSpec&) override { return podnet::Uplink{}; }
  absl::StatusOr<podnet::PlacedUplink> PlaceUplink(const podnet::UplinkSpec&) override {
    return podnet::PlacedUplink{.mac = "", .finish = [] { return absl::OkStatus(); }};
  }
  absl::Status RouteUplink(const podnet::UplinkSpec&) override { return absl::OkStatus(); }
  absl::Status FurnishNetns(const std::string&) override { return absl::OkStatus(); }
  absl::Status CheckUplink(const podnet::UplinkSpec&) override { return absl::OkStatus(); }
  absl::Status RemoveUplink(const pu::OwnerTag&, const std::string&) override { return absl::OkStatus(); }
  absl::Status EnsureGuards(const podnet::LinkSpec&) override { return absl::OkStatus(); }
  absl::Status EnsureLink(const podnet::LinkSpec&, podnet::Guards) override { return absl::OkStatus(); }
  absl::Status AwaitLink(const podnet::LinkSpec&, std::chrono::milliseconds) override { return absl::OkStatus(); }
  absl::Status CheckLink(const podnet::LinkSpec&) override { return absl::OkStatus(); }
  absl::Status RemoveLink(const podnet::LinkSpec&) override { return absl::OkStatus(); }
  absl::Status EnsureHostPorts(const podnet::HostPortSpec&) override { return absl::OkStatus(); }
  absl::Status CheckHostPorts(const podnet::HostPortSpec&) override { return absl::OkStatus(); }
  absl::Status RemoveHostPorts(const std::string&) override { return absl::OkStatus(); }
  absl::StatusOr<std::vector<pu::OwnerTag>> ListUplinks() override { return std::vector<pu::OwnerTag>{}; }

 private:
  std::map<std::string, std::set<std::pair<Protocol, uint16_t>>> ports_;
};

// The other PU's end of port ownership: what it was sent and told, and it answers only when the test does.
class OtherPu : public PortSession, public Watched {
 public:
  uint64_t Send(v1::PortMessage message, std::optional<std::chrono::steady_clock::time_point>) override {
    std::lock_guard lock(mutex_);
    sent_.push_back(std::move(message));
    changed_.notify_all();
    return sent_.size();
  }
  void Acknowledge(uint64_t sequence) override {
    std::lock_guard lock(mutex_);
    acknowledged_ = sequence;
    changed_.notify_all();
  }
  void Close() override {}

  void AwaitAck(uint64_t sequence) {
    REQUIRE(WaitUntil([&] { return acknowledged_ >= sequence; }));
  }
  v1::PortMessage AwaitMessage(size_t number) {
    REQUIRE(WaitUntil([&] { return sent_.size() > number; }));
    std::lock_guard lock(mutex_);
    return sent_[number];
  }
  size_t messages() const {
    std::lock_guard lock(mutex_);
    return sent_.size();
  }

 protected:
  std::vector<v1::PortMessage> sent_;
  uint64_t acknowledged_ = 0;
};

}  // namespace heterok8s::peer::testing
