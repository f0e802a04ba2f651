// The host's attach engine: ordinary Pods, the host half of split Pods, and what the DPU's heterod asks of the host.
//
// Purpose: see engine.h. The order of a split ADD, and what is on disk when:
//
//   row "preparing", generation, addresses           written; on disk before Commit
//   DPU: Prepare: the half's place | host: guards of the link, ports, host ports          at the same time
//   link made by the back end, into the DPU's half; the DPU makes the rest of that meanwhile
//   DPU: Commit: link, row         | host: link, row                                      at the same time
//   result
//
// The host does its part on the thread that sends the call, when it is sent.
//
// A failure anywhere undoes all of it by the row alone (Detach), as DEL, GC and a restart do. What the DPU cannot be
// told is left as a tombstone, its addresses in quarantine, until Resync.
// Threading: thread-safe; calls for one Pod wait for each other, at most kPodLockTimeout. One thread of its own
// resynchronises with the DPU. Ownership: borrows everything in HostDeps.
// Errors: Status with a CNI code.
//
//   HostEngine engine(options, deps);
//   HK_RETURN_IF_ERROR(engine.Start());            // before anything is served
//   absl::StatusOr<cni::Result> result = engine.Add(request);
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "common/sys/keyed_mutex.h"
#include "node-agent/attach/background.h"
#include "node-agent/attach/details.h"
#include "node-agent/attach/engine.h"
#include "node-agent/attach/journal.h"
#include "node-agent/attach/namespaces.h"
#include "node-agent/attach/peer.h"
#include "node-agent/attach/placement.h"
#include "node-agent/attach/pod_table.h"
#include "node-agent/attach/workers.h"
#include "node-agent/ipam/ipam.h"
#include "node-agent/podnet/podnet.h"
#include "node-agent/ports/ports.h"
#include "node-agent/pu/backend.h"

namespace heterok8s::attach {

// Longer than any single step, shorter than the two minutes that a kubelet waits.
inline constexpr std::chrono::seconds kPodLockTimeout{30};

struct HostOptions {
  std::string instance;  // pu::OwnerTag.instance
  uint64_t epoch = 0;    // of this heterod
  std::string boot_id;   // of this kernel: rows of an earlier boot have no kernel objects left
  podnet::PortRange host_ephemeral{32768, 47103}, dpu_ephemeral{47104, 60999};
  IpPrefix link_range;                             // a block of four addresses for each split Pod
  int mtu = 0;                                     // bytes; of Pods whose network does not say; 0: what fits
  std::function<int()> uplink_mtu;                 // of this PU; 0: not known
  bool unsplit_when_dpu_down = false;              // else ADD of a split Pod fails while the lease is expired
  std::chrono::milliseconds retry_interval{5000};  // of Resync
};

struct HostDeps {
  ledger::Ledger& ledger;
  ipam::Ipam& ipam;
  podnet::PodNet& podnet;
  ports::Ports& ports;
  pu::Backend& backend;
  PeerClient& peer;
  Namespaces& namespaces;
};

class HostEngine final : public Engine, public HostHalf, public PeerWatcher {
 public:
  HostEngine(HostOptions options, HostDeps deps);
  ~HostEngine() override;

  // Makes ledger and kernel agree: what was being made or removed is removed, what was committed is made again, what
  // belongs to nobody goes. Works without the DPU, and does not wait for a delegated IPAM plugin, which may need this
  // Node to be ready: that, and whatever fails here, is done behind it, again and again. Called once, before anything
  // else.
  absl::Status Start();

  absl::StatusOr<cni::Result> Add(const cni::Request& request) override;
  absl::Status Del(const cni::Request& request) override;
  absl::Status Check(const cni::Request& request) override;
  absl::Status Gc(const cni::Request& request) override;
  absl::Status Status(const cni::Request& request) override;

  absl::Status Ready() const override {
    HK_RETURN_IF_ERROR(journal_.Health());
    return table_.Ready();
  }
  // The addresses of a Pod whose DPU sandbox comes first; held by a row of mode kTwin until Release.
  absl::StatusOr<ReserveReply> Reserve(const ReserveRequest& request) override;
  absl::Status Release(const std::string& pod_key) override;

  void PeerReturned() override { resync_.Poke(); }
  void PeerHas(const std::vector<PodGeneration>& halves) override { table_.SetPeerHalves(halves); }
  std::vector<PodGeneration> Halves() const { return table_.Joined(); }
  // Tells the DPU what there is, settles tombstones, makes again the halves that the DPU has lost. kUnavailable without
  // a lease. Runs on the engine's own thread after PeerReturned(), and again until it succeeds.
  absl::Status Resync();

