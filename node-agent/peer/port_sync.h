// Keeps the two PUs' knowledge of port owners together: what this PU's Pods own is told, what the other PU's own is
// enforced here.
//
// Purpose: on a new connection a snapshot of each Pod, then each change as the kernel reports it; the other side's
// claims go to ports::SetRemote, the DPU's ports (own ones on the DPU, remote ones on the host) to podnet::SetPort, and
// only then is the message acknowledged. Two claims of one port: the lower epoch wins, of equal ones the host's; the
// loser is told (PortConflict), counted, shown by LastConflict(), and reported again when the winner lets go. When the
// connection is lost, or this heterod starts anew, the last known state of the other side stays enforced: what ports
// and podnet still hold of a Pod is kept until the other side's snapshot of it. A Pod's removal is told once, on the
// next connection when there is none; what is lost with its connection is not told again: attach removes the other
// half, or makes it anew. What a Pod's programs do is bounded: its changes are told as the state that they lead to, so
// many at a time as kMostOnTheirWay says and further ones when those are acknowledged; what arrives is put in force Pod
// by Pod in turn. So one that opens and closes ports all the time delays itself.
// Threading: thread-safe. One worker does everything in order; LocalChange() only enqueues, so it may be ports'
// listener. Ownership: borrows what Start() gets; sessions are shared with the stream that made them.
// Errors: what the kernel refuses is logged, counted and tried again; a missing link is waited for.
//
//   PortSync sync(pu::Side::kHost, [&](std::chrono::nanoseconds ack) { histogram.Observe(ack); });
//   auto ports = ports::NewBpfPorts(options, [&](const ports::PortChange& c) { sync.LocalChange(c); });
//   SyncedPorts synced(**ports, sync);           // what attach uses
//   sync.Start(**ports, podnet, [&](const std::string& key) { return engine.LinkOf(key); });
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/sys/seldom.h"
#include "node-agent/peer/key_queue.h"
#include "node-agent/peer/pod_claims.h"
#include "node-agent/podnet/podnet.h"
#include "node-agent/ports/ports.h"
#include "proto/heterok8s/v1/peer.pb.h"

namespace heterok8s::peer {

// One connection to the other side; see port_stream.h.
class PortSession {
 public:
  virtual ~PortSession() = default;
  // Gives the message its sequence number and queues it; never blocks. `since`: when the change happened, to measure
  // the time to its acknowledgement.
  // Returns that number; 0 when it is closed.
  virtual uint64_t Send(v1::PortMessage message, std::optional<std::chrono::steady_clock::time_point> since) = 0;
  virtual void Acknowledge(uint64_t sequence) = 0;
  virtual void Close() = 0;
};

class PortSync {
 public:
  using LinkOf = std::function<absl::StatusOr<podnet::LinkSpec>(const std::string& pod_key)>;
  using AckObserver = std::function<void(std::chrono::nanoseconds)>;

  PortSync(pu::Side self, AckObserver on_ack) : self_(self), on_ack_(std::move(on_ack)) {}
  ~PortSync() { Stop(); }

  void Start(ports::Ports& ports, podnet::PodNet& podnet, LinkOf link_of);
  void Stop();

  // Of this PU.
  void LocalChange(const ports::PortChange& change);
  void PodAdding(const std::string& pod_key);  // before ports::AddPod, so that what it reports finds its Pod
  void PodAdded(const std::string& pod_key);   // after it
  // `was_here`: ports had the Pod before. Of one that neither had nor was being added the other PU knows nothing.
  void PodRemoved(const std::string& pod_key, bool was_here);

  // From the stream. A new connection replaces the one before.
  void Connected(std::shared_ptr<PortSession> session);
  void Received(const std::shared_ptr<PortSession>& session, v1::PortMessage message);
  void Acknowledged(const std::shared_ptr<PortSession>& session, uint64_t sequence);
  void Disconnected(const std::shared_ptr<PortSession>& session);
  void ObserveAck(std::chrono::nanoseconds latency) const {
    if (on_ack_) on_ack_(latency);
  }

  struct Counters {
    uint64_t sent = 0, received = 0, conflicts_won = 0, conflicts_lost = 0, failures = 0;
  };
  Counters counters() const;
  bool connected() const { return connected_; }
  // "tcp 0.0.0.0:80: held by the dpu: …"; empty when there was none.
  std::string LastConflict(const std::string& pod_key) const;

