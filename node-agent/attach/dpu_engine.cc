#include "node-agent/attach/dpu_engine.h"

#include <fmt/format.h>

#include "node-agent/attach/host_engine.h"
#include "node-agent/attach/requests.h"
#include "node-agent/attach/undo.h"

namespace heterok8s::attach {

bool IsHalf(const Attachment& row) { return row.generation != 0; }

DpuEngine::DpuEngine(DpuOptions options, DpuDeps deps)
    : options_(std::move(options)),
      identity_{.instance = options_.instance, .side = pu::Side::kDpu},
      podnet_(deps.podnet),
      ports_(deps.ports),
      backend_(deps.backend),
      peer_(deps.peer),
      namespaces_(deps.namespaces),
      journal_(deps.ledger),
      table_(identity_, journal_),
      resync_([this] { return Resync(); }, options_.retry_interval) {}

DpuEngine::~DpuEngine() = default;

absl::StatusOr<sys::KeyedMutex::Guard> DpuEngine::Lock(const std::string& pod_key) {
  absl::StatusOr<KeyedMutex::Guard> guard = pods_.Lock(pod_key, kPodLockTimeout);
  if (!guard.ok()) return cni::MakeError(cni::kTryAgainLater, Message(guard.status()));
  return guard;
}

std::optional<sys::NetnsRef> DpuEngine::OpenIfThere(const std::string& netns_path) {
  if (netns_path.empty()) return std::nullopt;
  absl::StatusOr<sys::NetnsRef> ns = namespaces_.Open(netns_path);
  return ns.ok() ? std::optional<sys::NetnsRef>(*std::move(ns)) : std::nullopt;
}

absl::Status DpuEngine::Check(const cni::Request& request) {
  HK_RETURN_IF_ERROR(WithCode(Ready(), absl::StatusCode::kUnavailable, cni::kTryAgainLater));
  HK_ASSIGN_OR_RETURN(std::optional<Attachment> row, journal_.Find(KeyOf(request)));
  if (!row.has_value() || row->state != ledger::State::kCommitted) {
    return cni::MakeError(
        cni::kUnknownContainer,
        fmt::format("{}: {}", Describe(request),
                    row.has_value() ? fmt::format("its attachment is {}", Name(row->state)) : "it has no attachment"));
  }
  HK_ASSIGN_OR_RETURN(Details details, Details::Parse(row->details));
  HK_RETURN_IF_ERROR(CheckPrevResult(request, details));
  HK_RETURN_IF_ERROR(Annotate(podnet_.CheckUplink(UplinkSpecOf(identity_, *row, details)), Describe(request)));
  if (!IsHalf(*row)) return absl::OkStatus();  // the host sandbox comes later
  return Annotate(podnet_.CheckLink(LinkSpecOf(identity_, *row, details)), Describe(request));
}

absl::Status DpuEngine::Gc(const cni::Request& request) {
  HK_RETURN_IF_ERROR(WithCode(Ready(), absl::StatusCode::kUnavailable, cni::kTryAgainLater));
  HK_RETURN_IF_ERROR(CheckGc(request));
  HK_ASSIGN_OR_RETURN(std::vector<Attachment> rows, journal_.All());
  FirstError failed;
  for (const Attachment& seen : rows) {
    // The DPU's runtime knows its own sandboxes; the halves without a twin are the host's to remove.
    if (seen.mode != ledger::Mode::kTwin || !IsGarbage(request, seen)) continue;
    failed.Add(Annotate(RemoveTwinIfStale(seen), fmt::format("GC of container {}", seen.key.container_id)));
  }
  return failed.status();
}

absl::Status DpuEngine::RemoveTwinIfStale(const Attachment& seen) {
  HK_ASSIGN_OR_RETURN(KeyedMutex::Guard guard, Lock(seen.pod_key));
  HK_ASSIGN_OR_RETURN(std::optional<Attachment> now, journal_.Find(seen.key));
  if (!now.has_value() || now->created_unix_ms != seen.created_unix_ms) return absl::OkStatus();
  // It was being added while the list was read: alive, although the runtime did not list it yet.
  if (now->state == ledger::State::kCommitted && seen.state == ledger::State::kPreparing) return absl::OkStatus();
  return RemoveTwin(*now, Addresses::kRelease);
}

absl::Status DpuEngine::Status(const cni::Request& request) {
  HK_RETURN_IF_ERROR(WithCode(Ready(), absl::StatusCode::kUnavailable, cni::kNotAvailable));
  absl::Status writable =
      journal_.Write([](ledger::Tx& tx) { return tx.PutValue("status", "asked"); }, Durability::kOrdered);
  if (!writable.ok()) return cni::MakeError(cni::kNotAvailable, Message(writable));
  LeaseState lease = peer_.lease();
  if (lease.valid) return absl::OkStatus();
  HK_ASSIGN_OR_RETURN(Summary summary, table_.Summarise());
  return cni::MakeError(summary.attachments > 0 ? cni::kNotAvailableLimited : cni::kNotAvailable,
                        fmt::format("addresses come from the host, and its lease has expired: {}", lease.last_error));
}

}  // namespace heterok8s::attach
