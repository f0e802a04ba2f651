// From the event ring to the listener.
//
// An event says that a claim came or went; the map `local` says what is true. Events are reported one by one, in the
// kernel's order, and after each batch every claim they named is compared with the map, so two events that
// crossed between CPUs, or one that found the ring full, leave nothing wrong behind.
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "node-agent/ports/bpf_ports.h"
#include "node-agent/ports/claims.h"
#include "node-agent/ports/clock.h"
#include "node-agent/ports/pace.h"

namespace heterok8s::ports {
namespace {

// A program names itself by any bytes it likes, and this name goes to logs, terminals and messages that must be UTF-8.
std::string PrintableName(const char (&command)[16]) {
  std::string name(command, strnlen(command, sizeof command));
  for (char& c : name) {
    if (c < ' ' || c > '~') c = '?';
  }
  return name;
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
    adopted_at_ns_ = MonotonicNs();
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
    pod.behind_until_ns = MonotonicNs() + HK_WINDOW_NS;
    LookForSlots(pod.cookie, pod.behind_until_ns + kSlotFreeNs);
    if (pod.compare_at_ns == 0) pod.compare_at_ns = std::max(pod.behind_until_ns, pod.compare_next_ns);
    return;
  }
  if (event.kind == HK_REFUSED || event.kind == HK_NO_ROOM || event.kind == HK_UNOWNED) {
    uint64_t age_ns = MonotonicNs() - event.time_ns;
    pod.last_refusal =
        Refusal{.pod_key = pod.ports.pod_key,
                .key = key,
                .pid = event.pid,
                .command = PrintableName(event.command),
                .unix_ms = static_cast<int64_t>((RealNs() - age_ns) / 1'000'000),
                .reason = event.kind == HK_REFUSED ? Refusal::Reason::kOtherPu : Refusal::Reason::kShare};
    if (event.kind != HK_REFUSED) ShareUsedUpLocked(pod, *pod.last_refusal, event.kind == HK_NO_ROOM);
    return;
  }
  if (event.kind == HK_SLOT_FREE) {
    LookForSlots(pod.cookie, MonotonicNs() + kSlotFreeNs);
    return;
  }
  touched_.push_back(event.key);
  // Of a former heterod's time, or of an earlier life of this Pod: the comparison says what is left of it.
  if (event.time_ns < adopted_at_ns_ || event.time_ns < pod.generation) return;
  ReportLocked(pod, key, event.kind == HK_OPENED, event.time_ns);
  if (event.kind == HK_OPENED && NeedsScan(pod, key)) udp_inserts_.insert(pod.cookie);
}

void BpfPorts::ReportLocked(Pod& pod, const PortKey& key, bool open, uint64_t epoch_ns) {
  if (open == IsReported(pod, key)) return;
  const PortNumber number{key.protocol, key.port};
  if (open) {
    pod.reported[number][key] = epoch_ns;
  } else {
    auto reported = pod.reported.find(number);
    reported->second.erase(key);
    if (reported->second.empty()) pod.reported.erase(reported);
    SettleLocked(pod, number);
  }
  changes_.push_back({.pod_key = pod.ports.pod_key, .key = key, .opened = open, .epoch_ns = epoch_ns});
}

// At once, of what is known, not by a comparison, which may have to wait: as long as the listener lacks a port, the
// other PU thinks that nobody owns it. AddPod waits for it, so that who lists the Pod's ports next has them all.
void BpfPorts::TellAgain() {
  std::vector<PortChange> open;
  std::vector<uint64_t> found;
  {
    std::lock_guard lock(mutex_);
    for (const std::string& pod_key : tell_again_) {
      auto pod = pods_.find(pod_key);
      if (pod == pods_.end()) continue;
      if (pod->second.is_new) {
        found.push_back(pod->second.cookie);
        continue;
      }
      for (const auto& [number, claims] : pod->second.reported) {
        for (const auto& [key, epoch_ns] : claims)
          open.push_back({.pod_key = pod_key, .key = key, .opened = true, .epoch_ns = epoch_ns});
      }
    }
    telling_again_ = std::exchange(tell_again_, {});
    if (telling_again_.empty()) return;
  }
  for (const PortChange& change : open) listener_(change);
  if (!found.empty()) TellFound(found);
  std::lock_guard lock(mutex_);
  telling_again_.clear();
  told_again_.notify_all();
}

// What AddPod's scans found in Pods that are new here, as after another layout: the ring may have told of only a part.
void BpfPorts::TellFound(const std::vector<uint64_t>& cookies) {
  kernel_->DrainRing();
  for (uint64_t cookie : cookies) {
    {
      std::lock_guard lock(mutex_);
      for (const auto& [key, claim] : OpenClaims(cookie)) CheckLocked(key);
    }
    if (udp_inserts_.erase(cookie) > 0) ScanInto(cookie, /*tcp=*/false);
  }
  Tell();
}

// A program may try again for ever.
void BpfPorts::ShareUsedUpLocked(Pod& pod, const Refusal& refusal, bool refused) {
  if (!pod.warn_share.Now()) return;
  std::optional<hk_share> share = kernel_->shares.Get(pod.cookie);
  spdlog::warn(
      "ports of Pod '{}': {} of {} (pid {}) {}: the Pod has {} ports on this PU, all that it may have now ({} are its "
      "own in any case, up to {} while there is room). It has to close some; heterod_refused_binds_total counts on",
      pod.ports.pod_key, refusal.key.ToString(), refusal.command, refusal.pid,
      refused ? "was refused with ENOBUFS" : "has no owner and cannot be reached from the other PU",
      share.has_value() ? share->used : 0, HK_SHARE_GUARANTEED, HK_SHARE_MOST);
}

int BpfPorts::TimeoutMs() const {
  if (!touched_.empty()) return 0;
  const uint64_t now = MonotonicNs();
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
  return unowned_.empty() && gone_.empty() ? kIdleMs : static_cast<int>(kUnownedNs / 1'000'000);
}

// From the ring to the listener. Also between the steps of what takes long, so that no Pod waits for what another
// needs.
void BpfPorts::Serve() {
  TellAgain();
  kernel_->DrainRing();
  CheckTouched();
  Tell();
}

// The map may be newer than the events that were read. What came before the change that it shows is in the ring by then
// and is told first, so that what one program did is told in its order.
void BpfPorts::CheckTouched() {
  const auto is_open = [&](const hk_claim_key& key) {
    const std::optional<hk_local> claim = kernel_->local.Get(key);
    return claim.has_value() && IsOpen(*claim);
  };
  std::vector<std::pair<hk_claim_key, bool>> news;
  {
    std::lock_guard lock(mutex_);
    for (const hk_claim_key& key : std::exchange(touched_, {})) {
      auto name = key_of_cookie_.find(key.netns);
      if (name == key_of_cookie_.end()) continue;
      const bool open = is_open(key);
      if (open != IsReported(pods_[name->second], FromWire(key))) news.emplace_back(key, open);
    }
  }
  if (news.empty()) return;
  kernel_->DrainRing();
  std::lock_guard lock(mutex_);
  for (const auto& [key, open] : news) {
    if (is_open(key) == open) {
      CheckLocked(key);
    } else {
      touched_.push_back(key);  // again, with what the ring had besides
    }
  }
}

bool BpfPorts::IsReported(const Pod& pod, const PortKey& key) {
  auto reported = pod.reported.find({key.protocol, key.port});
  return reported != pod.reported.end() && reported->second.contains(key);
}

// What the map says of this claim, if that is not what was told.
void BpfPorts::CheckLocked(const hk_claim_key& key) {
  auto name = key_of_cookie_.find(key.netns);
  if (name == key_of_cookie_.end()) return;
  const std::optional<hk_local> claim = kernel_->local.Get(key);
  const bool open = claim.has_value() && IsOpen(*claim);
  ReportLocked(pods_[name->second], FromWire(key), open, open ? claim->since_ns : MonotonicNs());
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

}  // namespace heterok8s::ports
