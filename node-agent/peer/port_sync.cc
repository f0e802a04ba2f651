#include "node-agent/peer/port_sync.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "node-agent/peer/convert.h"

namespace heterok8s::peer {
namespace {

// One transaction for the whole set costs about as much as this many single ones.
constexpr size_t kReplaceFrom = 32;

// A Pod's link is there a moment after its ports are; steering that failed is tried again after this, doubling.
constexpr std::chrono::milliseconds kFirstRetry{10};

// A Pod that goes here first is told of by the other PU as well, and does not come again: those of a start are far
// fewer.
constexpr size_t kMostRemovedEarly = 4096;

const char* Name(pu::Side side) { return side == pu::Side::kHost ? "host" : "dpu"; }

// ports::PortChange's clock is CLOCK_MONOTONIC, which is what steady_clock reads.
std::chrono::steady_clock::time_point AtEpoch(uint64_t epoch_ns) {
  return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(epoch_ns));
}

}  // namespace

void PortSync::Start(ports::Ports& ports, podnet::PodNet& podnet, LinkOf link_of) {
  ports_ = &ports;
  podnet_ = &podnet;
  link_of_ = std::move(link_of);
  worker_ = std::thread([this] { Run(); });
}

void PortSync::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  queued_.notify_all();
  if (worker_.joinable()) worker_.join();
}

void PortSync::Post(std::function<void()> event) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(event));
  }
  queued_.notify_one();
}

void PortSync::LocalChange(const ports::PortChange& change) {
  Post([this, change] { OnLocalChange(change); });
}
void PortSync::PodAdding(const std::string& pod_key) {
  Post([this, pod_key] { PodOf(pod_key).expected = true; });
}
void PortSync::PodAdded(const std::string& pod_key) {
  Post([this, pod_key] { OnPodAdded(pod_key); });
}
void PortSync::PodRemoved(const std::string& pod_key, bool was_here) {
  Post([this, pod_key, was_here] { OnPodRemoved(pod_key, was_here); });
}

void PortSync::Connected(std::shared_ptr<PortSession> session) {
  Post([this, session = std::move(session)]() mutable {
    if (session_ != nullptr) session_->Close();
    session_ = std::move(session);
    received_ = acknowledged_ = 0;
    unanswered_.clear();
    unsaid_.clear();
    waiting_.clear();
    connected_ = true;
    // Of Pods that this PU has not, the other one tells anew.
    std::erase_if(pods_, [](const auto& pod) { return !pod.second.expected && !pod.second.in_kernel; });
    // Of one that is being added not all is known, and the other PU would let go of what is missing: OnPodAdded tells.
    for (auto& [pod_key, pod] : pods_) {
      pod.arrived.clear();
      pod.said.clear();
      pod.unsaid.Clear();
      pod.on_their_way = 0;
      if (pod.in_kernel) SendSnapshot(pod_key, pod);
    }
    for (const std::string& pod_key : std::exchange(untold_removals_, {})) SendRemoved(pod_key);
  });
}

void PortSync::Received(const std::shared_ptr<PortSession>& session, v1::PortMessage message) {
  Post([this, session, message = std::move(message)] {
    if (session == session_) OnMessage(message);
  });
}

void PortSync::Acknowledged(const std::shared_ptr<PortSession>& session, uint64_t sequence) {
  Post([this, session, sequence] {
    if (session == session_) OnAcknowledged(sequence);
  });
}

void PortSync::Disconnected(const std::shared_ptr<PortSession>& session) {
  Post([this, session] {
    if (session != session_) return;
    session_ = nullptr;  // what has arrived of it is put in force all the same
    connected_ = false;
  });
}

// Everything queued is handled before anything is steered: a burst of changes reaches the other side first, and is
// steered by as few kernel transactions as its outcome needs. What is queued costs no call of the kernel, so however
// long those take that some Pod causes, the queue is short.
void PortSync::Run() {
  auto retry = kFirstRetry;
  std::vector<std::function<void()>> events;
  std::unique_lock lock(mutex_);
  while (!stopped_) {
    const auto ready = [this] { return stopped_ || !queue_.empty(); };
    if (!waiting_.empty()) {
      // there is work
    } else if (unsteered_.empty() && crowded_.empty()) {
      queued_.wait(lock, ready);
    } else {
      queued_.wait_for(lock, unsteered_.empty() ? kLongestRetry : retry, ready);
    }
    if (stopped_) return;
    events.swap(queue_);
    lock.unlock();
    retry = events.empty() ? std::min(retry * 2, kLongestRetry) : kFirstRetry;
    for (const auto& event : events) event();
    events.clear();
    SayUnsaid();
    EnforceArrived();
    ClaimRefused();
    SteerUnsteered();
    const uint64_t in_force = InForceUpTo();
    if (in_force > acknowledged_ && session_ != nullptr) session_->Acknowledge(acknowledged_ = in_force);
    lock.lock();
  }
}

