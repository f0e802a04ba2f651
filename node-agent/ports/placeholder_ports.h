// Ports without BPF: ownership by socket dumps, the other PU's ports held by placeholder sockets, direct calls by NAT.
//
// Purpose: split Pods on a kernel that lacks a hook. docs/design/ports.md has what differs from BPF: opening and
// closing is seen when the namespace's sockets are counted next (every 2 ms, less often with many Pods), refused binds
// are not told, calls to ::1 of the other PU are refused. Threading: thread-safe; one thread of its own dumps and calls
// the listener with no lock held. Ownership: placeholders end with this object. The NAT table of each Pod stays, so
// calls go on without a heterod; the next object's AddPod() takes the other PU's ports from it and holds them again.
// Errors: kFailedPrecondition when podnet has not made the link yet; kUnimplemented without sock_diag or nft NAT.
//
//   HK_ASSIGN_OR_RETURN(std::unique_ptr<Ports> ports, NewPlaceholderPorts(options, listener));
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/sys/netns.h"
#include "common/sys/seldom.h"
#include "common/sys/unique_fd.h"
#include "node-agent/ports/nat_table.h"
#include "node-agent/ports/placeholder_counts.h"
#include "node-agent/ports/placeholder_diag.h"
#include "node-agent/ports/placeholder_retry.h"
#include "node-agent/ports/placeholder_socket.h"
#include "node-agent/ports/ports.h"

namespace heterok8s::ports {

// Ports of one Pod that have an owner on one PU, at most and in any case. Each costs the other PU's heterod a
// descriptor: what is beyond the second number it has only while all Pods together need less than half of its
// descriptors.
inline constexpr size_t kMostPlaceholders = 2048, kGuaranteedPlaceholders = 64;

// Pins of an earlier heterod that used BPF are removed, so that two mechanisms never work on one Pod.
absl::StatusOr<std::unique_ptr<Ports>> NewPlaceholderPorts(Options options, Listener listener);

class PlaceholderPorts : public Ports {
 public:
  explicit PlaceholderPorts(Listener listener) : listener_(std::move(listener)) {}
  ~PlaceholderPorts() override;
  absl::Status Start();

  KernelFeatures features() const override { return {.placeholders = true}; }
  absl::Status AddPod(const PodPorts& pod) override;
  absl::Status RemovePod(const std::string& pod_key) override;
  std::vector<std::string> ListPods() const override;
  absl::Status SetRemote(const std::string& pod_key, const PortKey& key, bool owned, uint64_t epoch_ns) override;
  absl::Status ReplaceRemote(const std::string& pod_key, const std::vector<PortKey>& keys) override;
  std::vector<OwnedPort> Local(const std::string& pod_key) const override;
  std::vector<PortKey> Remote(const std::string& pod_key) const override;
  std::optional<Refusal> LastRefusal(const std::string&) const override { return std::nullopt; }
  Counters counters() const override;

  // How often the thread has counted the sockets of one Pod, and listed them.
  struct Looks {
    uint64_t counts = 0, dumps = 0;
  };
  Looks looks() const;

 private:
  using PortNumber = std::pair<Protocol, uint16_t>;
  using SocketsOf = std::vector<std::pair<PortKey, uint32_t>>;
  using Called = std::array<bool, kNatSetCount>;  // by which names a port is called over the link
  struct Claim {
    uint64_t since_ns = 0;
    uint32_t sockets = 0;
  };
  // A port of the other PU. Without a placeholder a socket of this side is in the way.
  struct Hold {
    std::optional<Placeholder> placeholder;
    Retry retry;
  };
  struct Pod {
    PodPorts ports;
    sys::NetnsRef ns;
    SocketDiag diag;
    SocketCounts counts;
    std::string link_ifname;
    std::map<PortKey, Claim> local;  // what the listener was told
    std::map<PortKey, Hold> remote;
    std::set<PortKey> contested;                      // the other PU's, but ours are older; theirs when ours close
    std::map<PortNumber, Called> called;              // what the NAT sets hold
    Changes wanted;                                   // dumps that are due
    uint64_t dumped_all_at_ns = 0, budget_at_ns = 0;  // CLOCK_MONOTONIC
    uint64_t budget_ns = 0;                           // time of a CPU that dumps and retries may take now
    bool listens = false;                             // a socket that goes wakes the thread up
    uint64_t gone_at_ns = 0;                          // when one last did
    uint64_t retry_at_ns = UINT64_MAX;                // the first of `remote`
    std::array<size_t, 2> over{};                     // own ports that are not reported, too many: TCP, UDP
    sys::Seldom warn_too_many, warn_unheld, warn_dump;
  };

  // All "Locked" ones need mutex_.
  absl::Status RoomForRemoteLocked(const Pod& pod) const;
  void TooManyLocked(Pod& pod, size_t more);
  absl::StatusOr<Pod*> FindLocked(const std::string& pod_key);
  absl::Status WireLocked(Pod& pod);
  absl::Status RemoveLocked(const std::string& pod_key);
  SocketsOf OwnSockets(const Pod& pod, const std::vector<DiagSocket>& sockets) const;
  absl::Status CompareLocked(Pod& pod, Changes which);
  void TryLocked(Pod& pod, const PortKey& key, Hold& hold);
  void HoldLocked(Pod& pod, const std::set<PortNumber>& numbers);
  void RetryLocked(Pod& pod);
  absl::Status CallLocked(Pod& pod, PortNumber number);
  void SettleLocked(Pod& pod, std::set<PortNumber> changed);

  void Loop();
  uint64_t NextLocked() const;
  void ReadEventsLocked();
  void ListenLocked(Pod& pod);
  void CountAllLocked();
  uint64_t CountLocked(Pod& pod);
  void Wake();

  const Listener listener_;
  mutable std::mutex mutex_;
  mutable std::map<std::string, Pod> pods_;  // Local() dumps too
  std::vector<PortChange> changes_;
  uint64_t rounds_ = 0, told_round_ = 0;  // how often `changes_` was taken to be told; until which it has been
  std::condition_variable told_;
  uint64_t opened_ = 0, closed_ = 0, unowned_ = 0;
  Looks looks_;
  size_t most_placeholders_ = 0;  // of all Pods; beyond that each has what it is guaranteed
  uint64_t count_every_ns_ = 2'000'000, count_at_ns_ = 0;
  std::atomic<bool> stopping_ = false;
  sys::UniqueFd epoll_, wake_;
  std::thread thread_;
};

}  // namespace heterok8s::ports
