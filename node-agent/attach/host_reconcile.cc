// HostEngine: what happens at start and when the DPU returns.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>

#include "common/fault/fault.h"
#include "node-agent/attach/host_engine.h"
#include "node-agent/attach/orphans.h"
#include "node-agent/attach/requests.h"
#include "node-agent/attach/undo.h"

namespace heterok8s::attach {
namespace {

constexpr char kBootId[] = "boot-id";
constexpr uint64_t kMoreThanWereLost = 1u << 20;  // ADDs at once

// The Pod of an entry of a Sync; absent when the other PU has none.
std::optional<uint64_t> GenerationIn(const std::vector<PodGeneration>& pods, const std::string& pod_key) {
  auto it = std::find_if(pods.begin(), pods.end(), [&](const PodGeneration& pod) { return pod.pod_key == pod_key; });
  return it == pods.end() ? std::nullopt : std::optional(it->generation);
}

}  // namespace

absl::Status HostEngine::Start() {
  HK_RETURN_IF_ERROR(podnet_.PrepareRoot());
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.All());
  HK_ASSIGN_OR_RETURN(std::optional<std::string> boot_id, journal_.Value(kBootId));
  const bool rebooted = boot_id.has_value() && *boot_id != options_.boot_id;
  std::vector<Attachment> live;
  for (const Attachment& row : rows) {
    if (row.mode == ledger::Mode::kTwin) continue;
    // After a reboot there is no namespace left, and no DEL may ever come for it. A preparing row is an ADD that was
    // never answered: the runtime makes a new one.
    if (!rebooted && row.state == ledger::State::kCommitted) {
      live.push_back(row);
      continue;
    }
    absl::Status undone = UndoAtStart(row);
    if (!undone.ok()) {
      spdlog::warn("container {}: undo its {} attachment: {}; trying again", row.key.container_id,
                   rebooted ? "pre-boot" : Name(row.state), Message(undone));
      to_undo_.push_back(row);
    }
  }
  HK_FAULT_POINT("host.start.after-undo");
  HK_RETURN_IF_ERROR(journal_.Write([&](ledger::Tx& tx) -> absl::Status {
    // The DPU may have heard of generations whose rows the power cut has taken.
    if (rebooted) HK_RETURN_IF_ERROR(tx.SkipGenerations(kMoreThanWereLost));
    return tx.PutValue(kBootId, options_.boot_id);
  }));
  // Orphans first: one of them may hold a name or a host port that a live Pod needs.
  HK_RETURN_IF_ERROR(RemoveOrphans(identity_, live, podnet_, backend_, ports_));
  for (const Attachment& row : live) {
    absl::Status restored = Restore(row);
    if (!restored.ok()) {
      spdlog::warn("container {}: {}; keeping its attachment and trying again", row.key.container_id,
                   Message(restored));
      to_restore_.push_back(row);
    }
  }
  table_.SetReady("");
  if (!to_undo_.empty() || !to_restore_.empty()) finish_start_.Poke();
  resync_.Poke();
  return absl::OkStatus();
}

// All but the call of a delegated plugin, which FinishStart makes: it may take kDelegateDeadline for each address.
absl::Status HostEngine::UndoAtStart(Attachment row) {
  const Details details = DetailsOrColumns(row);
  const bool waits = row.mode == ledger::Mode::kOrdinary && !details.delegated_stdin.empty();
  if (!waits) return Detach(row);
  HK_RETURN_IF_ERROR(MarkDeleting(row));
  HK_RETURN_IF_ERROR(Unwire(row, details));
  to_undo_.push_back(row);
  return absl::OkStatus();
}

// What Start has left, one attachment after the other; what fails stays for the next time. Calls of the runtime for the
// same Pod go before or after: each looks at the row anew.
absl::Status HostEngine::FinishStart() {
  FirstError failed;
  auto each = [&](std::vector<Attachment>& left, ledger::State state, auto&& work) {
    std::erase_if(left, [&](const Attachment& seen) {
      if (finish_start_.stopping()) return false;
      absl::Status done = [&]() -> absl::Status {
        HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(seen.pod_key));
        HK_ASSIGN_OR_RETURN(std::optional<Attachment> row, journal_.Find(seen.key));
        if (!row.has_value() || row->generation != seen.generation || row->state != state) return absl::OkStatus();
        return work(*row);
      }();
      failed.Add(Annotate(done, fmt::format("container {}", seen.key.container_id)));
      return done.ok();
    });
  };
  each(to_restore_, ledger::State::kCommitted, [&](const Attachment& row) { return Restore(row); });
  each(to_undo_, ledger::State::kDeleting, [&](const Attachment& row) { return Detach(row); });
  if (!failed.status().ok()) {
    spdlog::warn("after the start {} attachments are to be undone and {} to be made again: {}; trying again in {} ms",
                 to_undo_.size(), to_restore_.size(), Message(failed.status()), options_.retry_interval.count());
  }
  return failed.status();
}

