#include "node-agent/attach/testing/fake_kernel.h"

#include <fmt/format.h>

#include <algorithm>

namespace heterok8s::attach {
namespace {

absl::Status Gone(const std::string& path) { return absl::NotFoundError(fmt::format("no namespace {}", path)); }

}  // namespace

void FakeKernel::AddNetns(const std::string& path) {
  std::lock_guard lock(mutex_);
  namespaces_.insert(path);
}

void FakeKernel::DestroyNetns(const std::string& path) {
  std::lock_guard lock(mutex_);
  namespaces_.erase(path);
  std::erase_if(routed_, [&](const auto& owner) { return uplinks_.at(owner).netns_path == path; });
  std::erase_if(uplinks_, [&](const auto& entry) { return entry.second.netns_path == path; });
  std::erase_if(links_, [&](const auto& entry) { return entry.second.netns_path == path; });
  std::erase_if(foreign_, [&](const auto& entry) { return entry.first == path; });
  guards_.erase(path);
}

bool FakeKernel::HasNetns(const std::string& path) const {
  std::lock_guard lock(mutex_);
  return namespaces_.contains(path);
}

void FakeKernel::AddForeignInterface(const std::string& netns_path, const std::string& ifname) {
  std::lock_guard lock(mutex_);
  foreign_.insert({netns_path, ifname});
}

bool FakeKernel::HasRoutesTo(const pu::OwnerTag& owner) const {
  std::lock_guard lock(mutex_);
  return routed_.contains(owner);
}

std::vector<std::string> FakeKernel::PodRoutes(const pu::OwnerTag& owner) const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> texts;
  auto add = [&](const std::vector<podnet::PodRoute>& routes) {
    for (const podnet::PodRoute& route : routes) {
      texts.push_back(route.destination.ToString() + (route.mtu != 0 ? fmt::format(" mtu {}", route.mtu) : ""));
    }
  };
  if (auto uplink = uplinks_.find(owner); uplink != uplinks_.end()) add(uplink->second.routes);
  if (auto link = links_.find(owner); link != links_.end() && link->second.side == pu::Side::kHost)
    add(link->second.routes);
  return texts;
}

std::vector<std::string> FakeKernel::MasqueradeOutside(const std::string& owner) const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> ranges;
  auto found = host_ports_.find(owner);
  if (found == host_ports_.end()) return ranges;
  for (const IpPrefix& range : found->second.masquerade_outside) ranges.push_back(range.ToString());
  return ranges;
}

bool FakeKernel::IsFurnished(const std::string& netns_path) const {
  std::lock_guard lock(mutex_);
  return furnished_.contains(netns_path);
}

std::vector<std::string> FakeKernel::Objects(const std::string& own_folder) const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> objects;
  for (const auto& [tag, spec] : uplinks_) objects.push_back("uplink " + tag.ToAlias());
  for (const auto& [tag, spec] : links_) objects.push_back("link " + tag.ToAlias());
  for (const auto& [path, tag] : guards_) objects.push_back("guards of " + tag.ToAlias());
  for (const auto& [pod, spec] : host_ports_) objects.push_back("host ports of " + pod);
  for (const auto& [pod, spec] : ports_) objects.push_back("ports of " + pod);
  for (const std::string& path : namespaces_) {
    if (path.starts_with(own_folder)) objects.push_back("namespace " + path);
  }
  return objects;
}

void Failures::FailNext(const std::string& call, absl::Status status) {
  std::lock_guard lock(mutex_);
  failures_[call] = std::move(status);
}

absl::Status Failures::Enter(const Process& process, const std::string& call) {
  HK_RETURN_IF_ERROR(process.Alive());
  std::lock_guard lock(mutex_);
  auto failure = failures_.find(call);
  if (failure == failures_.end()) return absl::OkStatus();
  absl::Status status = failure->second;
  failures_.erase(failure);
  return status;
}

absl::Status FakePodNet::PrepareRoot() { return Enter(process_, "PrepareRoot"); }

absl::StatusOr<podnet::Uplink> FakePodNet::EnsureUplink(const podnet::UplinkSpec& spec) {
  HK_RETURN_IF_ERROR(PutUplink(spec));
  std::lock_guard lock(kernel_.mutex_);
  kernel_.routed_.insert(spec.owner);
  return podnet::Uplink{
      .mac = "02:00:00:00:00:01", .root_ifname = pu::InterfaceName(spec.owner, 'u'), .root_mac = "02:00:00:00:00:02"};
}

absl::Status FakePodNet::PutUplink(const podnet::UplinkSpec& spec) {
  HK_RETURN_IF_ERROR(Enter(process_, "EnsureUplink"));
  std::lock_guard lock(kernel_.mutex_);
  if (!kernel_.namespaces_.contains(spec.netns_path)) return Gone(spec.netns_path);
  if (kernel_.foreign_.contains({spec.netns_path, spec.ifname})) {
    return absl::AlreadyExistsError(
        fmt::format("{} has an interface {} that is not ours", spec.netns_path, spec.ifname));
  }
  kernel_.uplinks_[spec.owner] = spec;
  return absl::OkStatus();
}

