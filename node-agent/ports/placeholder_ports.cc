#include "node-agent/ports/placeholder_ports.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "common/netfilter/conntrack.h"
#include "common/netfilter/libnftables_nft.h"
#include "common/netfilter/port_set.h"
#include "common/netlink/libnl_netlink.h"
#include "common/sys/file.h"
#include "node-agent/ports/claims.h"
#include "node-agent/ports/clock.h"

namespace heterok8s::ports {
namespace {

// For what takes the event thread some milliseconds, unless the machine starves it.
constexpr std::chrono::seconds kTellPatience{20};

// The device that podnet gave this side's link addresses.
absl::StatusOr<std::string> LinkIfname(const PodPorts& pod) {
  const IpAddress& own = pod.side == pu::Side::kHost ? pod.link.host_localhost : pod.link.dpu_localhost;
  HK_ASSIGN_OR_RETURN(std::unique_ptr<netlink::Netlink> netlink, netlink::OpenNetlink());
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Address> addresses, netlink->Addresses(0));
  HK_ASSIGN_OR_RETURN(std::vector<netlink::Link> links, netlink->Links());
  for (const netlink::Address& address : addresses) {
    if (address.prefix.address != own) continue;
    for (const netlink::Link& link : links) {
      if (link.index == address.link) return link.name;
    }
  }
  return absl::FailedPreconditionError(fmt::format("no device has the link address {}", own.ToString()));
}

// As with BPF: what a Pod finds does not depend on the mechanism.
absl::Status DisableMultipathTcp() {
  absl::Status status = sys::SetSysctl("net.mptcp.enabled", "0");
  return absl::IsNotFound(status) ? absl::OkStatus() : status;
}

IpAddress FirstOf(const PodPorts& pod, Family family) {
  for (const IpAddress& address : pod.addresses) {
    if (address.family == family) return address;
  }
  return {};
}

bool Answers(const PortKey& key, const IpAddress& address) {
  if (key.address == address) return true;
  return key.address.is_unspecified() &&
         (key.address.family == address.family || (key.dual_stack && address.family == Family::kV4));
}

IpAddress NameOf(const PodPorts& pod, int set) {
  static const IpAddress kLocalhost4 = IpAddress::V4(0x7f000001), kLocalhost6 = *IpAddress::Parse("::1");
  switch (set) {
    case kNatLocalhost:
      return kLocalhost4;
    case kNatLocalhost6:
      return kLocalhost6;
    case kNatPod:
      return FirstOf(pod, Family::kV4);
    default:
      return FirstOf(pod, Family::kV6);
  }
}

// What the sets of an earlier heterod say of one port. The claims behind them may have been other ones with the same
// names; the other PU tells all of its own when it is heard again.
std::vector<PortKey> ClaimsBehind(const PodPorts& pod, Protocol protocol, uint16_t port,
                                  const std::array<bool, kNatSetCount>& called) {
  std::vector<PortKey> keys;
  for (auto [localhost, pod_ip] : {std::pair{kNatLocalhost, kNatPod}, std::pair{kNatLocalhost6, kNatPod6}}) {
    PortKey key{.protocol = protocol, .address = NameOf(pod, called[localhost] ? localhost : pod_ip), .port = port};
    if (called[localhost] && called[pod_ip]) key.address.bytes.fill(0);
    if (called[localhost] || called[pod_ip]) keys.push_back(key);
  }
  return keys;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ports>> NewPlaceholderPorts(Options options, Listener listener) {
  std::error_code error;
  for (const char* folder : {"links", "pods", "maps"}) {
    std::filesystem::remove_all(fmt::format("{}/{}", options.bpffs, folder), error);
    if (error) return ErrnoToStatus(error.value(), fmt::format("remove '{}/{}'", options.bpffs, folder));
  }
  auto ports = std::make_unique<PlaceholderPorts>(std::move(listener));
  HK_RETURN_IF_ERROR(ports->Start());
  return ports;
}

absl::StatusOr<PlaceholderPorts::Pod*> PlaceholderPorts::FindLocked(const std::string& pod_key) {
  auto found = pods_.find(pod_key);
  if (found == pods_.end()) return absl::NotFoundError(fmt::format("ports: no Pod '{}'", pod_key));
  return &found->second;
}

// A placeholder is a descriptor of this process, which all Pods share; a Pod's guaranteed ones are there in any case.
// The other PU reports no more than kMostPlaceholders of one Pod.
absl::Status PlaceholderPorts::RoomForRemoteLocked(const Pod& pod) const {
  const size_t here = pod.remote.size() + pod.contested.size();
  if (here < kGuaranteedPlaceholders) return absl::OkStatus();
  size_t all = 0;
  for (const auto& [key, other] : pods_) all += other.remote.size();
  if (here < kMostPlaceholders && all < most_placeholders_) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("{} ports of the other PU are held for Pod '{}' already", here, pod.ports.pod_key));
}

absl::Status PlaceholderPorts::AddPod(const PodPorts& ports) {
  std::string context = fmt::format("ports of Pod '{}'", ports.pod_key);
  absl::StatusOr<sys::NetnsRef> ns = sys::NetnsRef::Open(ports.netns_path);
  if (!ns.ok()) return Annotate(ns.status(), context);
  std::unique_lock lock(mutex_);
  for (const auto& [key, pod] : pods_) {
    if (key != ports.pod_key && pod.ns.inode() == ns->inode()) {
      return Annotate(
          absl::AlreadyExistsError(fmt::format("'{}' is the network namespace of Pod '{}'", ports.netns_path, key)),
          context);
    }
  }
  auto found = pods_.find(ports.pod_key);
  if (found != pods_.end() && found->second.ns.inode() != ns->inode()) {  // the sandbox was made anew
    HK_RETURN_IF_ERROR(Annotate(RemoveLocked(ports.pod_key), context));
    found = pods_.end();
  }
  bool fresh = found == pods_.end();
  if (fresh) {
    absl::StatusOr<SocketDiag> diag = absl::UnknownError("");
    absl::StatusOr<SocketCounts> counts = absl::UnknownError("");
    absl::Status opened = sys::InNetns(*ns, [&]() -> absl::Status {
      HK_RETURN_IF_ERROR((diag = SocketDiag::Open()).status());
      return (counts = SocketCounts::Open()).status();
    });
    if (!opened.ok()) return Annotate(opened, context);
    epoll_event silent{.events = 0, .data = {.ptr = nullptr}};  // until ListenLocked()
    if (diag->gone_fd() >= 0 && epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, diag->gone_fd(), &silent) != 0) {
      return Annotate(ErrnoToStatus(errno, "epoll_ctl"), context);
    }
    Pod pod{.ports = ports, .ns = *std::move(ns), .diag = *std::move(diag), .counts = *std::move(counts)};
    found = pods_.emplace(ports.pod_key, std::move(pod)).first;
  }
  Pod& pod = found->second;
  pod.ports = ports;
  absl::Status wired = sys::InNetns(pod.ns, [&] { return WireLocked(pod); });
  if (wired.ok()) wired = CompareLocked(pod, {.tcp = true, .udp = true});
  if (!wired.ok()) {
    if (fresh) {
      absl::Status undone = RemoveLocked(ports.pod_key);
      if (!undone.ok()) spdlog::warn("ports: undo: {}", Message(undone));
    }
    return Annotate(wired, context);
  }
  std::set<PortNumber> numbers;
  for (const auto& [key, hold] : pod.remote) numbers.insert({key.protocol, key.port});
  HoldLocked(pod, numbers);
  Wake();
  const auto is_of_this = [&](const PortChange& change) { return change.pod_key == ports.pod_key; };
  if (std::none_of(changes_.begin(), changes_.end(), is_of_this)) return absl::OkStatus();
  const uint64_t round = rounds_ + 1;
  if (!told_.wait_for(lock, kTellPatience, [&] { return told_round_ >= round; })) {
    spdlog::warn("{}: what it has open is told later", context);
  }
  return absl::OkStatus();
}