void PortSync::OnLocalChange(const ports::PortChange& change) {
  auto it = pods_.find(change.pod_key);
  if (it == pods_.end()) return;  // the Pod was removed meanwhile
  Pod& pod = it->second;
  if (change.opened) {
    pod.claims.Open(change.key, change.epoch_ns);
  } else {
    pod.claims.Close(change.key);
  }
  unsteered_.insert(change.pod_key);
  if (!pod.in_kernel || session_ == nullptr) return;  // a snapshot tells
  if (!change.opened && !pod.said.contains(change.key)) {
    pod.unsaid.Erase(change.key);  // opened and closed before the other PU has heard of it
  } else {
    pod.unsaid.Push(change.key);
    unsaid_.insert(change.pod_key);
  }
}

void PortSync::OnPodAdded(const std::string& pod_key) {
  Pod& pod = PodOf(pod_key);
  pod.in_kernel = true;
  pod.steered_known = false;
  untold_removals_.erase(pod_key);
  if (removed_early_.erase(pod_key) > 0) pod.told = true;
  EnforceRemote(pod_key, pod);
  SendSnapshot(pod_key, pod);
  unsteered_.insert(pod_key);
}

void PortSync::OnPodRemoved(const std::string& pod_key, bool was_here) {
  const auto pod = pods_.find(pod_key);
  const bool may_be_known = was_here || (pod != pods_.end() && (pod->second.expected || pod->second.in_kernel));
  if (pod != pods_.end()) pods_.erase(pod);
  unsteered_.erase(pod_key);
  unsaid_.erase(pod_key);
  if (may_be_known) SendRemoved(pod_key);
  std::lock_guard lock(mutex_);
  last_conflict_.erase(pod_key);
}

void PortSync::OnMessage(const v1::PortMessage& message) {
  Count(&Counters::received);
  switch (message.what_case()) {
    case v1::PortMessage::kSnapshot:
      OnSnapshot(message.snapshot());
      break;
    case v1::PortMessage::kDelta:
      Wait(message.delta().pod_key(), message);
      break;
    case v1::PortMessage::kConflict:
      if (pods_.contains(message.conflict().pod_key())) Wait(message.conflict().pod_key(), message);
      break;
    case v1::PortMessage::WHAT_NOT_SET:
      break;
  }
  received_ = std::max(received_, message.sequence());
}

void PortSync::OnSnapshot(const v1::PortSnapshot& snapshot) {
  const std::string& pod_key = snapshot.pod_key();
  if (snapshot.removed() && !pods_.contains(pod_key)) {
    if (removed_early_.size() >= kMostRemovedEarly) removed_early_.erase(removed_early_.begin());
    removed_early_.insert(pod_key);
    return;
  }
  removed_early_.erase(pod_key);
  Pod& pod = PodOf(pod_key);  // the other half may be made first; this one follows
  for (const v1::PortMessage& before : std::exchange(pod.arrived, {})) {
    if (before.has_conflict()) OnConflict(before.conflict());  // what deltas say is in the snapshot
  }
  PodClaims::Claims claimed;
  for (int i = 0; i < snapshot.ports_size(); ++i) {
    absl::StatusOr<ports::PortKey> key = FromProto(snapshot.ports(i));
    if (!key.ok()) {
      Failed(fmt::format("snapshot of pod {}", pod_key), key.status());
      continue;
    }
    claimed[*key] = i < snapshot.epochs_ns_size() ? snapshot.epochs_ns(i) : 0;
  }
  ReplaceRemote(pod_key, pod, claimed);
  pod.told = true;
  unsteered_.insert(pod_key);
  if (snapshot.removed() && !pod.expected && !pod.in_kernel) pods_.erase(pod_key);  // neither side has it any longer
}

void PortSync::OnDelta(const v1::PortDelta& delta) {
  absl::StatusOr<ports::PortKey> key = FromProto(delta.port());
  if (!key.ok()) return Failed(fmt::format("port of pod {}", delta.pod_key()), key.status());
  Pod& pod = PodOf(delta.pod_key());
  if (delta.opened()) {
    ClaimRemote(delta.pod_key(), pod, *key, delta.epoch_ns());
  } else {
    DropRemote(delta.pod_key(), pod, *key);
  }
}

void PortSync::OnConflict(const v1::PortConflict& conflict) {
  auto it = pods_.find(conflict.pod_key());
  absl::StatusOr<ports::PortKey> key = FromProto(conflict.port());
  if (it == pods_.end() || !key.ok() || !it->second.claims.Lose(*key)) return;
  it->second.said[*key] = 0;  // as no claim has it: opened again, it is told again
  unsteered_.insert(conflict.pod_key());
  Remember(conflict.pod_key(), it->second, *key, self_, conflict.holder());
  Count(&Counters::conflicts_lost);
}

void PortSync::SendSnapshot(const std::string& pod_key, Pod& pod) {
  pod.said = pod.claims.local();  // those that are lost too: that they close must be told
  pod.unsaid.Clear();
  unsaid_.erase(pod_key);
  if (session_ == nullptr) return;
  v1::PortMessage message;
  v1::PortSnapshot* snapshot = message.mutable_snapshot();
  snapshot->set_pod_key(pod_key);
  for (const auto& [key, epoch_ns] : pod.claims.Held()) {
    *snapshot->add_ports() = ToProto(key);
    snapshot->add_epochs_ns(epoch_ns);
  }
  session_->Send(std::move(message), std::nullopt);
  Count(&Counters::sent);
}

