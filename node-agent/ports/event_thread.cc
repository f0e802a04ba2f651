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
#include <cstring>
#include <string_view>

#include "node-agent/ports/bpf_ports.h"
#include "node-agent/ports/claims.h"

namespace heterok8s::ports {
namespace {

// How often to look for room for sockets that found none, and for Pods that are gone.
constexpr uint64_t kUnownedNs = 500'000'000;

// A socket leaves the sockhash a moment after the event that announces it.
constexpr uint64_t kSlotFreeNs = 20'000'000;
constexpr int kSlotPollMs = 20;

// A comparison walks through the claims of all Pods, so there is one in this time at most, whoever asks. And what one
// Pod changes comes to the other PU at 10,000 changes a second at most: who changes more is heard less often.
constexpr uint64_t kComparePauseNs = HK_WINDOW_NS;
constexpr uint64_t kPauseForAChangeNs = 100'000;
constexpr int kComparePollMs = 20;
// After a walk that failed.
constexpr uint64_t kWalkAgainNs = 1'000'000'000;
// Claims that are compared in one go, while events wait.
constexpr size_t kClaimsAtOnce = 1024;

// Scans take a quarter of a CPU for each Pod at most, as an average over some seconds.
constexpr uint64_t kScanShare = 4, kScanCreditNs = 1'000'000'000;

// Between two lines of the log about one Pod's share.
constexpr uint64_t kWarnAgainNs = 60'000'000'000;

uint64_t Now(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

bool ClaimLess(const hk_claim_key& a, const hk_claim_key& b) { return std::memcmp(&a, &b, sizeof a) < 0; }

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
    int ready = epoll_wait(epoll_.get(), events, 2, TimeoutMs());
    for (int i = 0; i < ready; ++i) {
      uint64_t drained;
      if (events[i].data.fd == wake_.get()) (void)!read(wake_.get(), &drained, sizeof drained);
    }
    Serve();
    if (CompareIsDue()) Compare();
    InsertUdp();
    FillFreeSlots();
    OwnUnowned();
    SweepGone();
  }
}

void BpfPorts::OnEvent(const hk_event& event) {
  std::lock_guard lock(mutex_);
  auto name = key_of_cookie_.find(event.key.netns);
  if (name == key_of_cookie_.end()) return;
  Pod& pod = pods_[name->second];
  PortKey key = FromWire(event.key);
  if (event.kind == HK_BEHIND) {
    // The window in which programs keep back what changes has ended by then.
    pod.behind_until_ns = Now(CLOCK_MONOTONIC) + HK_WINDOW_NS;
    LookForSlots(pod.cookie, pod.behind_until_ns + kSlotFreeNs);
    if (pod.compare_at_ns == 0) pod.compare_at_ns = std::max(pod.behind_until_ns, pod.compare_next_ns);
    return;
  }
  if (event.kind == HK_REFUSED || event.kind == HK_NO_ROOM || event.kind == HK_UNOWNED) {
    std::string_view command(event.command, sizeof event.command);
    uint64_t age_ns = Now(CLOCK_MONOTONIC) - event.time_ns;
    pod.last_refusal =
        Refusal{.pod_key = pod.ports.pod_key,
                .key = key,
                .pid = event.pid,
                .command = std::string(command.substr(0, command.find('\0'))),
                .unix_ms = static_cast<int64_t>((Now(CLOCK_REALTIME) - age_ns) / 1'000'000),
                .reason = event.kind == HK_REFUSED ? Refusal::Reason::kOtherPu : Refusal::Reason::kShare};
    if (event.kind != HK_REFUSED) ShareUsedUpLocked(pod, *pod.last_refusal, event.kind == HK_NO_ROOM);
    return;
  }
  if (event.kind == HK_SLOT_FREE) {
    LookForSlots(pod.cookie, Now(CLOCK_MONOTONIC) + kSlotFreeNs);
    return;
  }
  touched_.push_back(event.key);
  // Of a former heterod's time, or of an earlier life of this Pod: the comparison says what is left of it.
  if (event.time_ns < adopted_at_ns_ || event.time_ns < pod.generation) return;
  ReportLocked(pod, key, event.kind == HK_OPENED, event.time_ns);
  if (event.kind == HK_OPENED && NeedsScan(pod, key)) udp_inserts_.insert(pod.cookie);
}

// Only an iterator may put a UDP socket into the sockhash. Until then nobody on the other PU knows of the port.
bool BpfPorts::NeedsScan(const Pod& pod, const PortKey& key) {
  const std::vector<IpAddress>& addresses = pod.ports.addresses;
  return key.protocol == Protocol::kUdp &&
         (key.address.is_loopback() || std::find(addresses.begin(), addresses.end(), key.address) != addresses.end());
}

void BpfPorts::ReportLocked(Pod& pod, const PortKey& key, bool open, uint64_t epoch_ns) {
  const PortNumber number{key.protocol, key.port};
  auto reported = pod.reported.find(number);
  if (open == (reported != pod.reported.end() && reported->second.contains(key))) return;
  if (open) {
    pod.reported[number][key] = epoch_ns;
  } else {
    reported->second.erase(key);
    if (reported->second.empty()) pod.reported.erase(reported);
    SettleLocked(pod, number);
  }
  changes_.push_back({.pod_key = pod.ports.pod_key, .key = key, .opened = open, .epoch_ns = epoch_ns});
}

// At once, of what is known, not by a comparison, which may have to wait: as long as the listener lacks a port, the
// other PU thinks that nobody owns it.
void BpfPorts::TellAgainLocked(const std::string& pod_key) {
  auto pod = pods_.find(pod_key);
  if (pod == pods_.end()) return;
  for (const auto& [number, claims] : pod->second.reported) {
    for (const auto& [key, epoch_ns] : claims)
      changes_.push_back({.pod_key = pod_key, .key = key, .opened = true, .epoch_ns = epoch_ns});
  }
}

// Once a minute for each Pod at most: a program may try again for ever.
void BpfPorts::ShareUsedUpLocked(Pod& pod, const Refusal& refusal, bool refused) {
  uint64_t now = Now(CLOCK_MONOTONIC);
  if (pod.warned_at_ns != 0 && now - pod.warned_at_ns < kWarnAgainNs) return;
  pod.warned_at_ns = now;
  std::optional<hk_share> share = kernel_->shares.Get(pod.cookie);
  spdlog::warn(
      "ports of Pod '{}': {} of {} (pid {}) {}: the Pod has {} ports on this PU, all that it may have now ({} are its "
      "own "
      "in any case, up to {} while there is room). It has to close some; heterod_refused_binds_total counts on",
      pod.ports.pod_key, refusal.key.ToString(), refusal.command, refusal.pid,
      refused ? "was refused with ENOBUFS" : "has no owner and cannot be reached from the other PU",
      share.has_value() ? share->used : 0, HK_SHARE_GUARANTEED, HK_SHARE_MOST);
}

int BpfPorts::TimeoutMs() const {
  const uint64_t now = Now(CLOCK_MONOTONIC);
  const bool scan =
      std::any_of(udp_inserts_.begin(), udp_inserts_.end(), [&](uint64_t cookie) { return MayScan(cookie); }) ||
      std::any_of(slots_free_.begin(), slots_free_.end(),
                  [&](const auto& look) { return now >= look.second.at_ns && MayScan(look.first); });
  if (scan) return 0;
  if (!udp_inserts_.empty()) return 1;
  std::lock_guard lock(mutex_);
  const bool compare = compare_all_ || std::any_of(pods_.begin(), pods_.end(),
                                                   [](const auto& pod) { return pod.second.compare_at_ns != 0; });
  if (compare || !slots_free_.empty()) return std::min(kComparePollMs, kSlotPollMs);
  return unowned_.empty() && gone_.empty() ? -1 : static_cast<int>(kUnownedNs / 1'000'000);
}

// From the ring to the listener. Also between the steps of what takes long, so that no Pod waits for what another
// needs.
void BpfPorts::Serve() {
  kernel_->DrainRing();
  {
    std::lock_guard lock(mutex_);
    for (const std::string& pod_key : std::exchange(tell_again_, {})) TellAgainLocked(pod_key);
    for (const hk_claim_key& key : touched_) CheckLocked(key);
    touched_.clear();
  }
  Tell();
}

// What the map says of this claim, if that is not what was told.
void BpfPorts::CheckLocked(const hk_claim_key& key) {
  auto name = key_of_cookie_.find(key.netns);
  if (name == key_of_cookie_.end()) return;
  const std::optional<hk_local> claim = kernel_->local.Get(key);
  const bool open = claim.has_value() && IsOpen(*claim);
  ReportLocked(pods_[name->second], FromWire(key), open, open ? claim->since_ns : Now(CLOCK_MONOTONIC));
}

// What a Pod changed is told when its UDP sockets can be reached. One that opens and closes them all the time waits for
// its scans.
void BpfPorts::Tell() {
  if (changes_.empty()) return;
  std::set<std::string> waiting;
  if (!udp_inserts_.empty()) {
    std::lock_guard lock(mutex_);
    for (uint64_t cookie : udp_inserts_) {
      if (auto name = key_of_cookie_.find(cookie); name != key_of_cookie_.end()) waiting.insert(name->second);
    }
  }
  std::vector<PortChange> later;
  for (PortChange& change : std::exchange(changes_, {})) {
    if (waiting.contains(change.pod_key)) {
      later.push_back(std::move(change));
    } else {
      listener_(change);
    }
  }
  changes_ = std::move(later);
}

// One Pod, in turn: a scan looks at all sockets of its Pod.
void BpfPorts::InsertUdp() {
  const uint64_t now = Now(CLOCK_MONOTONIC);
  std::erase_if(scans_paid_at_, [&](const auto& entry) { return now >= entry.second; });
  auto next = udp_inserts_.upper_bound(last_insert_);
  for (size_t tried = 0; tried < udp_inserts_.size(); ++tried, ++next) {
    if (next == udp_inserts_.end()) next = udp_inserts_.begin();
    if (!MayScan(*next)) continue;
    last_insert_ = *next;
    udp_inserts_.erase(next);
    ScanInto(last_insert_, /*tcp=*/false);
    Tell();
    return;
  }
}

bool BpfPorts::MayScan(uint64_t cookie) const {
  auto paid_at = scans_paid_at_.find(cookie);
  return paid_at == scans_paid_at_.end() || paid_at->second <= Now(CLOCK_MONOTONIC) + kScanCreditNs;
}

bool BpfPorts::CompareIsDue() {
  std::lock_guard lock(mutex_);
  const uint64_t lost = kernel_->Stat(HK_STAT_LOST);
  if (lost != lost_seen_) {
    if (!compare_all_)
      spdlog::warn("ports: {} events found the ring full; comparing all claims instead", lost - lost_seen_);
    lost_seen_ = lost;
    compare_all_ = true;
  }
  const uint64_t now = Now(CLOCK_MONOTONIC);
  if (now < compare_after_ns_) return false;
  return compare_all_ || std::any_of(pods_.begin(), pods_.end(), [&](const auto& pod) {
           return pod.second.compare_at_ns != 0 && now >= pod.second.compare_at_ns;
         });
}

// Every Pod after lost events, but for those that are to wait, else those whose time has come. What the walk finds is
// old by then and may have missed what came or went meanwhile, so each difference is looked up again.
void BpfPorts::Compare() {
  const uint64_t started = Now(CLOCK_MONOTONIC);
  std::map<uint64_t, Claims> open;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [pod_key, pod] : pods_) {
      const bool waits = pod.compare_at_ns != 0 && started < pod.compare_at_ns;
      if (!waits && (compare_all_ || pod.compare_at_ns != 0)) open[pod.cookie];
    }
  }
  absl::Status walked = kernel_->local.Walk([&](const auto& batch) {
    for (const auto& [key, claim] : batch) {
      auto pod = open.find(key.netns);
      if (pod != open.end() && IsOpen(claim)) pod->second.push_back(key);
    }
    Serve();
  });
  if (!walked.ok()) {
    spdlog::warn("ports: {}; what changed unseen is looked for again", Message(walked));
    compare_after_ns_ = Now(CLOCK_MONOTONIC) + kWalkAgainNs;
    return;
  }
  for (auto& [cookie, claims] : open) {
    ComparePod(cookie, std::move(claims), started);
    Serve();
  }
  std::lock_guard lock(mutex_);
  compare_all_ = false;
  ++comparisons_;
  compare_after_ns_ = Now(CLOCK_MONOTONIC) + kComparePauseNs;
}

