// What heterod on this PU says of the DPU: the one place that decides whether it is alive.
//
// Purpose: heterod's heartbeats carry the lease under which a Pod's two halves are one; heterocri must not think
// otherwise of the same DPU. One thread follows heterod's PeerLease and keeps the last word.
// While heterod itself is away (a restart), or has started too recently to know, nothing is said: the reader then goes
// by what it sees itself.
// Threading: thread-safe; `on_change` is called on the thread, with no lock held. Ownership: owns thread and channel.
// Errors: logged once each; state().reason has the latest.
//
//   HeterodLease lease("/run/heterok8s/admin.sock", [&] { link.PollSoon(); });
//   if (lease.state().word == HeterodLease::Word::kLost) …
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "common/rpc/channel_keeper.h"
#include "proto/heterok8s/v1/lease.grpc.pb.h"

namespace heterok8s::cri {

class HeterodLease {
 public:
  using Clock = std::chrono::steady_clock;
  enum class Word {
    kNone,   // heterod does not answer, or does not know yet
    kAlive,  // its last good heartbeat is younger than its lease
    kLost,
  };
  struct State {
    Word word = Word::kNone;
    std::optional<Clock::time_point> alive_at;  // the latest heartbeat that we know of, whatever came after
    std::string reason;                         // why it is not kAlive
  };

  HeterodLease(const std::string& socket, std::function<void()> on_change);
  ~HeterodLease();
  void Stop();

  State state() const { return StateAt(Clock::now()); }
  State StateAt(Clock::time_point now) const;

 private:
  void Loop();
  void Heard(const v1::LeaseWord& word);
  void Silent(const std::string& reason);

  const std::function<void()> on_change_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::PeerLease::Stub> stub_;
  mutable std::mutex mutex_;
  std::condition_variable stopped_changed_;
  bool stopped_ = false;
  grpc::ClientContext* watch_ = nullptr;  // while a stream is open
  Word word_ = Word::kNone;
  Clock::time_point heard_{}, good_until_{};
  std::optional<Clock::time_point> alive_at_;
  std::string reason_ = "heterod has not answered yet";
  rpc::ChannelKeeper keeper_;
  std::thread thread_;
};

}  // namespace heterok8s::cri
