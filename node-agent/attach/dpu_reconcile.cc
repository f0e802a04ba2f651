// DpuEngine: what happens at start, at the host's Sync and when the host returns.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>

#include "common/fault/fault.h"
#include "node-agent/attach/dpu_engine.h"
#include "node-agent/attach/orphans.h"
#include "node-agent/attach/undo.h"

namespace heterok8s::attach {
namespace {

constexpr char kBootId[] = "boot-id";

}  // namespace

absl::Status DpuEngine::Start() {
  HK_RETURN_IF_ERROR(podnet_.PrepareRoot());
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.All());
  HK_ASSIGN_OR_RETURN(std::optional<std::string> boot_id, journal_.Value(kBootId));
  const bool rebooted = boot_id.has_value() && *boot_id != options_.boot_id;
  std::vector<Attachment> live;
  for (const Attachment& row : rows) {
    // A half that is only prepared stays: its host knows whether it is wanted, and says so by Commit, Remove or Sync.
    const bool unfinished = row.state == ledger::State::kDeleting ||
                            (row.mode == ledger::Mode::kTwin && row.state == ledger::State::kPreparing);
    if (rebooted || unfinished) {
      absl::Status undone = UndoAtStart(row);
      if (!undone.ok()) {
        spdlog::warn("container {}: undo its attachment: {}; leaving the rest to DEL, GC and Sync",
                     row.key.container_id, Message(undone));
      }
    } else {
      live.push_back(row);
    }
  }
  HK_FAULT_POINT("dpu.start.after-undo");
  HK_RETURN_IF_ERROR(journal_.Write([&](ledger::Tx& tx) { return tx.PutValue(kBootId, options_.boot_id); }));
  HK_RETURN_IF_ERROR(RemoveOrphans(identity_, live, podnet_, backend_, ports_));
  HK_RETURN_IF_ERROR(DeleteOrphanNamespaces(live));
  for (const Attachment& row : live) {
    absl::Status restored = Restore(row);
    if (restored.ok()) continue;
    if (!IsHalf(row)) {
      spdlog::warn("container {}: {}; keeping its attachment, CHECK will say the same", row.key.container_id,
                   Message(restored));
      continue;
    }
    spdlog::warn("Pod {}: {}; forgetting its DPU half, the host will have it made again", row.pod_key,
                 Message(restored));
    if (absl::Status undone = UndoHalf(row); !undone.ok()) {
      spdlog::warn("Pod {}: undo its half: {}; leaving it to Sync", row.pod_key, Message(undone));
    }
  }
  table_.SetReady("");
  resync_.Poke();
  return absl::OkStatus();
}

absl::Status DpuEngine::UndoAtStart(const Attachment& row) {
  return row.mode == ledger::Mode::kTwin ? RemoveTwin(row, Addresses::kRelease) : UndoHalf(row);
}

absl::Status DpuEngine::Restore(const Attachment& row) {
  HK_ASSIGN_OR_RETURN(Details details, Details::Parse(row.details));
  if (!OpenIfThere(row.netns_path).has_value()) {
    // A twin's sandbox ended while we were away and its DEL is on its way; a half cannot be without its namespace.
    return IsHalf(row) ? absl::NotFoundError(fmt::format("its namespace {} is gone", row.netns_path))
                       : absl::OkStatus();
  }
  if (!IsHalf(row)) return podnet_.EnsureUplink(UplinkSpecOf(identity_, row, details)).status();
  HK_ASSIGN_OR_RETURN(HalfBegun begun, BeginHalf(row, details));
  HK_RETURN_IF_ERROR(FinishHalf(row, details, std::move(begun)));
  return details.join->committed ? JoinHalf(row, details) : absl::OkStatus();  // else the host's Commit is to come
}

absl::Status DpuEngine::DeleteOrphanNamespaces(const std::vector<Attachment>& live) {
  std::set<std::string> known;
  for (const Attachment& row : live) known.insert(row.netns_path);
  HK_ASSIGN_OR_RETURN(std::vector<std::string> paths, namespaces_.List(options_.netns_folder));
  FirstError failed;
  for (const std::string& path : paths) {
    if (known.contains(path)) continue;
    spdlog::warn("namespace {} belongs to no attachment: removing it", path);
    failed.Add(namespaces_.Delete(path));
  }
  return failed.status();
}

absl::StatusOr<SyncReply> DpuEngine::Sync(const SyncRequest& request) {
  HK_RETURN_IF_ERROR(Ready());
  std::set<PodGeneration> wanted(request.pods.begin(), request.pods.end());
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.All());
  for (const Attachment& seen : rows) {
    if (!IsHalf(seen) || seen.generation > request.newest_generation) continue;
    if (wanted.contains({seen.pod_key, seen.generation})) continue;
    fences_.Raise(seen.pod_key, seen.generation);
    HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(seen.pod_key));
    HK_ASSIGN_OR_RETURN(std::optional<Attachment> half, FindHalf(seen.pod_key));
    if (!half.has_value() || half->generation != seen.generation) continue;
    spdlog::info("Pod {} generation {} is not the host's any more: removing its DPU half", seen.pod_key,
                 seen.generation);
    late_failures_.Take(seen.pod_key, seen.generation).IgnoreError();  // nobody will ask for it any more
    HK_RETURN_IF_ERROR(Annotate(UndoHalf(*half), fmt::format("sync: Pod {}", seen.pod_key)));
  }
  HK_FAULT_POINT("dpu.sync.after-removal");

  SyncReply reply;
  HK_ASSIGN_OR_RETURN(rows, journal_.All());
  for (const Attachment& row : rows) {
    // A twin that is going frees its reservation itself.
    if (row.state != ledger::State::kDeleting) reply.pods.push_back({row.pod_key, row.generation});
  }
  return reply;
}

absl::Status DpuEngine::Resync() {
  if (!peer_.lease().valid || !Ready().ok()) return absl::OkStatus();
  HK_ASSIGN_OR_RETURN(std::vector<ledger::Tombstone> tombstones, journal_.Tombstones());
  FirstError failed;
  for (const ledger::Tombstone& tombstone : tombstones) {
    HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(tombstone.pod_key));
    // A new twin of the Pod has taken the reservation over, and the tombstone away.
    HK_ASSIGN_OR_RETURN(std::vector<ledger::Tombstone> now, journal_.Tombstones());
    auto same = [&](const ledger::Tombstone& other) { return other.pod_key == tombstone.pod_key; };
    if (std::none_of(now.begin(), now.end(), same)) continue;
    absl::Status released = peer_.Release(tombstone.pod_key);
    if (released.ok()) {
      released = journal_.Write([&](ledger::Tx& tx) { return tx.DeleteTombstone(tombstone.pod_key); });
    }
    failed.Add(Annotate(released, fmt::format("release the addresses of Pod {}", tombstone.pod_key)));
  }
  if (!failed.status().ok()) {
    spdlog::warn("{}; trying again in {} ms", Message(failed.status()), options_.retry_interval.count());
  }
  return failed.status();
}

}  // namespace heterok8s::attach