void BpfPorts::ComparePod(uint64_t cookie, Claims open, uint64_t started) {
  std::sort(open.begin(), open.end(), ClaimLess);
  size_t different = 0;
  for (size_t from = 0; from < open.size(); from += kClaimsAtOnce) {
    {
      std::lock_guard lock(mutex_);
      auto name = key_of_cookie_.find(cookie);
      if (name == key_of_cookie_.end()) return;
      const Pod& pod = pods_[name->second];
      for (size_t i = from; i < std::min(from + kClaimsAtOnce, open.size()); ++i) {
        const PortKey key = FromWire(open[i]);
        if (NeedsScan(pod, key)) udp_inserts_.insert(cookie);
        auto reported = pod.reported.find({key.protocol, key.port});
        if (reported != pod.reported.end() && reported->second.contains(key)) continue;
        CheckLocked(open[i]);
        ++different;
      }
    }
    Serve();
  }
  std::lock_guard lock(mutex_);
  auto name = key_of_cookie_.find(cookie);
  if (name == key_of_cookie_.end()) return;
  Pod& pod = pods_[name->second];
  Claims closed;
  for (const auto& [number, claims] : pod.reported) {
    for (const auto& [key, epoch_ns] : claims) {
      const hk_claim_key wire = ToWire(cookie, key);
      if (!std::binary_search(open.begin(), open.end(), wire, ClaimLess)) closed.push_back(wire);
    }
  }
  for (const hk_claim_key& key : closed) CheckLocked(key);
  pod.compare_next_ns = started + (different + closed.size()) * kPauseForAChangeNs;
  // It fell behind again meanwhile.
  const bool again = pod.behind_until_ns > started;
  pod.compare_at_ns = again ? std::max(pod.behind_until_ns, pod.compare_next_ns) : 0;
}