// All of it but the routes in the second part, so that a test meets what fails late.
absl::StatusOr<podnet::PlacedUplink> FakePodNet::PlaceUplink(const podnet::UplinkSpec& spec) {
  HK_RETURN_IF_ERROR(Enter(process_, "PlaceUplink"));
  return podnet::PlacedUplink{.mac = "02:00:00:00:00:01", .finish = [this, spec] { return PutUplink(spec); }};
}

absl::Status FakePodNet::RouteUplink(const podnet::UplinkSpec& spec) {
  HK_RETURN_IF_ERROR(Enter(process_, "RouteUplink"));
  std::lock_guard lock(kernel_.mutex_);
  if (!kernel_.uplinks_.contains(spec.owner)) return absl::NotFoundError("there is no uplink");
  kernel_.routed_.insert(spec.owner);
  return absl::OkStatus();
}

absl::Status FakePodNet::CheckUplink(const podnet::UplinkSpec& spec) {
  HK_RETURN_IF_ERROR(Enter(process_, "CheckUplink"));
  std::lock_guard lock(kernel_.mutex_);
  if (!kernel_.namespaces_.contains(spec.netns_path)) return Gone(spec.netns_path);
  auto uplink = kernel_.uplinks_.find(spec.owner);
  if (uplink == kernel_.uplinks_.end()) return absl::FailedPreconditionError("there is no uplink");
  if (!kernel_.routed_.contains(spec.owner)) return absl::FailedPreconditionError("nothing is sent to the uplink");
  if (uplink->second.addresses != spec.addresses)
    return absl::FailedPreconditionError("the uplink has other addresses");
  return absl::OkStatus();
}

absl::Status FakePodNet::RemoveUplink(const pu::OwnerTag& owner, const std::string& netns_path) {
  HK_RETURN_IF_ERROR(Enter(process_, "RemoveUplink"));
  std::lock_guard lock(kernel_.mutex_);
  kernel_.uplinks_.erase(owner);
  kernel_.routed_.erase(owner);
  return absl::OkStatus();
}

absl::Status FakePodNet::FurnishNetns(const std::string& netns_path) {
  HK_RETURN_IF_ERROR(Enter(process_, "FurnishNetns"));
  std::lock_guard lock(kernel_.mutex_);
  if (!kernel_.namespaces_.contains(netns_path)) return Gone(netns_path);
  kernel_.furnished_.insert(netns_path);
  return absl::OkStatus();
}

absl::Status FakePodNet::EnsureGuards(const podnet::LinkSpec& spec) {
  HK_RETURN_IF_ERROR(Enter(process_, "EnsureGuards"));
  std::lock_guard lock(kernel_.mutex_);
  if (!kernel_.namespaces_.contains(spec.netns_path)) return Gone(spec.netns_path);
  kernel_.guards_[spec.netns_path] = spec.owner;
  return absl::OkStatus();
}

absl::Status FakePodNet::EnsureLink(const podnet::LinkSpec& spec, podnet::Guards guards) {
  HK_RETURN_IF_ERROR(Enter(process_, "EnsureLink"));
  std::lock_guard lock(kernel_.mutex_);
  if (!kernel_.namespaces_.contains(spec.netns_path)) return Gone(spec.netns_path);
  if (guards == podnet::Guards::kEnsure) kernel_.guards_[spec.netns_path] = spec.owner;
  auto guard = kernel_.guards_.find(spec.netns_path);
  if (guard == kernel_.guards_.end() || guard->second != spec.owner) {
    return absl::InternalError("a link without its guards");
  }
  kernel_.links_[spec.owner] = spec;
  return absl::OkStatus();
}

absl::Status FakePodNet::AwaitLink(const podnet::LinkSpec& spec, std::chrono::milliseconds timeout) {
  return Enter(process_, "AwaitLink");
}

absl::Status FakePodNet::CheckLink(const podnet::LinkSpec& spec) {
  HK_RETURN_IF_ERROR(Enter(process_, "CheckLink"));
  std::lock_guard lock(kernel_.mutex_);
  if (!kernel_.namespaces_.contains(spec.netns_path)) return Gone(spec.netns_path);
  auto link = kernel_.links_.find(spec.owner);
  if (link == kernel_.links_.end()) return absl::FailedPreconditionError("there is no link");
  if (link->second.addresses != spec.addresses) return absl::FailedPreconditionError("the link has other addresses");
  return absl::OkStatus();
}

