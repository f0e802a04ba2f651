// From socket dumps to the listener.
#include <fmt/format.h>
#include <poll.h>
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

// epoll_wait() knows milliseconds only, and epoll_pwait2() is of 5.11.
void WaitUntil(int epoll_fd, uint64_t at_ns) {
  pollfd readable{.fd = epoll_fd, .events = POLLIN, .revents = 0};
  const uint64_t now = MonotonicNs(), wait_ns = at_ns <= now ? 0 : at_ns - now;
  const timespec timeout{.tv_sec = static_cast<time_t>(wait_ns / 1'000'000'000),
                         .tv_nsec = static_cast<long>(wait_ns % 1'000'000'000)};
  (void)ppoll(&readable, 1, at_ns == UINT64_MAX ? nullptr : &timeout, nullptr);
}

}  // namespace

absl::Status PlaceholderPorts::Start() {
  epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  epoll_event event{.events = EPOLLIN, .data = {.ptr = nullptr}};
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
    uint64_t at_ns;
    {
      std::lock_guard lock(mutex_);
      at_ns = NextLocked();
    }
    WaitUntil(epoll_.get(), at_ns);
    std::vector<PortChange> changes;
    uint64_t round;
    {
      std::lock_guard lock(mutex_);
      ReadEventsLocked();
      if (MonotonicNs() >= count_at_ns_) CountAllLocked();
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

uint64_t PlaceholderPorts::NextLocked() const {
  if (pods_.empty()) return UINT64_MAX;
  uint64_t at_ns = count_at_ns_;
  for (const auto& [pod_key, pod] : pods_) {
    if (pod.budget_ns > 0) at_ns = std::min(at_ns, pod.retry_at_ns);
  }
  return at_ns;
}

// Sockets that have gone are counted at once, in their Pod alone. One in which they go all the time is not looked at
// again before the next count of all: the first and the last of a few are seen at once, of many each 2 ms.
void PlaceholderPorts::ReadEventsLocked() {
  epoll_event events[16];
  const int ready = epoll_wait(epoll_.get(), events, 16, 0);
  for (int i = 0; i < ready; ++i) {
    if (events[i].data.ptr == nullptr) {
      uint64_t drained;
      (void)!read(wake_.get(), &drained, sizeof drained);
      continue;
    }
    Pod& pod = *static_cast<Pod*>(events[i].data.ptr);  // RemoveLocked() takes its descriptor out of epoll
    pod.listens = false;
    const uint64_t last_ns = std::exchange(pod.gone_at_ns, MonotonicNs());
    CountLocked(pod);
    if (pod.gone_at_ns >= last_ns + kCountNs) ListenLocked(pod);
  }
}

void PlaceholderPorts::ListenLocked(Pod& pod) {
  epoll_event event{.events = EPOLLIN | EPOLLONESHOT, .data = {.ptr = &pod}};
  if (pod.diag.gone_fd() < 0 || pod.listens) return;
  pod.listens = epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, pod.diag.gone_fd(), &event) == 0;
}

void PlaceholderPorts::CountAllLocked() {
  const uint64_t started = MonotonicNs();
  uint64_t counting_ns = 0;
  for (auto& [pod_key, pod] : pods_) {
    counting_ns += CountLocked(pod);
    ListenLocked(pod);
  }
  count_every_ns_ = std::clamp(kCountShare * counting_ns, kCountNs, kRarestCountNs);
  count_at_ns_ = started + count_every_ns_;
}

// Returns what the counting took, without the dump.
uint64_t PlaceholderPorts::CountLocked(Pod& pod) {
  const uint64_t began_ns = MonotonicNs(), used_ns = CpuNs();
  if (pod.diag.gone_fd() >= 0) pod.diag.DrainGone();  // what it means is in the counts
  const Changes changes = pod.counts.Read();
  ++looks_.counts;
  const bool anyway = began_ns >= pod.dumped_all_at_ns + kDumpAnywayNs;
  pod.wanted.tcp |= changes.tcp || anyway;
  pod.wanted.udp |= changes.udp || anyway;
  const uint64_t counted_ns = CpuNs();
  pod.budget_ns = std::min(kDumpBudgetNs, pod.budget_ns + (began_ns - pod.budget_at_ns) / kDumpShare);
  pod.budget_at_ns = began_ns;
  if ((pod.wanted.tcp || pod.wanted.udp) && pod.budget_ns > 0) {
    if (pod.wanted.tcp && pod.wanted.udp) pod.dumped_all_at_ns = began_ns;
    absl::Status compared = CompareLocked(pod, std::exchange(pod.wanted, {}));
    if (!compared.ok() && pod.warn_dump.Now()) {
      spdlog::warn("ports of Pod '{}': {}", pod.ports.pod_key, Message(compared));
    }
    pod.budget_ns -= std::min(pod.budget_ns, CpuNs() - counted_ns);
  }
  return counted_ns - used_ns;
}

// Sorted, as Pod::local is: a list of a thousand is compared in one go.
PlaceholderPorts::SocketsOf PlaceholderPorts::OwnSockets(const Pod& pod, const std::vector<DiagSocket>& sockets) const {
  std::vector<uint64_t> placeholders;
  for (const auto& [key, hold] : pod.remote) {
    if (hold.placeholder.has_value()) placeholders.push_back(hold.placeholder->cookie);
  }
  std::sort(placeholders.begin(), placeholders.end());
  std::vector<PortKey> keys;
  keys.reserve(sockets.size());
  for (const DiagSocket& socket : sockets) {
    if (!std::binary_search(placeholders.begin(), placeholders.end(), socket.cookie)) keys.push_back(socket.key);
  }
  std::sort(keys.begin(), keys.end());
  SocketsOf counts;
  counts.reserve(keys.size());
  for (const PortKey& key : keys) {
    if (counts.empty() || counts.back().first != key) counts.emplace_back(key, 0);
    ++counts.back().second;
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
  ++looks_.dumps;
  const SocketsOf counts = OwnSockets(pod, sockets);
  uint64_t now = MonotonicNs();
  std::set<PortNumber> changed;
  auto open = counts.begin();
  std::erase_if(pod.local, [&](const auto& entry) {
    const PortKey& key = entry.first;
    while (open != counts.end() && open->first < key) ++open;
    const bool is_open = open != counts.end() && open->first == key;
    if (is_open || !(key.protocol == Protocol::kTcp ? which.tcp : which.udp)) return false;
    changes_.push_back({.pod_key = pod.ports.pod_key, .key = key, .opened = false, .epoch_ns = now});
    changed.insert({key.protocol, key.port});
    ++closed_;
    return true;
  });
  std::array<size_t, 2> over{};
  auto claim = pod.local.begin();
  for (const auto& [key, count] : counts) {
    while (claim != pod.local.end() && claim->first < key) ++claim;
    if (claim != pod.local.end() && claim->first == key) {
      claim->second.sockets = count;
      continue;
    }
    if (pod.local.size() >= kMostPlaceholders) {
      ++over[key.protocol == Protocol::kUdp];
      continue;
    }
    pod.local.emplace_hint(claim, key, Claim{.since_ns = now, .sockets = count});
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
