// HostEngine: DEL and GC, and the undoing that ADD, a restart and Resync share with them.
#include <fmt/format.h>

#include "common/fault/fault.h"
#include "node-agent/attach/host_engine.h"
#include "node-agent/attach/requests.h"
#include "node-agent/attach/undo.h"

namespace heterok8s::attach {
namespace {

std::string Quarantine(const std::string& pod_key) { return "quarantine:" + pod_key; }

}  // namespace

absl::Status HostEngine::Del(const cni::Request& request) {
  HK_RETURN_IF_ERROR(WithCode(Ready(), absl::StatusCode::kUnavailable, cni::kTryAgainLater));
  HK_ASSIGN_OR_RETURN(std::optional<Attachment> row, journal_.Find(KeyOf(request)));
  // The row's Pod counts, not the request's: a runtime may leave CNI_ARGS out of a DEL.
  const std::string pod_key = row.has_value() ? row->pod_key : PodKeyOf(request);
  HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(pod_key));
  HK_ASSIGN_OR_RETURN(row, journal_.Find(KeyOf(request)));
  if (row.has_value()) return Annotate(Detach(*row), Describe(request));
  return Annotate(Scrub(request, pod_key), Describe(request));
}

absl::Status HostEngine::Detach(Attachment row) {
  const Details details = DetailsOrColumns(row);
  HK_RETURN_IF_ERROR(MarkDeleting(row));
  HK_FAULT_POINT("host.del.after-mark");
  // The DPU works while this PU does.
  Workers::Running<absl::Status> dpu;
  if (row.mode == ledger::Mode::kSplit) dpu = workers_.Start([&] { return RemoveDpuHalf(row); });
  absl::Status unwired = Unwire(row, details);
  absl::Status removed = dpu.valid() ? dpu.Get() : absl::OkStatus();
  HK_RETURN_IF_ERROR(unwired);
  HK_FAULT_POINT("host.del.after-unwire");
  HK_RETURN_IF_ERROR(Forget(row, details, removed));
  HK_FAULT_POINT("host.del.after-ledger");
  return absl::OkStatus();
}

absl::Status HostEngine::MarkDeleting(Attachment& row) {
  if (row.state == ledger::State::kDeleting) return absl::OkStatus();
  row.state = ledger::State::kDeleting;
  return journal_.Put(row, Durability::kOrdered);
}

absl::Status HostEngine::RemoveDpuHalf(const Attachment& row) {
  if (!peer_.lease().valid) return absl::UnavailableError("the DPU's lease has expired");
  return peer_.Remove({.pod_key = row.pod_key, .generation = row.generation});
}

absl::Status HostEngine::Unwire(const Attachment& row, const Details& details) {
  FirstError failed;
  std::optional<sys::NetnsRef> ns = OpenIfThere(row.netns_path);
  if (!HostPortSpecOf(identity_, details).empty()) failed.Add(podnet_.RemoveHostPorts(details.owner));
  if (row.mode == ledger::Mode::kOrdinary) {
    failed.Add(podnet_.RemoveUplink(TagOf(identity_, row), ns.has_value() ? row.netns_path : ""));
    return failed.status();
  }
  table_.DropLink(row.pod_key);
  failed.Add(ports_.RemovePod(row.pod_key));
  if (ns.has_value() && details.join.has_value()) {
    failed.Add(OkIfGone(podnet_.RemoveLink(LinkSpecOf(identity_, row, details))));
  }
  failed.Add(backend_.ReleaseLink(TagOf(identity_, row), ns.has_value() ? &*ns : nullptr));
  return failed.status();
}

// Takes the row away, and its addresses with it if the DPU has let go of them (`dpu` is what it said).
absl::Status HostEngine::Forget(const Attachment& row, const Details& details, const absl::Status& dpu) {
  const bool delegated = !details.delegated_stdin.empty();
  HK_ASSIGN_OR_RETURN(cni::Request ipam_request, IpamRequestOf(row, details));
  if (delegated && dpu.ok()) HK_RETURN_IF_ERROR(ipam_.Delegate(ipam_request, "DEL"));
  return journal_.Write([&](ledger::Tx& tx) -> absl::Status {
    HK_RETURN_IF_ERROR(tx.DeleteAttachment(row.key));
    // A DPU twin that is still there goes on using the addresses; its Release frees them.
    bool reserved = false;
    HK_ASSIGN_OR_RETURN(std::vector<Attachment> others, tx.AttachmentsOfPod(row.pod_key));
    for (const Attachment& other : others) {
      reserved |=
          other.mode == ledger::Mode::kTwin && other.key.network == row.key.network && details.owner == row.pod_key;
    }
    if (dpu.ok()) {
      if (!reserved && !delegated) HK_RETURN_IF_ERROR(ipam_.Release(tx, ipam_request, details.owner));
      if (row.mode == ledger::Mode::kSplit) HK_RETURN_IF_ERROR(tx.ReleaseAddresses(kLinkNetwork, row.pod_key));
      return absl::OkStatus();
    }
    if (!reserved) HK_RETURN_IF_ERROR(tx.RenameOwner(row.key.network, details.owner, Quarantine(row.pod_key)));
    HK_RETURN_IF_ERROR(tx.RenameOwner(kLinkNetwork, row.pod_key, Quarantine(row.pod_key)));
    if (delegated) HK_RETURN_IF_ERROR(Defer(tx, row.pod_key, details));
    return tx.PutTombstone(
        {.pod_key = row.pod_key, .generation = row.generation, .reason = Message(dpu), .created_unix_ms = UnixMs()});
  });
}

