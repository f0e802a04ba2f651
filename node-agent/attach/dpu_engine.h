// The DPU's attach engine: the DPU half of split Pods.
//
// Purpose: a half is made by the host's Prepare, either in a namespace of this heterod's own (run_dir/netns) or in that
// of a *twin*, a sandbox of the same Pod that the DPU's own runtime made first and that came here as an ordinary CNI
// call. A twin's addresses are the host's to give: ADD reserves them there, DEL releases them.
//
//   twin:   CNI ADD → row "preparing" → host: Reserve → uplink → row "committed"
//   half:   Prepare → row "prepared" with the generation → namespace → the uplink's device; answered, and the host
//           makes the link meanwhile → uplink, guards, ports; nobody is led to it yet
//           Commit, when the host has made the link and its row is on disk → link → wiring → routes and host ports of
//           the root namespace → row "prepared" synced → row "committed", answered
//
// What fails after Prepare was answered undoes the half; Commit says why. The Pod is locked all the while, so Commit
// and Remove find a half that is whole or gone; what could not be undone either is kNotFound to Commit, and the host
// prepares it again. Every step can be repeated. An older generation than the one that is
// here, or one that was removed, is refused. Threading: thread-safe; calls for one Pod wait for each other, at most
// kPodLockTimeout. One thread of its own replays what the host could not be told. Ownership: borrows everything in
// DpuDeps. Errors: CNI calls: Status with a CNI code. DpuHalf: see peer.h.
//
//   DpuEngine engine(options, deps);
//   HK_RETURN_IF_ERROR(engine.Start());            // before anything is served
#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "common/sys/keyed_mutex.h"
#include "node-agent/attach/background.h"
#include "node-agent/attach/details.h"
#include "node-agent/attach/engine.h"
#include "node-agent/attach/fences.h"
#include "node-agent/attach/journal.h"
#include "node-agent/attach/late_failures.h"
#include "node-agent/attach/namespaces.h"
#include "node-agent/attach/peer.h"
#include "node-agent/attach/pod_table.h"
#include "node-agent/attach/workers.h"
#include "node-agent/podnet/podnet.h"
#include "node-agent/ports/ports.h"
#include "node-agent/pu/backend.h"

namespace heterok8s::attach {

struct DpuOptions {
  std::string instance;      // pu::OwnerTag.instance; the host's must be the same
  std::string boot_id;       // of this kernel
  std::string netns_folder;  // of the namespaces made here: run_dir/netns
  std::chrono::milliseconds retry_interval{5000};
};

struct DpuDeps {
  ledger::Ledger& ledger;
  podnet::PodNet& podnet;
  ports::Ports& ports;
  pu::Backend& backend;
  PeerClient& peer;
  Namespaces& namespaces;
};

class DpuEngine final : public Engine, public DpuHalf, public PeerWatcher {
 public:
  DpuEngine(DpuOptions options, DpuDeps deps);
  ~DpuEngine() override;

  // As HostEngine::Start. A half that the kernel does not have any more is forgotten: the host's Sync finds it missing.
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
  absl::StatusOr<PrepareReply> Prepare(const PrepareRequest& request) override;
  absl::Status Commit(const PodGeneration& pod) override;
  absl::Status CheckHalf(const PodGeneration& pod) override;
  absl::Status Remove(const PodGeneration& pod) override;
  absl::StatusOr<SyncReply> Sync(const SyncRequest& request) override;

  void PeerReturned() override { resync_.Poke(); }
  void PeerHas(const std::vector<PodGeneration>& halves) override { table_.SetPeerHalves(halves); }
  std::vector<PodGeneration> Halves() const override { return table_.Joined(); }
  // Tells the host of the twins that went while it was away. OK without a lease: PeerReturned comes again.
  absl::Status Resync();

  Inspect& inspect() { return table_; }

 private:
  // dpu_twin.cc
  absl::Status ClearForTwin(const Attachment& wanted);
  absl::Status ReserveAtHost(const cni::Request& request, Attachment& row, Details& details);
  enum class Addresses { kRelease, kKeep };
  absl::Status RemoveTwin(Attachment row, Addresses addresses);
  absl::Status RemoveTwinIfStale(const Attachment& seen);
  absl::Status Scrub(const cni::Request& request, const std::string& pod_key);

  // dpu_half.cc
  absl::StatusOr<std::optional<Attachment>> FindHalf(const std::string& pod_key);
  absl::StatusOr<Attachment> RowForHalf(const PrepareRequest& request, Details& details);
  struct HalfBegun {
    Workers::Running<absl::Status> guarded;
    podnet::PlacedUplink uplink;
  };
  absl::StatusOr<HalfBegun> BeginHalf(const Attachment& row, const Details& details);
  absl::Status FinishHalf(const Attachment& row, const Details& details, HalfBegun begun);
  void FinishLater(sys::KeyedMutex::Guard guard, Attachment row, Details details, HalfBegun begun);
  absl::Status TakePorts(const Attachment& row, const Details& details);
  absl::Status TakeHostPorts(const Attachment& row, const Details& details);
  absl::Status JoinHalf(const Attachment& row, const Details& details);
  // Takes the link and what came with it away; a namespace of our own too. The twin's sandbox and uplink stay.
  absl::Status UndoHalf(Attachment row);

  // dpu_reconcile.cc
  absl::Status UndoAtStart(const Attachment& row);
  absl::Status Restore(const Attachment& row);
  absl::Status DeleteOrphanNamespaces(const std::vector<Attachment>& live);

  std::string OwnNetnsPath(const std::string& pod_key) const;
  using KeyedMutex = sys::KeyedMutex;

  absl::StatusOr<KeyedMutex::Guard> Lock(const std::string& pod_key);
  std::optional<sys::NetnsRef> OpenIfThere(const std::string& netns_path);

  const DpuOptions options_;
  const Identity identity_;
  podnet::PodNet& podnet_;
  ports::Ports& ports_;
  pu::Backend& backend_;
  PeerClient& peer_;
  Namespaces& namespaces_;
  Journal journal_;
  PodTable table_;
  KeyedMutex pods_;
  Fences fences_;
  LateFailures late_failures_;
  Workers workers_;    // its threads use all of the above
  Background resync_;  // and this one's these
};

// A row that is, or has, a half joined with the host's.
bool IsHalf(const Attachment& row);

}  // namespace heterok8s::attach
