// What all channels carried and what memory they use: each is looked at now and then, a few at a time.
#include "heterosock/agent/agent_impl.h"

namespace heterok8s::heterosock::agent {
namespace {

constexpr size_t kLooksPerTurn = 128;     // two system calls each
constexpr double kMostPerSecond = 256e9;  // bytes: no memory is as fast

}  // namespace

// The sum never falls when an end says less than before, and of a leap that no memory allows nothing is counted.
void Agent::Impl::LookAt(Channel& channel) {
  const auto now = std::chrono::steady_clock::now();
  const std::chrono::duration<double> since = now - channel.looked_at;
  const double most = static_cast<double>(channel.bytes) + since.count() * kMostPerSecond;
  channel.looked_at = now;
  if (const auto sides = ReadCounters(channel.memory.get()); sides.ok()) {
    for (size_t side = 0; side < 2; ++side) {
      const uint64_t sent = (*sides)[side].sent;
      uint64_t& counted = channel.ends[side].counted;
      if (sent <= counted || static_cast<double>(sent - counted) > most) continue;
      counters_.shared_bytes += sent - counted;
      counted = sent;
    }
  }
  const uint64_t used = UsedBytes(channel.memory.get());
  used_bytes_ += used - channel.used;
  channel.used = used;
}

void Agent::Impl::CountFromHere(Channel& channel) {
  const auto sides = ReadCounters(channel.memory.get());
  if (!sides.ok()) return;
  for (size_t side = 0; side < 2; ++side) channel.ends[side].counted = (*sides)[side].sent;
}

void Agent::Impl::LookAround() {
  if (!looking_) look_from_ = {};
  LookOn();
}

void Agent::Impl::LookOn() {
  auto at = channels_.lower_bound(look_from_);
  for (size_t looks = 0; looks < kLooksPerTurn && at != channels_.end(); ++looks, ++at) LookAt(at->second);
  looking_ = at != channels_.end();
  if (looking_) look_from_ = at->first;
}

}  // namespace heterok8s::heterosock::agent