// In the Pod's namespace. Level-driven.
absl::Status PlaceholderPorts::WireLocked(Pod& pod) {
  HK_ASSIGN_OR_RETURN(pod.link_ifname, LinkIfname(pod.ports));
  HK_RETURN_IF_ERROR(DisableMultipathTcp());
  HK_ASSIGN_OR_RETURN(std::unique_ptr<netfilter::Nft> nft, netfilter::OpenNft());
  // It needs route_localnet on the link, which podnet has set with the link: one owner, as of the guard against
  // martians.
  HK_RETURN_IF_ERROR(nft->Run(NatTableScript(pod.ports, pod.link_ifname)));
  if (!pod.called.empty()) return absl::OkStatus();
  for (int set = 0; set < kNatSetCount; ++set) {
    HK_ASSIGN_OR_RETURN(std::vector<netfilter::NftElement> elements, nft->Elements(kNatTable, kNatSets[set]));
    for (const netfilter::NftElement& element : elements) {
      if (element.key.size() != 2)
        return absl::InternalError(fmt::format("element of set {} is no port", kNatSets[set]));
      HK_ASSIGN_OR_RETURN(Protocol protocol, ParseProtocol(element.key[0]));
      pod.called[{protocol, static_cast<uint16_t>(std::stoi(element.key[1]))}][set] = true;
    }
  }
  for (const auto& [number, called] : pod.called) {
    for (const PortKey& key : ClaimsBehind(pod.ports, number.first, number.second, called)) {
      pod.remote.try_emplace(key);
    }
  }
  return absl::OkStatus();
}

