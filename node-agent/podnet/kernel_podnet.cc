#include "node-agent/podnet/kernel_podnet.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include "node-agent/podnet/hostports.h"
#include "node-agent/podnet/link.h"
#include "node-agent/podnet/spare_uplink.h"
#include "node-agent/podnet/uplink.h"

namespace heterok8s::podnet {

absl::Status KernelPodNet::InRoot(const std::function<absl::Status()>& fn) const {
  struct stat here {};
  if (stat("/proc/thread-self/ns/net", &here) == 0 && here.st_ino == root_.inode()) return fn();
  return sys::InNetns(root_, fn);
}

KernelPodNet::~KernelPodNet() {
  {
    std::lock_guard lock(stop_mutex_);
    stop_ = true;
  }
  stopped_.notify_one();
  if (mender_.joinable()) mender_.join();
}

absl::Status KernelPodNet::PrepareRoot() {
  HK_RETURN_IF_ERROR(InRoot([&]() -> absl::Status {
    HK_RETURN_IF_ERROR(EnableForwarding());
    return root_table_.Prepare();
  }));
  std::lock_guard lock(stop_mutex_);
  if (!mender_.joinable()) mender_ = std::thread([this] { MendUntilStopped(); });
  return absl::OkStatus();
}

void KernelPodNet::MendUntilStopped() {
  std::string last_failure;  // said once
  std::unique_lock lock(stop_mutex_);
  while (!stopped_.wait_for(lock, options_.mend_interval, [this] { return stop_; })) {
    lock.unlock();
    absl::Status mended = InRoot([&] { return root_table_.Mend().status(); });
    const std::string failure = mended.ok() ? "" : Message(mended);
    if (!mended.ok() && failure != last_failure) {
      spdlog::error("look after the root table: {}; trying again every {} ms", failure, options_.mend_interval.count());
    }
    last_failure = failure;
    lock.lock();
  }
}

absl::StatusOr<Uplink> KernelPodNet::EnsureUplink(const UplinkSpec& spec) {
  Uplink uplink;
  HK_RETURN_IF_ERROR(InRoot([&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(uplink, podnet::EnsureUplink(spec));
    return absl::OkStatus();
  }));
  return uplink;
}

absl::StatusOr<PlacedUplink> KernelPodNet::PlaceUplink(const UplinkSpec& spec) {
  PlacedUplink placed;
  HK_RETURN_IF_ERROR(InRoot([&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(placed, podnet::PlaceUplink(spec));
    return absl::OkStatus();
  }));
  placed.finish = [this, finish = std::move(placed.finish)] { return InRoot(finish); };
  return placed;
}

absl::Status KernelPodNet::RouteUplink(const UplinkSpec& spec) {
  return InRoot([&] { return podnet::RouteUplink(spec); });
}

absl::Status KernelPodNet::CheckUplink(const UplinkSpec& spec) {
  return InRoot([&] { return podnet::CheckUplink(spec); });
}

absl::Status KernelPodNet::RemoveUplink(const pu::OwnerTag& owner, const std::string& netns_path) {
  refused_.Retire(netns_path);  // a DPU half's namespace goes with its uplink
  return InRoot([&] { return podnet::RemoveUplink(owner, netns_path); });
}

absl::Status KernelPodNet::FurnishNetns(const std::string& netns_path) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(netns_path));
  return SetDpuNetnsSysctls(ns);
}

absl::Status KernelPodNet::EnsureGuards(const LinkSpec& spec) {
  HK_RETURN_IF_ERROR(podnet::EnsureGuards(spec));
  refused_.Watch(spec.netns_path);
  return absl::OkStatus();
}

absl::Status KernelPodNet::EnsureLink(const LinkSpec& spec, Guards guards) {
  HK_RETURN_IF_ERROR(podnet::EnsureLink(spec, guards));
  if (guards == Guards::kEnsure) refused_.Watch(spec.netns_path);
  return absl::OkStatus();
}

absl::Status KernelPodNet::AwaitLink(const LinkSpec& spec, std::chrono::milliseconds timeout) {
  return podnet::AwaitLink(spec, timeout);
}

absl::Status KernelPodNet::CheckLink(const LinkSpec& spec) { return podnet::CheckLink(spec); }

absl::Status KernelPodNet::RemoveLink(const LinkSpec& spec) {
  refused_.Retire(spec.netns_path);
  return podnet::RemoveLink(spec);
}

absl::Status KernelPodNet::SetPort(const LinkSpec& spec, Protocol protocol, uint16_t port, bool present) {
  return podnet::SetPort(spec, protocol, port, present);
}

absl::Status KernelPodNet::ReplacePorts(const LinkSpec& spec, const std::vector<std::pair<Protocol, uint16_t>>& ports) {
  return podnet::ReplacePorts(spec, ports);
}

absl::Status KernelPodNet::EnsureHostPorts(const HostPortSpec& spec) {
  return InRoot([&] { return root_table_.Ensure(spec); });
}

absl::Status KernelPodNet::CheckHostPorts(const HostPortSpec& spec) {
  return InRoot([&] { return podnet::CheckHostPorts(options_.instance, spec); });
}

absl::Status KernelPodNet::RemoveHostPorts(const std::string& pod_key) {
  return InRoot([&] { return root_table_.Remove(pod_key); });
}

absl::StatusOr<std::vector<IpAddress>> KernelPodNet::NodeAddresses() {
  std::vector<IpAddress> addresses;
  HK_RETURN_IF_ERROR(InRoot([&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(addresses, podnet::NodeAddresses());
    return absl::OkStatus();
  }));
  return addresses;
}

std::map<std::string, uint64_t> KernelPodNet::RefusedPackets() {
  (void)InRoot([&] {  // what cannot be read counts as it was
    refused_.Read();
    return absl::OkStatus();
  });
  return refused_.Sum();
}

void KernelPodNet::CountRefusedFromHere() {
  (void)InRoot([&] {
    refused_.Read();
    return absl::OkStatus();
  });
  refused_.CountFromHere();
}

absl::StatusOr<std::vector<pu::OwnerTag>> KernelPodNet::ListUplinks() {
  std::vector<pu::OwnerTag> tags;
  HK_RETURN_IF_ERROR(InRoot([&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(tags, podnet::ListUplinks(options_.instance));
    return absl::OkStatus();
  }));
  return tags;
}

absl::Status FurnishDpuNetns(const sys::NetnsRef& ns) {
  HK_RETURN_IF_ERROR(SetDpuNetnsSysctls(ns));
  return MakeSpareUplink(ns);
}

absl::StatusOr<std::unique_ptr<PodNet>> NewKernelPodNet(Options options) {
  HK_ASSIGN_OR_RETURN(sys::NetnsRef root, sys::NetnsRef::Current());
  return std::unique_ptr<PodNet>(std::make_unique<KernelPodNet>(std::move(options), std::move(root)));
}

}  // namespace heterok8s::podnet
