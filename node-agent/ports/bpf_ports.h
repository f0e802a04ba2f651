// Ports over the BPF programs of ports.bpf.c.
//
// Purpose: the lives of Pods and the order of reports. The maps are the truth; this object remembers only what it has
// told the listener, so a restart or a full event ring costs a comparison and never a claim.
// Threading: thread-safe; one thread of its own reads the event ring and calls the listener with no lock held.
// Ownership: owns the programs' handles; what is pinned stays when the process ends. Errors: as ports.h says; the
// kernel's, with the Pod.
//
//   auto ports = std::make_unique<BpfPorts>(std::move(kernel), listener);
//   HK_RETURN_IF_ERROR(ports->Start());
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "common/sys/netns.h"
#include "common/sys/seldom.h"
#include "common/sys/unique_fd.h"
#include "node-agent/ports/kernel.h"
#include "node-agent/ports/ports.h"

namespace heterok8s::ports {

class BpfPorts : public Ports {
 public:
  BpfPorts(std::unique_ptr<Kernel> kernel, Listener listener)
      : kernel_(std::move(kernel)), listener_(std::move(listener)) {}
  ~BpfPorts() override;
  absl::Status Start();

  KernelFeatures features() const override { return kernel_->features(); }
  absl::Status AddPod(const PodPorts& pod) override;
  absl::Status RemovePod(const std::string& pod_key) override;
  std::vector<std::string> ListPods() const override;
  absl::Status SetRemote(const std::string& pod_key, const PortKey& key, bool owned, uint64_t epoch_ns) override;
  absl::Status ReplaceRemote(const std::string& pod_key, const std::vector<PortKey>& keys) override;
  std::vector<OwnedPort> Local(const std::string& pod_key) const override;
  std::vector<PortKey> Remote(const std::string& pod_key) const override;
  std::optional<Refusal> LastRefusal(const std::string& pod_key) const override;
  Counters counters() const override;

 private:
  using PortNumber = std::pair<Protocol, uint16_t>;
  struct Pod {
    PodPorts ports;
    uint64_t cookie = 0;
    uint64_t generation = 0;
    bool is_new = false;     // else adopted
    bool announced = false;  // the first AddPod on this object has told what is open
    std::map<PortNumber, std::map<PortKey, uint64_t>> reported;  // told to the listener as open, with its epoch
    std::map<PortNumber, std::set<PortKey>> remote;
    std::map<PortNumber, std::set<PortKey>> contested;  // the other PU's, but ours are older; theirs when ours close
    size_t remote_claims = 0;                           // in both
    std::optional<Refusal> last_refusal;
    sys::Seldom warn_share;
    uint64_t behind_until_ns = 0;  // until then programs may keep back what changes
    uint64_t compare_at_ns = 0;    // after that; 0: nothing was kept back
    uint64_t compare_next_ns = 0;  // not before
  };

  using Claims = std::vector<hk_claim_key>;

  // bpf_ports.cc: Pods. All "Locked" ones need mutex_.
  void AdoptLocked();
  bool HasClaims(uint64_t cookie) const;
  std::vector<std::pair<hk_claim_key, hk_local>> OpenClaims(uint64_t cookie) const;
  absl::Status AddLocked(const PodPorts& ports, const sys::NetnsRef& ns, uint64_t cookie);
  absl::Status RemoveLocked(const std::string& pod_key);
  absl::StatusOr<Pod*> FindLocked(const std::string& pod_key);

  // remote_claims.cc
  absl::Status PutRemoteLocked(Pod& pod, PortNumber number, std::set<PortKey> claims);
  absl::Status AddRemoteLocked(Pod& pod, const PortKey& key);
  absl::Status DropRemoteLocked(Pod& pod, const PortKey& key);
  absl::Status RoomForRemoteLocked(const Pod& pod) const;
  void SettleLocked(Pod& pod, PortNumber closed);

  // event_thread.cc: from the ring to the listener.
  void Loop();
  int TimeoutMs() const;
  void Wake();
  void OnEvent(const hk_event& event);
  void Serve();
  void Tell();
  void CheckTouched();
  void CheckLocked(const hk_claim_key& key);
  static bool IsReported(const Pod& pod, const PortKey& key);
  void ReportLocked(Pod& pod, const PortKey& key, bool open, uint64_t epoch_ns);
  void TellAgain();
  void TellFound(const std::vector<uint64_t>& cookies);
  void ShareUsedUpLocked(Pod& pod, const Refusal& refusal, bool refused);

  // comparison.cc
  bool CompareIsDue();
  void Compare();
  void ComparePod(uint64_t cookie, Claims open, uint64_t started);

  // socket_scans.cc
  static bool NeedsScan(const Pod& pod, const PortKey& key);
  void InsertUdp();
  bool MayScan(uint64_t cookie) const;
  void ScanInto(uint64_t cookie, bool tcp);
  void LookForSlots(uint64_t cookie, uint64_t at_ns);
  void FillFreeSlots();
  void OwnUnowned();

  // gone_pods.cc
  void SweepGone();
  absl::Status SweepNowLocked(uint64_t cookie);
  absl::Status DropShareLocked(uint64_t cookie);

  std::unique_ptr<Kernel> kernel_;
  const Listener listener_;

  mutable std::mutex mutex_;
  std::map<std::string, Pod> pods_;
  std::map<uint64_t, std::string> key_of_cookie_;
  std::map<uint64_t, uint64_t> gone_;  // removed Pods -> when to sweep up what they left
  size_t remote_burst_ = 0;            // entries in `remote` of all Pods beyond what each is guaranteed
  std::set<std::string> tell_again_;   // Pods whose caller has no memory of what is open
  std::set<std::string> telling_again_;
  std::condition_variable told_again_;
  bool compare_all_ = false;
  uint64_t compare_after_ns_ = 0;  // CLOCK_MONOTONIC
  uint64_t comparisons_ = 0;

  // Of the event thread alone, between two waits.
  Claims touched_;
  std::set<uint64_t> udp_inserts_;              // Pods to scan for them
  uint64_t last_insert_ = 0;                    // whose turn it was
  std::map<uint64_t, uint64_t> scans_paid_at_;  // when their time will have been earned
  struct Look {
    uint64_t at_ns, again_ns;  // the second: as late as the last free slot asks for
  };
  std::map<uint64_t, Look> slots_free_;  // Pods to scan for sockets that may have them
  std::set<uint64_t> unowned_;           // Pods with sockets that found no room
  uint64_t unowned_seen_ = UINT64_MAX;   // so many ever
  uint64_t unowned_after_ns_ = 0;        // when to look for room for them
  std::vector<PortChange> changes_;
  uint64_t lost_seen_ = 0;
  uint64_t adopted_at_ns_ = 0;  // CLOCK_MONOTONIC

  std::atomic<bool> stopping_ = false;
  sys::UniqueFd epoll_, wake_;
  std::thread thread_;
};

}  // namespace heterok8s::ports