absl::Status PlaceholderPorts::RemovePod(const std::string& pod_key) {
  std::lock_guard lock(mutex_);
  return RemoveLocked(pod_key);
}

absl::Status PlaceholderPorts::RemoveLocked(const std::string& pod_key) {
  auto found = pods_.find(pod_key);
  if (found == pods_.end()) return absl::OkStatus();
  Pod& pod = found->second;
  HK_RETURN_IF_ERROR(sys::InNetns(pod.ns, [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(std::unique_ptr<netfilter::Nft> nft, netfilter::OpenNft());
    return nft->Run(RemoveNatTableScript());
  }));
  std::erase_if(changes_, [&](const PortChange& change) { return change.pod_key == pod_key; });
  // Closing takes it out of epoll only when nobody else has the file: a child that was spawned and has not yet come to
  // its exec has it. epoll(7), questions and answers, 6.
  if (pod.diag.gone_fd() >= 0) (void)epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, pod.diag.gone_fd(), nullptr);
  pods_.erase(found);
  return absl::OkStatus();
}

std::vector<std::string> PlaceholderPorts::ListPods() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> keys;
  for (const auto& [key, pod] : pods_) keys.push_back(key);
  return keys;
}

absl::Status PlaceholderPorts::SetRemote(const std::string& pod_key, const PortKey& given, bool owned,
                                         uint64_t epoch_ns) {
  PortKey key = Normalized(given);
  PortNumber number{key.protocol, key.port};
  std::lock_guard lock(mutex_);
  HK_ASSIGN_OR_RETURN(Pod * pod, FindLocked(pod_key));
  const auto let_go = [&]() -> absl::Status {
    if (pod->remote.erase(key) == 0) return absl::OkStatus();
    HoldLocked(*pod, {number});  // its placeholder may have stood in the way of another claim's
    return CallLocked(*pod, number);
  };
  if (!owned) {
    pod->contested.erase(key);
    return let_go();
  }
  for (const auto& [mine, claim] : pod->local) {
    if (claim.since_ns > epoch_ns || !Overlaps(mine, key)) continue;
    HK_RETURN_IF_ERROR(let_go());  // it was in force before the other PU closed and reopened it
    if (pod->contested.contains(key) || RoomForRemoteLocked(*pod).ok()) pod->contested.insert(key);
    return absl::FailedPreconditionError(fmt::format("{} of the other PU collides with {} of this one, which is older",
                                                     key.ToString(), mine.ToString()));
  }
  if (pod->remote.contains(key)) return absl::OkStatus();
  HK_RETURN_IF_ERROR(RoomForRemoteLocked(*pod));
  pod->remote.try_emplace(key);
  HoldLocked(*pod, {number});
  return CallLocked(*pod, number);
}

absl::Status PlaceholderPorts::ReplaceRemote(const std::string& pod_key, const std::vector<PortKey>& keys) {
  std::lock_guard lock(mutex_);
  HK_ASSIGN_OR_RETURN(Pod * pod, FindLocked(pod_key));
  std::set<PortKey> wanted;
  std::set<PortNumber> numbers;
  for (const PortKey& key : keys) wanted.insert(Normalized(key));
  if (wanted.size() > kMostPlaceholders) {
    return absl::ResourceExhaustedError(fmt::format("the other PU reports {} ports of Pod '{}'; {} can be held",
                                                    wanted.size(), pod_key, kMostPlaceholders));
  }
  pod->contested.clear();
  std::erase_if(pod->remote, [&](const auto& entry) {
    numbers.insert({entry.first.protocol, entry.first.port});
    return !wanted.contains(entry.first);
  });
  for (const PortKey& key : wanted) {
    numbers.insert({key.protocol, key.port});
    pod->remote.try_emplace(key);
  }
  HoldLocked(*pod, numbers);
  for (const PortNumber& number : numbers) HK_RETURN_IF_ERROR(CallLocked(*pod, number));
  return absl::OkStatus();
}

