#include "node-agent/ledger/sqlite.h"

#include <fmt/format.h>

#include <chrono>

namespace heterok8s::ledger {
namespace {

// Only an administrator's sqlite3 shell can hold the lock against us; a CNI call must not wait for it for ever.
constexpr std::chrono::milliseconds kBusyTimeout{3000};

absl::StatusCode CodeFor(int sqlite_code) {
  switch (sqlite_code & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return absl::StatusCode::kDataLoss;
    case SQLITE_FULL:
    case SQLITE_NOMEM:
      return absl::StatusCode::kResourceExhausted;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return absl::StatusCode::kUnavailable;
    case SQLITE_PERM:
    case SQLITE_READONLY:
    case SQLITE_CANTOPEN:
      return absl::StatusCode::kPermissionDenied;
    case SQLITE_CONSTRAINT:
      return absl::StatusCode::kAlreadyExists;
    default:
      return absl::StatusCode::kInternal;
  }
}

}  // namespace

absl::Status SqliteError(sqlite3* db, int code, std::string_view what) {
  return absl::Status(CodeFor(code),
                      fmt::format("{}: {}", what, db != nullptr ? sqlite3_errmsg(db) : sqlite3_errstr(code)));
}

Query& Query::Bind(std::string_view text) {
  // An empty view may have a null pointer, which SQLite would store as NULL.
  const char* data = text.data() != nullptr ? text.data() : "";
  sqlite3_bind_text(statement_, next_++, data, static_cast<int>(text.size()), SQLITE_STATIC);
  return *this;
}

Query& Query::BindBlob(std::string_view bytes) {
  sqlite3_bind_blob(statement_, next_++, bytes.data(), static_cast<int>(bytes.size()), SQLITE_STATIC);
  return *this;
}

Query& Query::Bind(int64_t number) {
  sqlite3_bind_int64(statement_, next_++, number);
  return *this;
}

absl::StatusOr<bool> Query::Step() {
  int code = sqlite3_step(statement_);
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return SqliteError(db_, code, sqlite3_sql(statement_));
}

absl::Status Query::Run() { return Step().status(); }

std::string Query::Text(int column) const {
  const void* bytes = sqlite3_column_blob(statement_, column);  // before the length: it may convert
  int length = sqlite3_column_bytes(statement_, column);
  return bytes == nullptr ? "" : std::string(static_cast<const char*>(bytes), static_cast<size_t>(length));
}

absl::StatusOr<Database> Database::Open(const std::string& path, Access access) {
  int flags = SQLITE_OPEN_NOMUTEX |
              (access == Access::kReadWrite ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY);
  sqlite3* raw = nullptr;
  int code = sqlite3_open_v2(path.c_str(), &raw, flags, nullptr);
  SqliteHandle handle(raw);
  if (code != SQLITE_OK) return SqliteError(raw, code, fmt::format("open {}", path));
  sqlite3_busy_timeout(raw, static_cast<int>(kBusyTimeout.count()));
  return Database(std::move(handle));
}

absl::StatusOr<Query> Database::Prepare(const char* sql) {
  StatementHandle& statement = statements_[sql];
  if (statement == nullptr) {
    sqlite3_stmt* raw = nullptr;
    int code = sqlite3_prepare_v3(handle_.get(), sql, -1, SQLITE_PREPARE_PERSISTENT, &raw, nullptr);
    if (code != SQLITE_OK) return SqliteError(handle_.get(), code, sql);
    statement.reset(raw);
  }
  return Query(handle_.get(), statement.get());
}

absl::Status Database::Execute(const std::string& sql) {
  int code = sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr);
  return code == SQLITE_OK ? absl::OkStatus() : SqliteError(handle_.get(), code, sql);
}

absl::StatusOr<int64_t> Database::Pragma(const std::string& name) {
  std::string sql = "PRAGMA " + name;
  sqlite3_stmt* raw = nullptr;
  int code = sqlite3_prepare_v2(handle_.get(), sql.c_str(), -1, &raw, nullptr);
  StatementHandle statement(raw);
  if (code != SQLITE_OK) return SqliteError(handle_.get(), code, sql);
  Query query(handle_.get(), statement.get());
  HK_ASSIGN_OR_RETURN(bool row, query.Step());
  return row ? query.Number(0) : 0;
}

}  // namespace heterok8s::ledger
