// From socket dumps to the listener.
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "node-agent/ports/clock.h"
#include "node-agent/ports/placeholder_ports.h"

namespace heterok8s::ports {
namespace {

// Counting sockets takes some microseconds for each Pod. With many Pods it is done less often, so that it takes at most
// one hundredth of a CPU.
constexpr uint64_t kCountNs = 2'000'000, kRarestCountNs = 100'000'000;
constexpr uint64_t kCountShare = 100;
// Counts that change with every connection of a busy server must not make dumps take more than a quarter of a CPU, as
// an average over a second: a single change is looked at at once.
constexpr uint64_t kDumpShare = 4, kDumpBudgetNs = 250'000'000;
// What the counts do not show.
constexpr uint64_t kDumpAnywayNs = 100'000'000;

}  // namespace

absl::Status PlaceholderPorts::Start() {
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_event event{.events = EPOLLIN, .data = {.fd = wake_.get()}};
  if (!epoll_.valid() || !wake_.valid() || epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), &event) != 0) {
    return ErrnoToStatus(errno, "make epoll and eventfd");
  }
  rlimit files{};
  if (getrlimit(RLIMIT_NOFILE, &files) != 0) return ErrnoToStatus(errno, "read the limit of descriptors");
  files.rlim_cur = files.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &files) != 0) return ErrnoToStatus(errno, "raise the limit of descriptors");
  most_placeholders_ = static_cast<size_t>(files.rlim_cur / 2);
  thread_ = std::thread([this] { Loop(); });
  return absl::OkStatus();
}

PlaceholderPorts::~PlaceholderPorts() {
  stopping_ = true;
  Wake();
  if (thread_.joinable()) thread_.join();
}

void PlaceholderPorts::Wake() {
  uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof one);
}

void PlaceholderPorts::Loop() {
  while (!stopping_) {
    int timeout_ms;
    {
      std::lock_guard lock(mutex_);
      timeout_ms = TimeoutMsLocked();
    }
    epoll_event event{};
    const int ready = epoll_wait(epoll_.get(), &event, 1, timeout_ms);
    const bool is_wake = ready == 1 && event.data.fd == wake_.get();
    uint64_t drained;
    if (is_wake) (void)!read(wake_.get(), &drained, sizeof drained);
    std::vector<PortChange> changes;
    uint64_t round;
    {
      std::lock_guard lock(mutex_);
      if ((ready == 1 && !is_wake) || MonotonicNs() >= count_at_ns_) CountAllLocked();
      for (auto& [pod_key, pod] : pods_) RetryLocked(pod);
      changes.swap(changes_);
      round = ++rounds_;
    }
    for (const PortChange& change : changes) listener_(change);
    std::lock_guard lock(mutex_);
    told_round_ = round;
    told_.notify_all();
  }
}

