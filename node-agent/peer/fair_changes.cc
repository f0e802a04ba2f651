// What Pods change reaches the other PU, and here the kernel, so that none of them has to wait for another one's.
#include <algorithm>

#include "node-agent/peer/port_sync.h"

namespace heterok8s::peer {
namespace {

// The kernel's part of a change may take milliseconds (placeholders). After so long what is queued is looked at again:
// a Pod for which nothing had arrived before gets its turn.
constexpr std::chrono::milliseconds kSlice{10};

}  // namespace

// The state that the changes of a port have led to. One that was closed and opened again is told as both: the other
// PU's claim may have waited for the first.
void PortSync::SayUnsaid() {
  for (auto it = unsaid_.begin(); it != unsaid_.end();) {
    const std::string& pod_key = *it;
    Pod& pod = pods_.at(pod_key);
    while (!pod.unsaid.empty() && pod.on_their_way < kMostOnTheirWay) {
      const ports::PortKey key = pod.unsaid.PopFront();
      const auto claim = pod.claims.local().find(key);
      const bool is_open = claim != pod.claims.local().end();
      const auto said = pod.said.find(key);
      const bool is_said = said != pod.said.end();
      if (is_said && is_open && said->second == claim->second) continue;
      if (is_said) SendDelta(pod_key, pod, key, false, 0);
      if (is_open) SendDelta(pod_key, pod, key, true, claim->second);
    }
    it = pod.unsaid.empty() ? unsaid_.erase(it) : std::next(it);
  }
}

void PortSync::OnAcknowledged(uint64_t sequence) {
  while (!unanswered_.empty() && unanswered_.front().first <= sequence) {
    auto pod = pods_.find(unanswered_.front().second);
    // Not of one that was removed, and perhaps added again, meanwhile.
    if (pod != pods_.end() && pod->second.on_their_way > 0) --pod->second.on_their_way;
    unanswered_.pop_front();
  }
}

void PortSync::Wait(const std::string& pod_key, const v1::PortMessage& message) {
  Pod& pod = PodOf(pod_key);
  if (pod.arrived.empty()) waiting_.push_back(pod_key);
  pod.arrived.push_back(message);
}

// One change of each Pod in turn.
void PortSync::EnforceArrived() {
  const auto end = std::chrono::steady_clock::now() + kSlice;
  while (!waiting_.empty() && std::chrono::steady_clock::now() < end) {
    const std::string pod_key = std::move(waiting_.front());
    waiting_.pop_front();
    auto pod = pods_.find(pod_key);
    if (pod == pods_.end() || pod->second.arrived.empty()) continue;
    const v1::PortMessage message = std::move(pod->second.arrived.front());
    pod->second.arrived.pop_front();
    if (!pod->second.arrived.empty()) waiting_.push_back(pod_key);
    message.has_delta() ? OnDelta(message.delta()) : OnConflict(message.conflict());
  }
}

// All messages up to this number are, and perhaps some after it.
uint64_t PortSync::InForceUpTo() const {
  uint64_t up_to = received_;
  for (const std::string& pod_key : waiting_) {
    auto pod = pods_.find(pod_key);
    if (pod == pods_.end() || pod->second.arrived.empty()) continue;
    up_to = std::min(up_to, pod->second.arrived.front().sequence() - 1);
  }
  return up_to;
}

}  // namespace heterok8s::peer