void BpfPorts::ScanInto(uint64_t cookie, bool tcp) {
  std::string path;
  {
    std::lock_guard lock(mutex_);
    auto name = key_of_cookie_.find(cookie);
    if (name == key_of_cookie_.end()) return;
    path = pods_[name->second].ports.netns_path;
  }
  const uint64_t began = Now(CLOCK_MONOTONIC);
  absl::Status scanned = [&]() -> absl::Status {
    HK_ASSIGN_OR_RETURN(sys::NetnsRef ns, sys::NetnsRef::Open(path));
    return sys::InNetns(ns, [&] { return tcp ? kernel_->ScanTcp() : kernel_->ScanUdp(); });
  }();
  uint64_t& paid_at = scans_paid_at_[cookie];
  paid_at = std::max(paid_at, began) + kScanShare * (Now(CLOCK_MONOTONIC) - began);
  // The namespace went away with its sockets, or the kernel is out of memory. The port is reported all the same.
  if (!scanned.ok()) {
    spdlog::warn("ports: {}; sockets bound to one address stay unreachable from the other PU", Message(scanned));
  }
}

// A Pod where slots come free all the time is looked at all the same, and once more for the last of them.
void BpfPorts::LookForSlots(uint64_t cookie, uint64_t at_ns) {
  auto [look, is_first] = slots_free_.try_emplace(cookie, Look{.at_ns = at_ns, .again_ns = at_ns});
  look->second.again_ns = std::max(look->second.again_ns, at_ns);
}