int PlaceholderPorts::TimeoutMsLocked() const {
  if (pods_.empty()) return -1;
  uint64_t at_ns = count_at_ns_;
  for (const auto& [pod_key, pod] : pods_) {
    if (pod.budget_ns > 0) at_ns = std::min(at_ns, pod.retry_at_ns);
  }
  const uint64_t now = MonotonicNs();
  return at_ns <= now ? 0 : static_cast<int>((at_ns - now + 999'999) / 1'000'000);
}

void PlaceholderPorts::CountAllLocked() {
  uint64_t started = MonotonicNs(), counting_ns = 0;
  for (auto& [pod_key, pod] : pods_) {
    uint64_t begin = MonotonicNs();
    if (pod.diag.gone_fd() >= 0) pod.diag.DrainGone();  // it woke us up; what it means is in the counts
    Changes changes = pod.counts.Read();
    bool anyway = begin >= pod.dumped_all_at_ns + kDumpAnywayNs;
    pod.wanted.tcp |= changes.tcp || anyway;
    pod.wanted.udp |= changes.udp || anyway;
    uint64_t counted = MonotonicNs();
    counting_ns += counted - begin;
    uint64_t earned = (counted - pod.budget_at_ns) / kDumpShare;
    pod.budget_ns = std::min(kDumpBudgetNs, pod.budget_ns + earned);
    pod.budget_at_ns = counted;
    if ((!pod.wanted.tcp && !pod.wanted.udp) || pod.budget_ns == 0) continue;
    if (pod.wanted.tcp && pod.wanted.udp) pod.dumped_all_at_ns = counted;
    absl::Status compared = CompareLocked(pod, std::exchange(pod.wanted, {}));
    if (!compared.ok() && pod.warn_dump.Now()) spdlog::warn("ports of Pod '{}': {}", pod_key, Message(compared));
    pod.budget_ns -= std::min(pod.budget_ns, MonotonicNs() - counted);
  }
  count_every_ns_ = std::clamp(kCountShare * counting_ns, kCountNs, kRarestCountNs);
  count_at_ns_ = started + count_every_ns_;
}

std::map<PortKey, uint32_t> PlaceholderPorts::OwnSockets(const Pod& pod, const std::vector<DiagSocket>& sockets) const {
  std::set<uint64_t> placeholders;
  for (const auto& [key, hold] : pod.remote) {
    if (hold.placeholder.has_value()) placeholders.insert(hold.placeholder->cookie);
  }
  std::map<PortKey, uint32_t> counts;
  for (const DiagSocket& socket : sockets) {
    if (!placeholders.contains(socket.cookie)) ++counts[socket.key];
  }
  return counts;
}

// Nothing here can refuse a bind: what is too much stays without an owner until others close.
void PlaceholderPorts::TooManyLocked(Pod& pod, size_t more) {
  unowned_ += more;
  if (!pod.warn_too_many.Now()) return;
  spdlog::warn(
      "ports of Pod '{}': it has {} more than the {} that can have an owner on one PU; the other PU neither reaches "
      "nor refuses them. It has to close some",
      pod.ports.pod_key, pod.over[false] + pod.over[true], kMostPlaceholders);
}

// Closings first: a port that moved from one address to another is never in two hands.
absl::Status PlaceholderPorts::CompareLocked(Pod& pod, Changes which) {
  HK_ASSIGN_OR_RETURN(std::vector<DiagSocket> sockets, pod.diag.List(which.tcp, which.udp));
  std::map<PortKey, uint32_t> counts = OwnSockets(pod, sockets);
  uint64_t now = MonotonicNs();
  std::set<PortNumber> changed;
  std::erase_if(pod.local, [&](const auto& entry) {
    const PortKey& key = entry.first;
    if (counts.contains(key) || !(key.protocol == Protocol::kTcp ? which.tcp : which.udp)) return false;
    changes_.push_back({.pod_key = pod.ports.pod_key, .key = key, .opened = false, .epoch_ns = now});
    changed.insert({key.protocol, key.port});
    ++closed_;
    return true;
  });
  std::array<size_t, 2> over{};
  for (const auto& [key, count] : counts) {
    if (pod.local.size() >= kMostPlaceholders && !pod.local.contains(key)) {
      ++over[key.protocol == Protocol::kUdp];
      continue;
    }
    auto [claim, is_new] = pod.local.try_emplace(key, Claim{.since_ns = now, .sockets = count});
    claim->second.sockets = count;
    if (!is_new) continue;
    changes_.push_back({.pod_key = pod.ports.pod_key, .key = key, .opened = true, .epoch_ns = now});
    changed.insert({key.protocol, key.port});
    ++opened_;
  }
  size_t more = 0;
  for (bool udp : {false, true}) {
    if (!(udp ? which.udp : which.tcp)) continue;
    if (over[udp] > pod.over[udp]) more += over[udp] - pod.over[udp];
    pod.over[udp] = over[udp];
  }
  if (more > 0) TooManyLocked(pod, more);
  if (!changed.empty()) SettleLocked(pod, std::move(changed));
  return absl::OkStatus();
}

}  // namespace heterok8s::ports