  Inspect& inspect() { return table_; }

 private:
  struct Job {  // one ADD on its way
    const cni::Request& request;
    Attachment row;
    Details details;
  };

  // Of Pods whose network does not say: what this PU's uplink carries, and the DPU's, which all of them pass.
  int DefaultMtu() const;

  // host_add.cc
  absl::StatusOr<Placement> PlacementNow(const cni::Request& request, const Attachment& wanted);  // Pod locked
  absl::Status Admit(Job& job);
  absl::StatusOr<std::vector<Attachment>> InTheWay(ledger::Tx& tx, const Job& job);
  absl::Status ClearAway(const Attachment& row, const Job& job);
  absl::Status RemoveEarlierHalf(const ledger::Tombstone& tombstone);
  absl::Status WriteRow(ledger::Tx& tx, Job& job);
  // `config`: of ipMasq and dns.
  absl::Status TakeLease(const std::string& pod_key, Details& details, const ipam::Lease& lease,
                         const cni::NetworkConfig& config);
  absl::Status AllocateByPlugin(Job& job);
  absl::StatusOr<cni::Result> AddOrdinary(Job& job);
  absl::StatusOr<cni::Result> AddSplit(Job& job);
  absl::Status TakeHostPorts(const Details& details);
  absl::StatusOr<std::vector<podnet::HostPort>> HostPortsForDpu(const Details& details);
  absl::Status ReadyHostHalf(const Attachment& row, const Details& details);
  absl::Status CommitHostHalf(const Attachment& row, const Details& details);
  absl::Status WireHostHalf(const Attachment& row, const Details& details);
  absl::Status TakePorts(const Attachment& row, const Details& details, const podnet::LinkSpec& link);
  absl::StatusOr<PrepareReply> PrepareDpuHalf(const Attachment& row, const Details& details,
                                              const Meanwhile& meanwhile = nullptr);
  static absl::Status UnavailableDpu(const absl::Status& status);  // an answer that did not come has a CNI code
  absl::Status CommitDpuHalf(const Attachment& row, const Meanwhile& meanwhile = nullptr);

  // host_detach.cc
  absl::Status Detach(Attachment row);
  absl::Status MarkDeleting(Attachment& row);
  absl::Status Unwire(const Attachment& row, const Details& details);
  absl::Status RemoveDpuHalf(const Attachment& row);
  // `dpu`: whether the DPU has let go of the Pod's addresses, or why that is not known.
  absl::Status Forget(const Attachment& row, const Details& details, const absl::Status& dpu);
  absl::Status Scrub(const cni::Request& request, const std::string& pod_key);
  absl::Status DetachIfStale(const Attachment& seen);
  absl::Status Settle(const ledger::Tombstone& tombstone);        // takes the Pod's lock
  absl::Status SettleLocked(const ledger::Tombstone& tombstone);  // has it

  // host_delegated.cc
  static std::string DeferredIpamName(const std::string& pod_key);
  absl::Status Defer(ledger::Tx& tx, const std::string& pod_key, const Details& details);
  absl::StatusOr<std::optional<cni::Request>> Deferred(const std::string& pod_key);
  absl::StatusOr<std::vector<cni::Request>> AllDeferred();
  absl::StatusOr<bool> IsDeferred(const cni::Request& request);
  absl::Status GcByPlugin(cni::Request request);

  // host_reconcile.cc
  absl::Status UndoAtStart(Attachment row);
  absl::Status FinishStart();
  absl::Status Restore(const Attachment& row);
  absl::Status Rejoin(const Attachment& seen, bool dpu_has_it);
  absl::Status ReleaseLostReservation(const Attachment& seen);
  static absl::Status FreeReservation(ledger::Tx& tx, const Attachment& reservation);  // host_engine.cc

  using KeyedMutex = sys::KeyedMutex;

  absl::StatusOr<KeyedMutex::Guard> Lock(const std::string& pod_key);
  // The namespace, or absent when it is gone.
  std::optional<sys::NetnsRef> OpenIfThere(const std::string& netns_path);

  const HostOptions options_;
  const Identity identity_;
  ipam::Ipam& ipam_;
  podnet::PodNet& podnet_;
  ports::Ports& ports_;
  pu::Backend& backend_;
  PeerClient& peer_;
  Namespaces& namespaces_;
  Journal journal_;
  PodTable table_;
  KeyedMutex pods_;
  std::mutex resyncing_;  // one Resync at a time
  Workers workers_;
  std::vector<Attachment> to_undo_, to_restore_;  // by Start, then by the thread of finish_start_
  Background finish_start_;                       // these two last: their threads use all of the above
  Background resync_;
};

}  // namespace heterok8s::attach
