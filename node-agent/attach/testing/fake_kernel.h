// One PU's kernel, as far as attach sees it through PodNet, Ports and Namespaces; and the process that uses it.
//
// Purpose: fakes that behave. State outlives the engine, as a kernel outlives a daemon: a "killed" Process can change
// nothing any more, so whatever an engine still tries to undo after its crash has no effect; a new engine over the same
// kernel finds what was there.
// Threading: thread-safe. Ownership: the fakes borrow Process and FakeKernel.
//
//   Process process;
//   FakeKernel kernel;
//   kernel.AddNetns("/run/netns/a");
//   FakePodNet podnet(process, kernel);
//   podnet.FailNext("EnsureUplink", absl::ResourceExhaustedError("no buffer space"));
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "node-agent/attach/namespaces.h"
#include "node-agent/podnet/podnet.h"
#include "node-agent/ports/ports.h"

namespace heterok8s::attach {

struct Process {
  std::atomic<bool> dead{false};
  std::atomic<bool> disk_fails{false};  // to sync the ledger
  absl::Status Alive() const { return dead ? absl::AbortedError("this process is dead") : absl::OkStatus(); }
};

class FakeKernel {
 public:
  void AddNetns(const std::string& path);
  // Whatever was in it goes with it.
  void DestroyNetns(const std::string& path);
  bool HasNetns(const std::string& path) const;
  void AddForeignInterface(const std::string& netns_path, const std::string& ifname);
  // The PU sends to the Pod what is for it.
  bool HasRoutesTo(const pu::OwnerTag& owner) const;
  // What the Pod's namespace routes by this owner's uplink or link, "10.0.0.0/8" or "10.0.0.0/8 mtu 1400".
  std::vector<std::string> PodRoutes(const pu::OwnerTag& owner) const;
  // What EnsureHostPorts was last told of this owner; empty when it has nothing here.
  std::vector<std::string> MasqueradeOutside(const std::string& owner) const;
  bool IsFurnished(const std::string& netns_path) const;
  // What is there now, in words: "uplink heterok8s:demo:uid-1:eth0". Namespaces below `own_folder` count too.
  std::vector<std::string> Objects(const std::string& own_folder) const;

 private:
  friend class FakePodNet;
  friend class FakePorts;
  friend class FakeNamespaces;

  mutable std::mutex mutex_;
  std::set<std::string> namespaces_, furnished_;
  std::set<std::pair<std::string, std::string>> foreign_;  // path, ifname
  std::map<pu::OwnerTag, podnet::UplinkSpec> uplinks_;
  std::set<pu::OwnerTag> routed_;  // of uplinks_
  std::map<pu::OwnerTag, podnet::LinkSpec> links_;
  std::map<std::string, pu::OwnerTag> guards_;  // by namespace
  std::map<std::string, podnet::HostPortSpec> host_ports_;
  std::map<std::string, ports::PodPorts> ports_;
};

// FailNext for the fakes below.
class Failures {
 public:
  void FailNext(const std::string& call, absl::Status status);

 protected:
  absl::Status Enter(const Process& process, const std::string& call);

 private:
  std::mutex mutex_;
  std::map<std::string, absl::Status> failures_;
};

class FakePodNet final : public podnet::PodNet, public Failures {
 public:
  FakePodNet(Process& process, FakeKernel& kernel) : process_(process), kernel_(kernel) {}
  absl::Status PrepareRoot() override;
  absl::StatusOr<podnet::Uplink> EnsureUplink(const podnet::UplinkSpec& spec) override;
  absl::StatusOr<podnet::PlacedUplink> PlaceUplink(const podnet::UplinkSpec& spec) override;
  absl::Status RouteUplink(const podnet::UplinkSpec& spec) override;
  absl::Status CheckUplink(const podnet::UplinkSpec& spec) override;
  absl::Status RemoveUplink(const pu::OwnerTag& owner, const std::string& netns_path) override;
  absl::Status FurnishNetns(const std::string& netns_path) override;
  absl::Status EnsureGuards(const podnet::LinkSpec& spec) override;
  absl::Status EnsureLink(const podnet::LinkSpec& spec, podnet::Guards guards) override;
  absl::Status AwaitLink(const podnet::LinkSpec& spec, std::chrono::milliseconds timeout) override;
  absl::Status CheckLink(const podnet::LinkSpec& spec) override;
  absl::Status RemoveLink(const podnet::LinkSpec& spec) override;
  absl::Status SetPort(const podnet::LinkSpec& spec, Protocol protocol, uint16_t port, bool present) override;
  absl::Status EnsureHostPorts(const podnet::HostPortSpec& spec) override;
  absl::Status CheckHostPorts(const podnet::HostPortSpec& spec) override;
  absl::Status RemoveHostPorts(const std::string& pod_key) override;
  absl::StatusOr<std::vector<IpAddress>> NodeAddresses() override {
    return std::vector<IpAddress>{*IpAddress::Parse("192.0.2.1")};
  }
  absl::StatusOr<std::vector<pu::OwnerTag>> ListUplinks() override;

 private:
  absl::Status PutUplink(const podnet::UplinkSpec& spec);

  Process& process_;
  FakeKernel& kernel_;
};

class FakePorts final : public ports::Ports, public Failures {
 public:
  FakePorts(Process& process, FakeKernel& kernel) : process_(process), kernel_(kernel) {}
  // As placeholders, which find the Pod by its link.
  void SetNeedsLink(bool needs_link) { needs_link_ = needs_link; }
  ports::KernelFeatures features() const override { return {.placeholders = needs_link_}; }
  absl::Status AddPod(const ports::PodPorts& pod) override;
  absl::Status RemovePod(const std::string& pod_key) override;
  std::vector<std::string> ListPods() const override;
  absl::Status SetRemote(const std::string&, const ports::PortKey&, bool, uint64_t) override {
    return absl::OkStatus();
  }
  absl::Status ReplaceRemote(const std::string&, const std::vector<ports::PortKey>&) override {
    return absl::OkStatus();
  }
  std::vector<ports::OwnedPort> Local(const std::string&) const override { return {}; }
  std::vector<ports::PortKey> Remote(const std::string&) const override { return {}; }
  std::optional<ports::Refusal> LastRefusal(const std::string&) const override { return std::nullopt; }
  Counters counters() const override { return {}; }

 private:
  Process& process_;
  FakeKernel& kernel_;
  std::atomic<bool> needs_link_{false};
};

// References are to the test's own namespace: nothing that takes one here looks inside.
class FakeNamespaces final : public Namespaces, public Failures {
 public:
  FakeNamespaces(Process& process, FakeKernel& kernel) : process_(process), kernel_(kernel) {}
  absl::StatusOr<sys::NetnsRef> Open(const std::string& path) override;
  absl::StatusOr<sys::NetnsRef> Ensure(const std::string& path) override;
  absl::Status Delete(const std::string& path) override;
  absl::StatusOr<std::vector<std::string>> List(const std::string& folder) override;

 private:
  Process& process_;
  FakeKernel& kernel_;
};

}  // namespace heterok8s::attach