absl::Status FakePodNet::RemoveLink(const podnet::LinkSpec& spec) {
  HK_RETURN_IF_ERROR(Enter(process_, "RemoveLink"));
  std::lock_guard lock(kernel_.mutex_);
  kernel_.links_.erase(spec.owner);
  kernel_.guards_.erase(spec.netns_path);
  return absl::OkStatus();
}

absl::Status FakePodNet::SetPort(const podnet::LinkSpec& spec, Protocol protocol, uint16_t port, bool present) {
  return Enter(process_, "SetPort");
}

absl::Status FakePodNet::EnsureHostPorts(const podnet::HostPortSpec& spec) {
  HK_RETURN_IF_ERROR(Enter(process_, "EnsureHostPorts"));
  std::lock_guard lock(kernel_.mutex_);
  for (const auto& [pod, other] : kernel_.host_ports_) {
    if (pod == spec.pod_key) continue;
    for (const podnet::HostPort& theirs : other.ports) {
      for (const podnet::HostPort& ours : spec.ports) {
        if (theirs.protocol == ours.protocol && theirs.host_port == ours.host_port) {
          return podnet::HostPortTaken(fmt::format("host port {} is taken by Pod {}", ours.host_port, pod), pod);
        }
      }
    }
  }
  kernel_.host_ports_[spec.pod_key] = spec;
  return absl::OkStatus();
}

absl::Status FakePodNet::CheckHostPorts(const podnet::HostPortSpec& spec) {
  HK_RETURN_IF_ERROR(Enter(process_, "CheckHostPorts"));
  std::lock_guard lock(kernel_.mutex_);
  auto found = kernel_.host_ports_.find(spec.pod_key);
  if (found == kernel_.host_ports_.end()) return absl::FailedPreconditionError("there are no host ports");
  const bool same = found->second.ports == spec.ports && found->second.masquerade_outside == spec.masquerade_outside;
  return same ? absl::OkStatus() : absl::FailedPreconditionError("the host ports are others");
}

absl::Status FakePodNet::RemoveHostPorts(const std::string& pod_key) {
  HK_RETURN_IF_ERROR(Enter(process_, "RemoveHostPorts"));
  std::lock_guard lock(kernel_.mutex_);
  kernel_.host_ports_.erase(pod_key);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<pu::OwnerTag>> FakePodNet::ListUplinks() {
  HK_RETURN_IF_ERROR(Enter(process_, "ListUplinks"));
  std::lock_guard lock(kernel_.mutex_);
  std::vector<pu::OwnerTag> tags;
  for (const auto& [tag, spec] : kernel_.uplinks_) tags.push_back(tag);
  return tags;
}

absl::Status FakePorts::AddPod(const ports::PodPorts& pod) {
  HK_RETURN_IF_ERROR(Enter(process_, "AddPod"));
  std::lock_guard lock(kernel_.mutex_);
  if (!kernel_.namespaces_.contains(pod.netns_path)) return Gone(pod.netns_path);
  const bool wired = std::any_of(kernel_.links_.begin(), kernel_.links_.end(),
                                 [&](const auto& entry) { return entry.first.pod_key == pod.pod_key; });
  if (needs_link_ && !wired) return absl::FailedPreconditionError("no device has the link address");
  kernel_.ports_[pod.pod_key] = pod;
  return absl::OkStatus();
}

absl::Status FakePorts::RemovePod(const std::string& pod_key) {
  HK_RETURN_IF_ERROR(Enter(process_, "RemovePod"));
  std::lock_guard lock(kernel_.mutex_);
  kernel_.ports_.erase(pod_key);
  return absl::OkStatus();
}

std::vector<std::string> FakePorts::ListPods() const {
  std::lock_guard lock(kernel_.mutex_);
  std::vector<std::string> pods;
  for (const auto& [pod, spec] : kernel_.ports_) pods.push_back(pod);
  return pods;
}

absl::StatusOr<sys::NetnsRef> FakeNamespaces::Open(const std::string& path) {
  HK_RETURN_IF_ERROR(Enter(process_, "Open"));
  if (!kernel_.HasNetns(path)) return Gone(path);
  return sys::NetnsRef::Current();
}

absl::StatusOr<sys::NetnsRef> FakeNamespaces::Ensure(const std::string& path) {
  HK_RETURN_IF_ERROR(Enter(process_, "Ensure"));
  kernel_.AddNetns(path);
  return sys::NetnsRef::Current();
}

absl::Status FakeNamespaces::Delete(const std::string& path) {
  HK_RETURN_IF_ERROR(Enter(process_, "Delete"));
  kernel_.DestroyNetns(path);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> FakeNamespaces::List(const std::string& folder) {
  HK_RETURN_IF_ERROR(Enter(process_, "List"));
  std::lock_guard lock(kernel_.mutex_);
  std::vector<std::string> paths;
  for (const std::string& path : kernel_.namespaces_) {
    if (path.starts_with(folder + "/")) paths.push_back(path);
  }
  return paths;
}

}  // namespace heterok8s::attach