 private:
  struct Pod {
    explicit Pod(pu::Side self) : claims(self) {}
    PodClaims claims;
    bool expected = false;                // attach is adding it; what ports reports meanwhile counts
    bool in_kernel = false;               // ports knows the Pod, and has told all that is open
    bool told = false;                    // by the other PU, what it owns
    std::set<SteeredPort> steered;        // as podnet has it
    bool steered_known = false;           // false: podnet may hold what an earlier heterod left
    PodClaims::Claims said;               // this PU's, as the other one has been told of them
    KeyQueue unsaid;                      // what it has not been told of
    size_t on_their_way = 0;              // messages about this PU's that are not acknowledged
    std::deque<v1::PortMessage> arrived;  // from the other PU, not in force yet
    PodClaims::Claims refused;            // the other PU's, for which there was no room: tried again
    sys::Seldom warn_refused, warn_conflict;
  };

  void Post(std::function<void()> event);
  void Run();
  Pod& PodOf(const std::string& pod_key) { return pods_.try_emplace(pod_key, self_).first->second; }

  // On the worker only.
  void OnLocalChange(const ports::PortChange& change);
  void OnPodAdded(const std::string& pod_key);
  void OnPodRemoved(const std::string& pod_key, bool was_here);
  void OnMessage(const v1::PortMessage& message);
  void OnSnapshot(const v1::PortSnapshot& snapshot);
  void OnDelta(const v1::PortDelta& delta);
  void OnConflict(const v1::PortConflict& conflict);
  void OnAcknowledged(uint64_t sequence);
  // fair_changes.cc
  void SayUnsaid();
  void Wait(const std::string& pod_key, const v1::PortMessage& message);
  void EnforceArrived();
  uint64_t InForceUpTo() const;
  // remote_claims.cc
  void EnforceRemote(const std::string& pod_key, Pod& pod);
  void ReplaceRemote(const std::string& pod_key, Pod& pod, const PodClaims::Claims& claimed);
  uint64_t RankOf(uint64_t remote_epoch_ns) const;
  void ClaimRemote(const std::string& pod_key, Pod& pod, const ports::PortKey& key, uint64_t epoch_ns);
  void Refuse(const std::string& pod_key, Pod& pod, const ports::PortKey& key, uint64_t epoch_ns);
  void ClaimRefused();
  void DropRemote(const std::string& pod_key, Pod& pod, const ports::PortKey& key);

  void SendSnapshot(const std::string& pod_key, Pod& pod);
  void SendRemoved(const std::string& pod_key);
  void SendDelta(const std::string& pod_key, Pod& pod, const ports::PortKey& key, bool opened, uint64_t epoch_ns);
  void SteerUnsteered();
  absl::Status Steer(const std::string& pod_key, Pod& pod);
  void Count(uint64_t Counters::*counter);
  void Failed(const std::string& what, const absl::Status& status);
  void Remember(const std::string& pod_key, Pod& pod, const ports::PortKey& key, pu::Side loser,
                const std::string& holder);
  static pu::Side Other(pu::Side side) { return side == pu::Side::kHost ? pu::Side::kDpu : pu::Side::kHost; }

  // Changes of one Pod's ports that the other PU has been sent and not acknowledged. A burst of so many is steered by
  // one transaction there.
  static constexpr size_t kMostOnTheirWay = 256;
  // What failed is tried again after this at the latest.
  static constexpr std::chrono::milliseconds kLongestRetry{1000};

  const pu::Side self_;
  const AckObserver on_ack_;
  ports::Ports* ports_ = nullptr;
  podnet::PodNet* podnet_ = nullptr;
  LinkOf link_of_;

  // The worker's own.
  std::map<std::string, Pod> pods_;
  std::set<std::string> unsteered_;        // Pods whose steering is not as their claims say
  std::set<std::string> crowded_;          // Pods that may have refused claims
  std::set<std::string> untold_removals_;  // Pods that went while nobody could be told
  std::set<std::string> removed_early_;    // Pods of the other PU that went before this one had them: it owns nothing
  std::chrono::steady_clock::time_point claim_refused_at_;
  std::shared_ptr<PortSession> session_;
  std::set<std::string> unsaid_;                             // Pods that have unsaid changes
  std::deque<std::string> waiting_;                          // Pods for which changes have arrived, in turn
  std::deque<std::pair<uint64_t, std::string>> unanswered_;  // messages of session_ about a Pod's ports
  uint64_t received_ = 0, acknowledged_ = 0;                 // sequence numbers of session_

  std::atomic<bool> connected_{false};
  mutable std::mutex mutex_;  // the queue, and what other threads read
  std::condition_variable queued_;
  std::vector<std::function<void()>> queue_;
  bool stopped_ = false;
  Counters counters_;
  std::map<std::string, std::string> last_conflict_;
  std::thread worker_;
};

}  // namespace heterok8s::peer
