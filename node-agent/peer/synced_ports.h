// ports::Ports for the attach engine: the real one, with the port stream told of each Pod that comes and goes.
//
// Threading, ownership, errors: as the object below, which it borrows, as it does `sync`.
//
//   SyncedPorts synced(*bpf_ports, sync);
#pragma once

#include <algorithm>

#include "node-agent/peer/port_sync.h"

namespace heterok8s::peer {

class SyncedPorts final : public ports::Ports {
 public:
  SyncedPorts(ports::Ports& below, PortSync& sync) : below_(below), sync_(sync) {}

  ports::KernelFeatures features() const override { return below_.features(); }

  absl::Status AddPod(const ports::PodPorts& pod) override {
    sync_.PodAdding(pod.pod_key);
    absl::Status status = below_.AddPod(pod);
    if (status.ok()) {
      sync_.PodAdded(pod.pod_key);
    } else {
      sync_.PodRemoved(pod.pod_key, /*was_here=*/true);
    }
    return status;
  }
  absl::Status RemovePod(const std::string& pod_key) override {
    const std::vector<std::string> pods = below_.ListPods();
    const bool was_here = std::find(pods.begin(), pods.end(), pod_key) != pods.end();
    absl::Status status = below_.RemovePod(pod_key);
    if (status.ok()) sync_.PodRemoved(pod_key, was_here);
    return status;
  }
  std::vector<std::string> ListPods() const override { return below_.ListPods(); }

  absl::Status SetRemote(const std::string& pod_key, const ports::PortKey& key, bool owned,
                         uint64_t epoch_ns) override {
    return below_.SetRemote(pod_key, key, owned, epoch_ns);
  }
  absl::Status ReplaceRemote(const std::string& pod_key, const std::vector<ports::PortKey>& keys) override {
    return below_.ReplaceRemote(pod_key, keys);
  }
  std::vector<ports::OwnedPort> Local(const std::string& pod_key) const override { return below_.Local(pod_key); }
  std::vector<ports::PortKey> Remote(const std::string& pod_key) const override { return below_.Remote(pod_key); }
  std::optional<ports::Refusal> LastRefusal(const std::string& pod_key) const override {
    return below_.LastRefusal(pod_key);
  }
  Counters counters() const override { return below_.counters(); }

 private:
  ports::Ports& below_;
  PortSync& sync_;
};

}  // namespace heterok8s::peer
