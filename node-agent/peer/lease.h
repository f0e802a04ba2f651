// Whether the other PU's heterod is alive and what it has, as far as its heartbeats tell.
//
// Purpose: the one place that knows when the last good heartbeat was, from whom, and tells the engine when the
// other side is back, and which halves it says that it has. On the host the heartbeats are the answers to its own, on
// the DPU those that it receives. Threading: thread-safe; the watcher is called on the thread that reports the
// heartbeat, with no lock held. Errors: none; state() says why the lease is not valid.
//
//   Lease lease({.duration = std::chrono::seconds(5), .address = "192.0.2.2:7443"});
//   lease.SetWatcher(&engine);
//   lease.Good({.epoch = 7, .boot_id = "…", .ready = true}, sent_at);
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/attach/peer.h"

namespace heterok8s::peer {

struct Heartbeat {
  uint64_t epoch = 0;
  std::string boot_id;
  bool ready = false;
  std::string not_ready_reason;
  int uplink_mtu = 0;                                        // bytes; 0: it has no default route
  std::optional<std::vector<attach::PodGeneration>> halves;  // whole there; absent: it has not reconciled
};

class Lease {
 public:
  using Clock = std::chrono::steady_clock;
  struct Options {
    std::chrono::milliseconds duration{5000};
    std::string address;  // of the other heterod, for people
  };
  explicit Lease(Options options, Clock::time_point now = Clock::now()) : options_(std::move(options)), started_(now) {}

  void SetWatcher(attach::PeerWatcher* watcher);

  // A heartbeat that certainly was alive at `at` (when it was sent, not when its answer came).
  void Good(const Heartbeat& heartbeat, Clock::time_point at);
  void Bad(const absl::Status& status);

  attach::LeaseState state() const { return StateAt(Clock::now()); }
  attach::LeaseState StateAt(Clock::time_point now) const;

  // Until a heartbeat, good or bad, that the caller has not seen, WakeWaiters(), or `until`. `seen` begins with 0.
  void WaitForNews(uint64_t* seen, Clock::time_point until) const;
  void WakeWaiters();

 private:
  const Options options_;
  const Clock::time_point started_;
  mutable std::mutex mutex_;
  mutable std::condition_variable has_news_;
  uint64_t news_ = 1;
  attach::PeerWatcher* watcher_ = nullptr;
  std::optional<Clock::time_point> last_good_;
  Heartbeat peer_;
  std::string last_error_ = "no heartbeat yet";
};

}  // namespace heterok8s::peer