// A DEL for something that the ledger does not know: removes what the kernel may still have of it, unless that is now
// another sandbox's.
absl::Status HostEngine::Scrub(const cni::Request& request, const std::string& pod_key) {
  if (ipam_.is_delegated(request)) {
    // The runtime repeats its DELs; an address in quarantine stays there.
    HK_ASSIGN_OR_RETURN(const bool deferred, IsDeferred(request));
    if (!deferred) HK_RETURN_IF_ERROR(ipam_.Delegate(request, "DEL"));
  }
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> others, journal_.OfPod(pod_key));
  bool pod_is_known = false;
  for (const Attachment& other : others) {
    if (other.mode == ledger::Mode::kTwin) continue;
    if (other.key.ifname == request.ifname) return absl::OkStatus();
    pod_is_known = true;
  }
  FirstError failed;
  const pu::OwnerTag tag{.instance = options_.instance, .pod_key = pod_key, .ifname = request.ifname};
  std::optional<sys::NetnsRef> ns = OpenIfThere(request.netns);
  failed.Add(podnet_.RemoveUplink(tag, ns.has_value() ? request.netns : ""));
  failed.Add(backend_.ReleaseLink(tag, ns.has_value() ? &*ns : nullptr));
  failed.Add(podnet_.RemoveHostPorts(OwnerOf(pod_key, request.ifname)));
  if (!pod_is_known) failed.Add(ports_.RemovePod(pod_key));
  return failed.status();
}

absl::Status HostEngine::Gc(const cni::Request& request) {
  HK_RETURN_IF_ERROR(WithCode(Ready(), absl::StatusCode::kUnavailable, cni::kTryAgainLater));
  HK_RETURN_IF_ERROR(CheckGc(request));
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.All());
  FirstError failed;
  for (const Attachment& row : rows) {
    if (row.mode != ledger::Mode::kTwin && IsGarbage(request, row)) {
      failed.Add(Annotate(DetachIfStale(row), fmt::format("GC of container {}", row.key.container_id)));
    }
  }
  if (ipam_.is_delegated(request)) failed.Add(GcByPlugin(request));
  return failed.status();
}

absl::Status HostEngine::DetachIfStale(const Attachment& seen) {
  HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(seen.pod_key));
  HK_ASSIGN_OR_RETURN(std::optional<Attachment> now, journal_.Find(seen.key));
  if (!now.has_value() || now->generation != seen.generation) return absl::OkStatus();
  // It was being added while the list was read: alive, although the runtime did not list it yet.
  if (now->state == ledger::State::kCommitted && seen.state == ledger::State::kPreparing) return absl::OkStatus();
  return Detach(*now);
}

// The DPU has let go of what `tombstone` stands for.
absl::Status HostEngine::Settle(const ledger::Tombstone& tombstone) {
  HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(tombstone.pod_key));
  HK_ASSIGN_OR_RETURN(std::optional<ledger::Tombstone> now, journal_.TombstoneOf(tombstone.pod_key));
  if (!now.has_value() || now->generation != tombstone.generation) return absl::OkStatus();
  return SettleLocked(tombstone);
}

absl::Status HostEngine::SettleLocked(const ledger::Tombstone& tombstone) {
  HK_ASSIGN_OR_RETURN(std::optional<cni::Request> deferred, Deferred(tombstone.pod_key));
  if (deferred.has_value()) HK_RETURN_IF_ERROR(ipam_.Delegate(*deferred, "DEL"));
  HK_FAULT_POINT("host.settle.before-ledger");
  const std::string quarantine = Quarantine(tombstone.pod_key);
  HK_ASSIGN_OR_RETURN(std::vector<std::string> networks, journal_.NetworksOf(quarantine));
  return journal_.Write([&](ledger::Tx& tx) -> absl::Status {
    for (const std::string& network : networks) HK_RETURN_IF_ERROR(tx.ReleaseAddresses(network, quarantine));
    HK_RETURN_IF_ERROR(tx.PutValue(DeferredIpamName(tombstone.pod_key), ""));
    return tx.DeleteTombstone(tombstone.pod_key);
  });
}

}  // namespace heterok8s::attach
