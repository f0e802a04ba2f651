// From the event ring to the listener.
//
// An event says that a claim came or went; the map `local` says what is true. Events are reported one by one, in the
// kernel's order, and at the end of each batch every claim they named is compared with the map, so two events that
// crossed between CPUs, or one that found the ring full, leave nothing wrong behind.
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "node-agent/ports/bpf_ports.h"
#include "node-agent/ports/claims.h"

namespace heterok8s::ports {
namespace {

// A claim that closed stays in the map for a while with no sockets, because the programs cannot remove it without
// racing with a socket that claims it again. Long enough that such a race has ended.
constexpr uint64_t kLeftoverNs = 5'000'000'000;
constexpr int kLeftoverPollMs = 2'000;

// A socket leaves the sockhash a moment after the event that announces it.
constexpr uint64_t kSlotFreeNs = 20'000'000;
constexpr int kSlotPollMs = 20;

uint64_t Now(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

absl::Status BpfPorts::Start() {
  HK_RETURN_IF_ERROR(kernel_->OpenRing([this](const hk_event& event) { OnEvent(event); }));
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!epoll_.valid() || !wake_.valid()) return ErrnoToStatus(errno, "make epoll and eventfd");
  for (int fd : {wake_.get(), kernel_->ring_epoll_fd()}) {
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) return ErrnoToStatus(errno, "epoll_ctl");
  }
  {
    std::lock_guard lock(mutex_);
    lost_seen_ = kernel_->Stat(HK_STAT_LOST);
    adopted_at_ns_ = Now(CLOCK_MONOTONIC);
    AdoptLocked();
  }
  thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

BpfPorts::~BpfPorts() {
  stopping_ = true;
  Wake();
  if (thread_.joinable()) thread_.join();
}

void BpfPorts::Wake() {
  uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof one);
}

void BpfPorts::Loop() {
  while (!stopping_) {
    epoll_event events[2];
    int timeout_ms = !slots_free_at_.empty() ? kSlotPollMs : !leftovers_.empty() ? kLeftoverPollMs : -1;
    int ready = epoll_wait(epoll_.get(), events, 2, timeout_ms);
    for (int i = 0; i < ready; ++i) {
      uint64_t drained;
      if (events[i].data.fd == wake_.get()) (void)!read(wake_.get(), &drained, sizeof drained);
    }
    if (ready > 0) {
      kernel_->DrainRing();
      FinishBatch();
    }
    FillFreeSlots();
    RemoveLeftovers();
  }
}

void BpfPorts::OnEvent(const hk_event& event) {
  std::lock_guard lock(mutex_);
  auto name = key_of_cookie_.find(event.key.netns);
  if (name == key_of_cookie_.end()) return;
  Pod& pod = pods_[name->second];
  PortKey key = FromWire(event.key);
  if (event.kind == HK_REFUSED) {
    std::string_view command(event.command, sizeof event.command);
    uint64_t age_ns = Now(CLOCK_MONOTONIC) - event.time_ns;
    pod.last_refusal = Refusal{.pod_key = pod.ports.pod_key,
                               .key = key,
                               .pid = event.pid,
                               .command = std::string(command.substr(0, command.find('\0'))),
                               .unix_ms = static_cast<int64_t>((Now(CLOCK_REALTIME) - age_ns) / 1'000'000)};
    return;
  }
  if (event.kind == HK_SLOT_FREE) {
    slots_free_at_.try_emplace(pod.cookie, Now(CLOCK_MONOTONIC) + kSlotFreeNs);
    return;
  }
  touched_.push_back(event.key);
  // Of a former heterod's time, or of an earlier life of this Pod: the comparison says what is left of it.
  if (event.time_ns < adopted_at_ns_ || event.time_ns < pod.generation) return;
  ReportLocked(pod, key, event.kind == HK_OPENED, event.time_ns);
  // Only an iterator may put a UDP socket into the sockhash. Until then nobody on the other PU knows of the port.
  bool exact = key.address.is_loopback() || std::find(pod.ports.addresses.begin(), pod.ports.addresses.end(),
                                                      key.address) != pod.ports.addresses.end();
  if (event.kind == HK_OPENED && key.protocol == Protocol::kUdp && exact) udp_inserts_.insert(pod.cookie);
}

void BpfPorts::ReportLocked(Pod& pod, const PortKey& key, bool open, uint64_t epoch_ns) {
  if (open == pod.reported.contains(key)) return;
  if (open) {
    pod.reported[key] = epoch_ns;
  } else {
    pod.reported.erase(key);
    SettleLocked(pod);
  }
  changes_.push_back({.pod_key = pod.ports.pod_key, .key = key, .opened = open, .epoch_ns = epoch_ns});
}

void BpfPorts::FinishBatch() {
  {
    std::lock_guard lock(mutex_);
    uint64_t lost = kernel_->Stat(HK_STAT_LOST);
    if (lost != lost_seen_) {
      spdlog::warn("ports: {} events found the ring full; comparing all claims instead", lost - lost_seen_);
      lost_seen_ = lost;
      compare_all_ = true;
    }
    for (const hk_claim_key& key : touched_) {
      auto name = key_of_cookie_.find(key.netns);
      if (name == key_of_cookie_.end()) continue;
      std::optional<hk_local> claim = kernel_->local.Get(key);
      bool open = claim.has_value() && claim->sockets > 0;
      ReportLocked(pods_[name->second], FromWire(key), open, open ? claim->since_ns : Now(CLOCK_MONOTONIC));
      if (claim.has_value() && !open) leftovers_.push_back({key, claim->changed_ns});
    }
    touched_.clear();
    if (std::exchange(compare_all_, false)) CompareAllLocked();
  }
  for (uint64_t cookie : std::exchange(udp_inserts_, {})) ScanInto(cookie, /*tcp=*/false);
  for (const PortChange& change : changes_) listener_(change);
  changes_.clear();
}

void BpfPorts::CompareAllLocked() {
  std::map<uint64_t, std::set<PortKey>> open;
  for (const auto& [key, claim] : kernel_->local.All()) {
    auto name = key_of_cookie_.find(key.netns);
    if (name == key_of_cookie_.end() || claim.sockets == 0) continue;
    PortKey port = FromWire(key);
    open[key.netns].insert(port);
    ReportLocked(pods_[name->second], port, true, claim.since_ns);
    if (port.protocol == Protocol::kUdp) udp_inserts_.insert(key.netns);
  }
  for (auto& [pod_key, pod] : pods_) {
    std::map<PortKey, uint64_t> reported = pod.reported;
    for (const auto& [key, epoch_ns] : reported) {
      if (!open[pod.cookie].contains(key)) ReportLocked(pod, key, false, Now(CLOCK_MONOTONIC));
    }
  }
}

void BpfPorts::ScanInto(uint64_t cookie, bool tcp) {
  std::string path;
  {
    std::lock_guard lock(mutex_);
    auto name = key_of_cookie_.find(cookie);
    if (name == key_of_cookie_.end()) return;
    path = pods_[name->second].ports.netns_path;
  }
  absl::Status scanned = [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(path));
    return sys::InNetns(ns, [&] { return tcp ? kernel_->ScanTcp() : kernel_->ScanUdp(); });
  }();
  // The namespace went away with its sockets, or the kernel is out of memory. The port is reported all the same.
  if (!scanned.ok()) {
    spdlog::warn("ports: {}; sockets bound to one address stay unreachable from the other PU", Message(scanned));
  }
}

