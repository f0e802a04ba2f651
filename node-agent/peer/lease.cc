#include "node-agent/peer/lease.h"

#include <fmt/format.h>

#include <algorithm>

namespace heterok8s::peer {

void Lease::SetWatcher(attach::PeerWatcher* watcher) {
  std::lock_guard lock(mutex_);
  watcher_ = watcher;
}

void Lease::Good(const Heartbeat& heartbeat, Clock::time_point at) {
  attach::PeerWatcher* tell = nullptr;
  attach::PeerWatcher* watcher = nullptr;
  {
    std::lock_guard lock(mutex_);
    const bool was_valid = last_good_ && at - *last_good_ < options_.duration;
    const bool restarted = peer_.epoch != heartbeat.epoch || peer_.boot_id != heartbeat.boot_id;
    const bool became_ready = heartbeat.ready && !peer_.ready;
    watcher = watcher_;
    if (!was_valid || restarted || became_ready) tell = watcher_;
    last_good_ = std::max(last_good_.value_or(at), at);
    peer_ = heartbeat;
    peer_.halves.reset();  // the watcher's
    last_error_.clear();
    ++news_;
  }
  has_news_.notify_all();
  if (watcher != nullptr && heartbeat.halves.has_value()) watcher->PeerHas(*heartbeat.halves);
  if (tell != nullptr) tell->PeerReturned();
}

void Lease::Bad(const absl::Status& status) {
  {
    std::lock_guard lock(mutex_);
    last_error_ = ToString(status);
    ++news_;
  }
  has_news_.notify_all();
}

void Lease::WaitForNews(uint64_t* seen, Clock::time_point until) const {
  std::unique_lock lock(mutex_);
  has_news_.wait_until(lock, until, [&] { return news_ != *seen; });
  *seen = news_;
}

void Lease::WakeWaiters() {
  {
    std::lock_guard lock(mutex_);
    ++news_;
  }
  has_news_.notify_all();
}

attach::LeaseState Lease::StateAt(Clock::time_point now) const {
  using std::chrono::milliseconds;
  std::lock_guard lock(mutex_);
  attach::LeaseState state{.peer_epoch = peer_.epoch,
                           .peer_boot_id = peer_.boot_id,
                           .peer_uplink_mtu = peer_.uplink_mtu,
                           .address = options_.address};
  if (last_good_) {
    // A heartbeat may be younger than `now` was when the caller read the clock.
    state.age = std::max(milliseconds(0), std::chrono::duration_cast<milliseconds>(now - *last_good_));
    state.valid = *state.age < options_.duration;
  }
  // What a heterod that has just started does not know is no news of the other side.
  state.decided = last_good_.has_value() || now - started_ >= options_.duration;
  const auto end = last_good_.value_or(started_) + options_.duration;
  if (end > now) state.left = std::chrono::ceil<milliseconds>(end - now);
  state.peer_ready = state.valid && peer_.ready;
  if (!state.valid) {
    state.last_error = last_error_.empty() ? "heartbeats stopped" : last_error_;
  } else if (!peer_.ready) {
    state.last_error = peer_.not_ready_reason.empty() ? "not reconciled yet" : peer_.not_ready_reason;
  }
  return state;
}

}  // namespace heterok8s::peer
