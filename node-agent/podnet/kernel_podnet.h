// PodNet on the kernel: enters this PU's root namespace and hands each call to the file that does the work.
//
// Threading: thread-safe (no state but the namespace, what was refused and what is in the root table). From PrepareRoot
// on, a thread of its own mends that table. Ownership: holds the root namespace open.
// Errors: see podnet.h.
//
//   HK_ASSIGN_OR_RETURN(std::unique_ptr<PodNet> podnet, NewKernelPodNet({.instance = "demo"}));
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "common/sys/netns.h"
#include "node-agent/podnet/podnet.h"
#include "node-agent/podnet/refused_packets.h"
#include "node-agent/podnet/root_table.h"

namespace heterok8s::podnet {

class KernelPodNet : public PodNet {
 public:
  KernelPodNet(Options options, sys::NetnsRef root)
      : options_(std::move(options)),
        root_(std::move(root)),
        root_table_(options_.instance, options_.guard),
        refused_(options_.instance, root_table_) {}
  ~KernelPodNet() override;

  absl::Status PrepareRoot() override;

  absl::StatusOr<Uplink> EnsureUplink(const UplinkSpec& spec) override;
  absl::StatusOr<PlacedUplink> PlaceUplink(const UplinkSpec& spec) override;
  absl::Status RouteUplink(const UplinkSpec& spec) override;
  absl::Status CheckUplink(const UplinkSpec& spec) override;
  absl::Status RemoveUplink(const pu::OwnerTag& owner, const std::string& netns_path) override;

  absl::Status FurnishNetns(const std::string& netns_path) override;
  absl::Status EnsureGuards(const LinkSpec& spec) override;
  absl::Status EnsureLink(const LinkSpec& spec, Guards guards) override;
  absl::Status AwaitLink(const LinkSpec& spec, std::chrono::milliseconds timeout) override;
  absl::Status CheckLink(const LinkSpec& spec) override;
  absl::Status RemoveLink(const LinkSpec& spec) override;
  absl::Status SetPort(const LinkSpec& spec, Protocol protocol, uint16_t port, bool present) override;
  absl::Status ReplacePorts(const LinkSpec& spec, const std::vector<std::pair<Protocol, uint16_t>>& ports) override;

  absl::Status EnsureHostPorts(const HostPortSpec& spec) override;
  absl::Status CheckHostPorts(const HostPortSpec& spec) override;
  absl::Status RemoveHostPorts(const std::string& pod_key) override;
  absl::StatusOr<std::vector<IpAddress>> NodeAddresses() override;

  std::map<std::string, uint64_t> RefusedPackets() override;
  void CountRefusedFromHere() override;
  uint64_t RootTablesRemade() override { return root_table_.remade(); }

  absl::StatusOr<std::vector<pu::OwnerTag>> ListUplinks() override;

 private:
  // In place when the calling thread is in the root namespace already, as heterod's threads are.
  absl::Status InRoot(const std::function<absl::Status()>& fn) const;

  const Options options_;
  const sys::NetnsRef root_;
  podnet::RootTable root_table_;
  podnet::RefusedPackets refused_;

  void MendUntilStopped();
  std::mutex stop_mutex_;
  std::condition_variable stopped_;
  bool stop_ = false;   // guarded by stop_mutex_
  std::thread mender_;  // uses all of the above
};

}  // namespace heterok8s::podnet