void BpfPorts::FillFreeSlots() {
  uint64_t now = Now(CLOCK_MONOTONIC);
  std::erase_if(slots_free_at_, [&](const auto& entry) {
    if (now < entry.second) return false;
    ScanInto(entry.first, /*tcp=*/true);
    ScanInto(entry.first, /*tcp=*/false);
    return true;
  });
}

void BpfPorts::RemoveLeftovers() {
  uint64_t now = Now(CLOCK_MONOTONIC);
  std::erase_if(leftovers_, [&](const Leftover& leftover) {
    if (now - leftover.since_ns < kLeftoverNs) return false;
    std::optional<hk_local> claim = kernel_->local.Get(leftover.key);
    // In use again, or closed again later, which made a leftover of its own.
    if (!claim.has_value() || claim->sockets > 0 || claim->changed_ns != leftover.since_ns) return true;
    std::optional<hk_local> taken = kernel_->local.Take(leftover.key);
    if (!taken.has_value() || taken->sockets == 0) return true;
    // A socket claimed it between the two calls; put its count back, on top of what came meanwhile.
    if (std::optional<hk_local> fresh = kernel_->local.Get(leftover.key); fresh.has_value()) {
      taken->sockets += fresh->sockets;
    }
    if (absl::Status put = kernel_->local.Put(leftover.key, *taken); !put.ok()) spdlog::warn("ports: {}", Message(put));
    return true;
  });
}

}  // namespace heterok8s::ports
