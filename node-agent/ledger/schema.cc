#include "node-agent/ledger/schema.h"

#include <fmt/format.h>

#include <iterator>

namespace heterok8s::ledger {
namespace {

constexpr int64_t kApplicationId = 0x484b3873;  // "HK8s": how a foreign database is told from ours

// Each entry brings a file from the version of its index to the next. Entries are never edited, only added.
// Addresses are stored as one byte of family and the bytes in network order, so that SQLite's order is theirs.
constexpr const char* kMigrations[] = {
    R"(
CREATE TABLE attachment (
  network TEXT NOT NULL, container_id TEXT NOT NULL, ifname TEXT NOT NULL,
  pod_key TEXT NOT NULL, pod_namespace TEXT NOT NULL, pod_name TEXT NOT NULL, netns_path TEXT NOT NULL,
  mode TEXT NOT NULL, state TEXT NOT NULL, generation INTEGER NOT NULL, details TEXT NOT NULL,
  created_unix_ms INTEGER NOT NULL,
  PRIMARY KEY (network, container_id, ifname)) WITHOUT ROWID;
CREATE INDEX attachment_of_pod ON attachment (pod_key);
CREATE TABLE address (
  network TEXT NOT NULL, address BLOB NOT NULL, owner TEXT NOT NULL,
  PRIMARY KEY (network, address)) WITHOUT ROWID;
CREATE INDEX address_of_owner ON address (network, owner);
CREATE TABLE range_cursor (
  network TEXT NOT NULL, first BLOB NOT NULL, last BLOB NOT NULL, handed_out BLOB NOT NULL,
  PRIMARY KEY (network, first, last)) WITHOUT ROWID;
CREATE TABLE tombstone (
  pod_key TEXT PRIMARY KEY, generation INTEGER NOT NULL, reason TEXT NOT NULL, created_unix_ms INTEGER NOT NULL)
  WITHOUT ROWID;
CREATE TABLE counter (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counter VALUES ('generation', CAST(strftime('%s', 'now') AS INTEGER));
CREATE TABLE value (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
)",
};
constexpr int64_t kVersion = std::size(kMigrations);

}  // namespace

absl::Status PrepareSchema(Database& db, const std::string& path) {
  HK_ASSIGN_OR_RETURN(int64_t pages, db.Pragma("page_count"));
  HK_ASSIGN_OR_RETURN(int64_t application, db.Pragma("application_id"));
  if (pages > 0 && application != kApplicationId) {
    return absl::DataLossError(fmt::format("{} is a database, but not a HeteroK8s ledger", path));
  }
  HK_ASSIGN_OR_RETURN(int64_t version, db.Pragma("user_version"));
  if (version > kVersion) {
    return absl::FailedPreconditionError(
        fmt::format("{} has version {}, this program knows up to {}", path, version, kVersion));
  }
  // The file stays small (a row per Pod), so looking at all of it costs less than a surprise at the first ADD.
  {
    HK_ASSIGN_OR_RETURN(Query check, db.Prepare("PRAGMA quick_check(1)"));
    HK_ASSIGN_OR_RETURN(bool row, check.Step());
    if (row && check.Text(0) != "ok") return absl::DataLossError(fmt::format("{} is damaged: {}", path, check.Text(0)));
  }

  HK_RETURN_IF_ERROR(db.Execute("PRAGMA journal_mode = WAL"));
  // Commits do not sync by themselves: the ledger does, once for all writers that wait (see LedgerFile::Sync).
  // SQLite still syncs around checkpoints, which is what keeps the file whole.
  HK_RETURN_IF_ERROR(db.Execute("PRAGMA synchronous = NORMAL"));
  for (; version < kVersion; ++version) {
    HK_RETURN_IF_ERROR(db.Execute("BEGIN IMMEDIATE"));
    HK_RETURN_IF_ERROR(db.Execute(kMigrations[version]));
    HK_RETURN_IF_ERROR(db.Execute(fmt::format("PRAGMA application_id = {}", kApplicationId)));
    HK_RETURN_IF_ERROR(db.Execute(fmt::format("PRAGMA user_version = {}", version + 1)));
    HK_RETURN_IF_ERROR(db.Execute("COMMIT"));
  }
  return absl::OkStatus();
}

}  // namespace heterok8s::ledger