void PortSync::SendRemoved(const std::string& pod_key) {
  if (session_ == nullptr) {
    untold_removals_.insert(pod_key);
    return;
  }
  v1::PortMessage message;
  message.mutable_snapshot()->set_pod_key(pod_key);
  message.mutable_snapshot()->set_removed(true);
  session_->Send(std::move(message), std::nullopt);
  Count(&Counters::sent);
}

void PortSync::SendDelta(const std::string& pod_key, Pod& pod, const ports::PortKey& key, bool opened,
                         uint64_t epoch_ns) {
  if (session_ == nullptr) return;
  v1::PortMessage message;
  v1::PortDelta* delta = message.mutable_delta();
  delta->set_pod_key(pod_key);
  *delta->mutable_port() = ToProto(key);
  delta->set_opened(opened);
  delta->set_epoch_ns(epoch_ns);
  const uint64_t sequence =
      session_->Send(std::move(message), epoch_ns > 0 ? std::optional(AtEpoch(epoch_ns)) : std::nullopt);
  unanswered_.emplace_back(sequence, pod_key);
  ++pod.on_their_way;
  if (opened) {
    pod.said[key] = epoch_ns;
  } else {
    pod.said.erase(key);
  }
  Count(&Counters::sent);
}

void PortSync::SteerUnsteered() {
  for (auto it = unsteered_.begin(); it != unsteered_.end();) {
    auto pod = pods_.find(*it);
    // Without the Pod here there is no table to steer by; OnPodAdded puts it back on the list.
    if (pod == pods_.end() || !pod->second.in_kernel) {
      it = unsteered_.erase(it);
      continue;
    }
    const absl::Status status = Steer(pod->first, pod->second);
    if (status.ok()) {
      it = unsteered_.erase(it);
      continue;
    }
    // kNotFound: the link is being made.
    if (status.code() != absl::StatusCode::kNotFound) Failed(fmt::format("pod {}: steer its ports", *it), status);
    ++it;
  }
}

absl::Status PortSync::Steer(const std::string& pod_key, Pod& pod) {
  // The host steers by the DPU's ports alone: until it hears of them, by those that an earlier heterod left in podnet.
  if (self_ == pu::Side::kHost && !pod.told) return absl::OkStatus();
  if (pod.steered_known && pod.claims.changed().empty()) return absl::OkStatus();
  HK_ASSIGN_OR_RETURN(podnet::LinkSpec link, link_of_(pod_key));
  // All at once after a start, when an earlier heterod may have left ports that nobody owns, and when many changed.
  if (!pod.steered_known || pod.claims.changed().size() > kReplaceFrom) {
    const std::vector<SteeredPort> wanted = pod.claims.Steering();
    HK_RETURN_IF_ERROR(podnet_->ReplacePorts(link, wanted));
    pod.steered = {wanted.begin(), wanted.end()};
    pod.steered_known = true;
    pod.claims.SettledAll();
    return absl::OkStatus();
  }
  while (!pod.claims.changed().empty()) {
    const SteeredPort port = *pod.claims.changed().begin();
    const bool wanted = pod.claims.Steers(port);
    if (wanted != pod.steered.contains(port)) {
      HK_RETURN_IF_ERROR(podnet_->SetPort(link, port.first, port.second, wanted));
      if (wanted) {
        pod.steered.insert(port);
      } else {
        pod.steered.erase(port);
      }
    }
    pod.claims.Settled(port);
  }
  return absl::OkStatus();
}

PortSync::Counters PortSync::counters() const {
  std::lock_guard lock(mutex_);
  return counters_;
}

std::string PortSync::LastConflict(const std::string& pod_key) const {
  std::lock_guard lock(mutex_);
  auto it = last_conflict_.find(pod_key);
  return it == last_conflict_.end() ? "" : it->second;
}

void PortSync::Count(uint64_t Counters::*counter) {
  std::lock_guard lock(mutex_);
  ++(counters_.*counter);
}

void PortSync::Failed(const std::string& what, const absl::Status& status) {
  Count(&Counters::failures);
  spdlog::warn("{}: {}", what, ToString(status));
}

// A Pod may have as many as it likes.
void PortSync::Remember(const std::string& pod_key, Pod& pod, const ports::PortKey& key, pu::Side loser,
                        const std::string& holder) {
  const std::string conflict =
      fmt::format("{} of the {} lost against the {}: {}", key.ToString(), Name(loser), Name(Other(loser)), holder);
  if (pod.warn_conflict.Now()) {
    spdlog::warn("pod {}: {}; further ones are counted in heterod_port_conflicts_total", pod_key, conflict);
  }
  std::lock_guard lock(mutex_);
  last_conflict_[pod_key] = conflict;
}

}  // namespace heterok8s::peer
