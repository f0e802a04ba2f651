#include "node-agent/attach/journal.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "common/cni/types.h"

namespace heterok8s::attach {
namespace {

absl::Status IoFailure(const absl::Status& status) {
  return status.ok() ? status : cni::MakeError(cni::kIoFailure, "ledger: " + Message(status));
}

template <typename T>
absl::StatusOr<T> IoFailure(absl::StatusOr<T> result) {
  if (!result.ok()) return IoFailure(result.status());
  return result;
}

}  // namespace

absl::Status Journal::Write(const std::function<absl::Status(ledger::Tx&)>& fn, Durability durability) {
  absl::Status own;
  absl::Status done = ledger_.Transact([&](ledger::Tx& tx) { return own = fn(tx); }, durability);
  return own.ok() ? IoFailure(done) : own;
}

absl::Status Journal::Put(const Attachment& row, Durability durability) {
  return Write([&](ledger::Tx& tx) { return IoFailure(tx.PutAttachment(row)); }, durability);
}

absl::Status Journal::Sync() { return IoFailure(ledger_.Sync()); }

absl::StatusOr<std::optional<Attachment>> Journal::Find(const ledger::AttachmentKey& key) {
  std::optional<Attachment> found;
  HK_RETURN_IF_ERROR(Write(
      [&](ledger::Tx& tx) -> absl::Status {
        HK_ASSIGN_OR_RETURN(found, IoFailure(tx.FindAttachment(key)));
        return absl::OkStatus();
      },
      Durability::kOrdered));
  return found;
}

absl::StatusOr<std::vector<Attachment>> Journal::OfPod(const std::string& pod_key) {
  std::vector<Attachment> rows;
  HK_RETURN_IF_ERROR(Write(
      [&](ledger::Tx& tx) -> absl::Status {
        HK_ASSIGN_OR_RETURN(rows, IoFailure(tx.AttachmentsOfPod(pod_key)));
        return absl::OkStatus();
      },
      Durability::kOrdered));
  return rows;
}

absl::StatusOr<std::vector<Attachment>> Journal::All() { return IoFailure(ledger_.ListAttachments()); }

absl::StatusOr<std::vector<ledger::Tombstone>> Journal::Tombstones() { return IoFailure(ledger_.ListTombstones()); }

absl::StatusOr<std::optional<ledger::Tombstone>> Journal::TombstoneOf(const std::string& pod_key) {
  std::optional<ledger::Tombstone> tombstone;
  HK_RETURN_IF_ERROR(Write(
      [&](ledger::Tx& tx) -> absl::Status {
        HK_ASSIGN_OR_RETURN(tombstone, IoFailure(tx.FindTombstone(pod_key)));
        return absl::OkStatus();
      },
      Durability::kOrdered));
  return tombstone;
}

absl::StatusOr<uint32_t> Journal::AddressesUsed() {
  HK_ASSIGN_OR_RETURN(std::vector<ledger::AddressRow> rows, IoFailure(ledger_.ListAddresses()));
  return static_cast<uint32_t>(std::count_if(
      rows.begin(), rows.end(), [](const ledger::AddressRow& row) { return row.network != kLinkNetwork; }));
}

absl::StatusOr<std::vector<std::string>> Journal::NetworksOf(const std::string& owner) {
  HK_ASSIGN_OR_RETURN(std::vector<ledger::AddressRow> rows, IoFailure(ledger_.ListAddresses()));
  std::set<std::string> networks;
  for (const ledger::AddressRow& row : rows) {
    if (row.owner == owner) networks.insert(row.network);
  }
  return std::vector<std::string>(networks.begin(), networks.end());
}

absl::StatusOr<uint64_t> Journal::NewestGeneration() {
  uint64_t newest = 0;
  HK_RETURN_IF_ERROR(Write(
      [&](ledger::Tx& tx) -> absl::Status {
        HK_ASSIGN_OR_RETURN(newest, IoFailure(tx.NextGeneration()));
        return absl::OkStatus();
      },
      Durability::kOrdered));
  return newest;
}

absl::StatusOr<std::optional<std::string>> Journal::Value(const std::string& name) {
  std::optional<std::string> value;
  HK_RETURN_IF_ERROR(Write(
      [&](ledger::Tx& tx) -> absl::Status {
        HK_ASSIGN_OR_RETURN(value, IoFailure(tx.GetValue(name)));
        return absl::OkStatus();
      },
      Durability::kOrdered));
  return value;
}

int64_t UnixMs() {
  auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
}

}  // namespace heterok8s::attach