// Makes a committed attachment's kernel objects again. Those of a split Pod without a word to the DPU: Resync does
// that.
absl::Status HostEngine::Restore(const Attachment& row) {
  HK_ASSIGN_OR_RETURN(Details details, Details::Parse(row.details));
  // Its sandbox ended while we were away; the DEL is on its way.
  if (!OpenIfThere(row.netns_path).has_value()) return absl::OkStatus();
  if (row.mode == ledger::Mode::kSplit) return WireHostHalf(row, details);
  HK_RETURN_IF_ERROR(podnet_.EnsureUplink(UplinkSpecOf(identity_, row, details)).status());
  return TakeHostPorts(details);
}

absl::Status HostEngine::Resync() {
  std::lock_guard one_at_a_time(resyncing_);
  LeaseState lease = peer_.lease();
  // Not worth a repetition: PeerReturned comes when there is a lease.
  if (!lease.valid || !lease.peer_ready || !Ready().ok()) return absl::OkStatus();
  HK_ASSIGN_OR_RETURN(uint64_t newest, journal_.NewestGeneration());  // before the list: see SyncRequest
  HK_ASSIGN_OR_RETURN(std::vector<ledger::Tombstone> tombstones, journal_.Tombstones());
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.All());
  SyncRequest request{.epoch = options_.epoch, .newest_generation = newest};
  for (const Attachment& row : rows) {
    if (row.mode == ledger::Mode::kSplit && row.state != ledger::State::kDeleting) {
      request.pods.push_back({row.pod_key, row.generation});
    }
  }
  absl::StatusOr<SyncReply> reply = peer_.Sync(request);
  if (!reply.ok()) {
    spdlog::warn("sync with the DPU: {}; trying again in {} ms", Message(reply.status()),
                 options_.retry_interval.count());
    return reply.status();
  }
  HK_FAULT_POINT("host.resync.after-sync");

  FirstError failed;
  for (const ledger::Tombstone& tombstone : tombstones) {
    std::optional<uint64_t> there = GenerationIn(reply->pods, tombstone.pod_key);
    const bool gone = !there.has_value() || *there == 0 || *there > tombstone.generation;
    if (gone) failed.Add(Annotate(Settle(tombstone), fmt::format("settle the tombstone of Pod {}", tombstone.pod_key)));
  }
  for (const Attachment& row : rows) {
    if (row.mode != ledger::Mode::kSplit || row.state != ledger::State::kCommitted) continue;
    const bool dpu_has_it = GenerationIn(reply->pods, row.pod_key) == row.generation;
    failed.Add(Annotate(Rejoin(row, dpu_has_it), fmt::format("join Pod {} again", row.pod_key)));
  }
  for (const Attachment& row : rows) {
    // The DPU writes its twin's row before it reserves, so a reservation that it does not list has lost its twin.
    const bool lost = row.mode == ledger::Mode::kTwin && !GenerationIn(reply->pods, row.pod_key).has_value();
    if (lost) failed.Add(ReleaseLostReservation(row));
  }
  if (!failed.status().ok()) {
    spdlog::warn("resync with the DPU: {}; trying again in {} ms", Message(failed.status()),
                 options_.retry_interval.count());
  }
  return failed.status();
}

// Of a committed Pod: sees to it that the DPU's half is committed too. One that the DPU has lost (its kernel or its
// sandbox was restarted) is made anew, with the same generation.
absl::Status HostEngine::Rejoin(const Attachment& seen, bool dpu_has_it) {
  HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(seen.pod_key));
  HK_ASSIGN_OR_RETURN(std::optional<Attachment> row, journal_.Find(seen.key));
  if (!row.has_value() || row->generation != seen.generation || row->state != ledger::State::kCommitted) {
    return absl::OkStatus();
  }
  if (dpu_has_it) {
    absl::Status committed = CommitDpuHalf(*row);  // changes nothing when it is so already
    // Prepared, but without a link: an earlier Rejoin died in between.
    if (!absl::IsNotFound(committed)) return committed;
  }
  HK_ASSIGN_OR_RETURN(Details details, Details::Parse(row->details));
  std::optional<sys::NetnsRef> ns = OpenIfThere(row->netns_path);
  if (!ns.has_value()) return absl::OkStatus();  // its DEL is on its way
  HK_RETURN_IF_ERROR(PrepareDpuHalf(*row, details).status());
  HK_FAULT_POINT("host.rejoin.after-prepare");
  HK_RETURN_IF_ERROR(
      backend_.AcquireLink(TagOf(identity_, *row), {.mtu = details.mtu, .netns = &*ns, .ifname = row->key.ifname})
          .status());
  HK_FAULT_POINT("host.rejoin.after-link");
  HK_RETURN_IF_ERROR(WireHostHalf(*row, details));
  HK_RETURN_IF_ERROR(CommitDpuHalf(*row));
  spdlog::info("Pod {} is joined again, generation {}", row->pod_key, row->generation);
  return absl::OkStatus();
}

// Only the one that was there before the DPU answered: a twin made since, or being made anew then, has reserved again.
absl::Status HostEngine::ReleaseLostReservation(const Attachment& seen) {
  return journal_.Write([&](ledger::Tx& tx) -> absl::Status {
    HK_ASSIGN_OR_RETURN(std::optional<Attachment> now, tx.FindAttachment(seen.key));
    if (!now.has_value() || now->generation != seen.generation) return absl::OkStatus();
    return FreeReservation(tx, *now);
  });
}

}  // namespace heterok8s::attach