void BpfPorts::FillFreeSlots() {
  const uint64_t now = Now(CLOCK_MONOTONIC);
  auto look = std::find_if(slots_free_.begin(), slots_free_.end(),
                           [&](const auto& entry) { return now >= entry.second.at_ns && MayScan(entry.first); });
  if (look == slots_free_.end()) return;
  ScanInto(look->first, /*tcp=*/true);
  ScanInto(look->first, /*tcp=*/false);
  look->second.at_ns = look->second.again_ns;
  if (look->second.again_ns <= now) slots_free_.erase(look);
}

// Sockets that no hook could refuse get their owner when there is room, whoever made it: the same scan finds them as
// finds those that have no slot. The first look is at all Pods: a former heterod may have left some.
void BpfPorts::OwnUnowned() {
  const uint64_t ever = kernel_->Stat(HK_STAT_UNOWNED), now = Now(CLOCK_MONOTONIC);
  std::lock_guard lock(mutex_);
  if (std::exchange(unowned_seen_, ever) != ever) {
    for (const auto& [cookie, pod_key] : key_of_cookie_) unowned_.insert(cookie);
  }
  if (now < unowned_after_ns_) return;
  std::erase_if(unowned_, [&](uint64_t cookie) {
    const std::optional<hk_share> share = kernel_->shares.Get(cookie);
    if (!share.has_value() || share->unowned == 0) return true;
    if (kernel_->HasRoom(*share)) LookForSlots(cookie, now);
    return false;
  });
  unowned_after_ns_ = now + kUnownedNs;
}

// A walk passes the room of all Pods, so it is made only where there is something.
void BpfPorts::SweepGone() {
  const uint64_t now = Now(CLOCK_MONOTONIC);
  std::set<uint64_t> due;
  bool walk = false;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [cookie, at_ns] : gone_) {
      if (now < at_ns) continue;
      due.insert(cookie);
      const std::optional<hk_share> share = kernel_->shares.Get(cookie);
      walk |= share.has_value() && share->used > 0;
    }
  }
  if (due.empty()) return;
  Claims left;
  absl::Status swept = absl::OkStatus();
  if (walk) {
    swept = kernel_->local.Walk([&](const auto& batch) {
      for (const auto& [key, claim] : batch) {
        if (due.contains(key.netns)) left.push_back(key);
      }
      Serve();
    });
  }
  for (size_t from = 0; from < left.size() && swept.ok(); from += kClaimsAtOnce) {
    {
      std::lock_guard lock(mutex_);
      for (size_t i = from; i < std::min(from + kClaimsAtOnce, left.size()) && swept.ok(); ++i) {
        // Not of one that was added again.
        if (gone_.contains(left[i].netns)) swept = kernel_->Order(HK_FORGET_CLAIM, left[i]).status();
      }
    }
    Serve();
  }
  std::lock_guard lock(mutex_);
  for (uint64_t cookie : due) {
    if (gone_.contains(cookie) && swept.ok()) swept = DropShareLocked(cookie);
    if (auto late = gone_.find(cookie); late != gone_.end()) late->second = now + kWalkAgainNs;
  }
  if (!swept.ok()) spdlog::warn("ports: what a removed Pod left stays for now: {}", Message(swept));
}

}  // namespace heterok8s::ports