// Makes the NAT sets agree with the claims on one port. A claim that a socket of this side overlaps is not called over
// the link: that socket answers.
absl::Status PlaceholderPorts::CallLocked(Pod& pod, PortNumber number) {
  Called wanted{};
  for (const auto& [key, hold] : pod.remote) {
    if (key.protocol != number.first || key.port != number.second) continue;
    bool ours = std::any_of(pod.local.begin(), pod.local.end(), [&](const auto& l) { return Overlaps(l.first, key); });
    for (int set = 0; set < kNatSetCount && !ours; ++set) wanted[set] |= Answers(key, NameOf(pod.ports, set));
  }
  Called& present = pod.called[number];
  bool changed = present != wanted;
  for (int set = 0; set < kNatSetCount; ++set) {
    if (present[set] == wanted[set]) continue;
    HK_RETURN_IF_ERROR(
        netfilter::SetPortElement(pod.ns, {kNatTableName, kNatSets[set]}, number.first, number.second, wanted[set]));
    present[set] = wanted[set];
  }
  if (wanted == Called{}) pod.called.erase(number);
  if (!changed || number.first != Protocol::kUdp) return absl::OkStatus();
  // Flows that go on sending would keep the answer of their first packet.
  return sys::InNetns(pod.ns, [&] { return netfilter::DeleteFlows({.port = number.second}).status(); });
}

// After claims of this PU on the ports `changed` came or went.
void PlaceholderPorts::SettleLocked(Pod& pod, std::set<PortNumber> changed) {
  std::erase_if(pod.contested, [&](const PortKey& key) {
    for (const auto& [mine, claim] : pod.local) {
      if (Overlaps(mine, key)) return false;
    }
    pod.remote.try_emplace(key);
    changed.insert({key.protocol, key.port});
    return true;
  });
  HoldLocked(pod, changed);
  for (const PortNumber& number : changed) {
    absl::Status called = CallLocked(pod, number);
    if (!called.ok()) spdlog::warn("ports of Pod '{}': {}", pod.ports.pod_key, Message(called));
  }
}

std::vector<OwnedPort> PlaceholderPorts::Local(const std::string& pod_key) const {
  std::lock_guard lock(mutex_);
  std::vector<OwnedPort> owned;
  auto found = pods_.find(pod_key);
  if (found == pods_.end()) return owned;
  absl::StatusOr<std::vector<DiagSocket>> sockets = found->second.diag.List();
  if (!sockets.ok()) {
    spdlog::warn("ports of Pod '{}': {}; what was known before is shown", pod_key, Message(sockets.status()));
  }
  SocketsOf counts;
  if (sockets.ok()) {
    counts = OwnSockets(found->second, *sockets);
  } else {
    for (const auto& [key, claim] : found->second.local) counts.emplace_back(key, claim.sockets);
  }
  int64_t boot_ns = static_cast<int64_t>(RealNs()) - static_cast<int64_t>(MonotonicNs());
  for (const auto& [key, count] : counts) {
    auto told = found->second.local.find(key);
    uint64_t since_ns = told == found->second.local.end() ? MonotonicNs() : told->second.since_ns;
    owned.push_back(
        {.key = key, .since_unix_ms = (boot_ns + static_cast<int64_t>(since_ns)) / 1'000'000, .sockets = count});
  }
  return owned;
}

std::vector<PortKey> PlaceholderPorts::Remote(const std::string& pod_key) const {
  std::lock_guard lock(mutex_);
  std::vector<PortKey> keys;
  if (auto found = pods_.find(pod_key); found != pods_.end()) {
    for (const auto& [key, hold] : found->second.remote) keys.push_back(key);
  }
  return keys;
}

PlaceholderPorts::Looks PlaceholderPorts::looks() const {
  std::lock_guard lock(mutex_);
  return looks_;
}

Ports::Counters PlaceholderPorts::counters() const {
  std::lock_guard lock(mutex_);
  Counters counters{.opened = opened_, .closed = closed_, .unowned_over_share = unowned_};
  for (const auto& [key, pod] : pods_) counters.owned += pod.local.size();
  return counters;
}

}  // namespace heterok8s::ports
