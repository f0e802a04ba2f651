// SQLite as values: a connection with its prepared statements, and errors as Status.
//
// Threading: a Database and its statements belong to one thread at a time; the ledger's locks see to that.
// Errors: kDataLoss for a file that is no database or is damaged, kResourceExhausted for a full disk, kUnavailable when
// another process holds the lock longer than the busy timeout, kPermissionDenied, kInternal.
//
//   HK_ASSIGN_OR_RETURN(Database db, Database::Open(path, kReadWrite));
//   HK_ASSIGN_OR_RETURN(Query query, db.Prepare("SELECT owner FROM address WHERE network = ?1"));
//   query.Bind("podnet");
//   HK_ASSIGN_OR_RETURN(bool found, query.Step());
#pragma once

#include <sqlite3.h>

#include <string>
#include <string_view>
#include <unordered_map>

#include "common/status/status.h"
#include "common/sys/chandle.h"

namespace heterok8s::ledger {

using SqliteHandle = sys::CHandle<sqlite3, sqlite3_close>;
using StatementHandle = sys::CHandle<sqlite3_stmt, sqlite3_finalize>;

// One run of a prepared statement; binds parameters in order and is reset when it goes out of scope.
class Query {
 public:
  Query(sqlite3* db, sqlite3_stmt* statement) : db_(db), statement_(statement) {}
  Query(Query&& other) noexcept
      : db_(other.db_), statement_(std::exchange(other.statement_, nullptr)), next_(other.next_) {}
  ~Query() {
    if (statement_ != nullptr) {
      sqlite3_reset(statement_);
      sqlite3_clear_bindings(statement_);
    }
  }

  // The text must outlive the Query: it is not copied.
  Query& Bind(std::string_view text);
  Query& BindBlob(std::string_view bytes);
  Query& Bind(int64_t number);

  // True: a row is there to be read. False: done.
  absl::StatusOr<bool> Step();
  // For statements without rows.
  absl::Status Run();

  std::string Text(int column) const;  // also of a blob
  int64_t Number(int column) const { return sqlite3_column_int64(statement_, column); }

 private:
  sqlite3* db_;
  sqlite3_stmt* statement_;
  int next_ = 1;
};

enum class Access { kReadWrite, kReadOnly };

class Database {
 public:
  static absl::StatusOr<Database> Open(const std::string& path, Access access);

  // Prepared once per connection; `sql` is a literal, its address is the key. A statement runs once at a time.
  absl::StatusOr<Query> Prepare(const char* sql);
  // Any text, not kept.
  absl::Status Execute(const std::string& sql);
  absl::StatusOr<int64_t> Pragma(const std::string& name);

 private:
  explicit Database(SqliteHandle handle) : handle_(std::move(handle)) {}

  SqliteHandle handle_;
  std::unordered_map<const char*, StatementHandle> statements_;  // finalised before the connection closes
};

// The status for a result code of `db` with its text.
absl::Status SqliteError(sqlite3* db, int code, std::string_view what);

}  // namespace heterok8s::ledger
