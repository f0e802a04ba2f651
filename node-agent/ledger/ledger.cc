#include "node-agent/ledger/ledger.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>

#include <absl/cleanup/cleanup.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <filesystem>
#include <mutex>

#include "common/fault/fault.h"
#include "common/sys/unique_fd.h"
#include "node-agent/ledger/schema.h"
#include "node-agent/ledger/sqlite.h"
#include "node-agent/ledger/tx.h"

namespace heterok8s::ledger {
namespace {

absl::StatusOr<sys::UniqueFd> OpenFile(const std::string& path, int flags) {
  sys::UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("open {}", path));
  return fd;
}

class LedgerFile : public Ledger {
 public:
  LedgerFile(std::string path, sys::UniqueFd lock, Database writer, Database reader, sys::UniqueFd wal)
      : path_(std::move(path)),
        lock_(std::move(lock)),
        wal_(std::move(wal)),
        writer_(std::move(writer)),
        reader_(std::move(reader)) {}

  absl::Status Transact(const std::function<absl::Status(Tx&)>& fn, Durability durability) override {
    {
      std::lock_guard lock(writer_mutex_);
      HK_FAULT_POINT("ledger.before-commit");
      HK_RETURN_IF_ERROR(Run("BEGIN IMMEDIATE"));
      absl::Cleanup roll_back = [this] { (void)Run("ROLLBACK"); };
      SqliteTx tx(writer_);
      HK_RETURN_IF_ERROR(fn(tx));
      HK_RETURN_IF_ERROR(Annotate(Run("COMMIT"), path_));
      std::move(roll_back).Cancel();
    }
    {
      std::lock_guard lock(sync_mutex_);
      ++committed_;
    }
    HK_FAULT_POINT("ledger.before-sync");
    return durability == Durability::kSynced ? Sync() : absl::OkStatus();
  }

  // The first that comes syncs for all that have committed by then; those who come meanwhile wait for the next round.
  // fdatasync of the log is what SQLite itself does after a commit with synchronous=FULL, but it would do it once per
  // commit and with the writer's lock held.
  absl::Status Sync() override {
    std::unique_lock lock(sync_mutex_);
    const uint64_t mine = committed_;
    while (synced_ < mine) {
      HK_RETURN_IF_ERROR(sync_failure_);
      if (syncing_) {
        sync_done_.wait(lock);
        continue;
      }
      syncing_ = true;
      const uint64_t target = committed_;
      lock.unlock();
      absl::Status synced = SyncLog();
      lock.lock();
      syncing_ = false;
      if (synced.ok()) {
        synced_ = target;
      } else {
        // After a failed sync the kernel may have dropped the pages: asking again would claim a success that is none.
        sync_failure_ = Annotate(synced, fmt::format("sync {}-wal; no more writes before a restart", path_));
      }
      sync_done_.notify_all();
    }
    return absl::OkStatus();
  }

  absl::Status Health() override {
    std::lock_guard lock(sync_mutex_);
    return sync_failure_.ok() ? absl::OkStatus() : absl::UnavailableError(Message(sync_failure_));
  }

  absl::StatusOr<std::vector<Attachment>> ListAttachments() override {
    std::lock_guard lock(reader_mutex_);
    return ReadAttachments(reader_);
  }
  absl::StatusOr<std::vector<AddressRow>> ListAddresses() override {
    std::lock_guard lock(reader_mutex_);
    return ReadAddresses(reader_);
  }
  absl::StatusOr<std::vector<Tombstone>> ListTombstones() override {
    std::lock_guard lock(reader_mutex_);
    return ReadTombstones(reader_);
  }

 private:
  absl::Status SyncLog() {
    HK_FAULT_POINT("ledger.sync");
    return fdatasync(wal_.get()) == 0 ? absl::OkStatus() : ErrnoToStatus(errno, "fdatasync");
  }
  absl::Status Run(const char* statement) {
    HK_ASSIGN_OR_RETURN(Query query, writer_.Prepare(statement));
    return query.Run();
  }

  const std::string path_;
  const sys::UniqueFd lock_;  // released last: the connections below are closed, and the log merged, under it
  const sys::UniqueFd wal_;   // SQLite keeps this file for as long as a connection is open

  std::mutex writer_mutex_;
  Database writer_;  // guarded by writer_mutex_
  std::mutex reader_mutex_;
  Database reader_;  // guarded by reader_mutex_

  std::mutex sync_mutex_;
  std::condition_variable sync_done_;
  uint64_t committed_ = 0, synced_ = 0;  // these four are guarded by sync_mutex_
  bool syncing_ = false;
  absl::Status sync_failure_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Ledger>> Ledger::Open(const std::string& path) {
  std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) folder = ".";
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("make {}", folder.string()));

  HK_ASSIGN_OR_RETURN(sys::UniqueFd lock, OpenFile(path + ".lock", O_RDWR | O_CREAT));
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(fmt::format("another process has the ledger {} open", path));
  }
  HK_ASSIGN_OR_RETURN(Database writer, Database::Open(path, Access::kReadWrite));
  HK_RETURN_IF_ERROR(Annotate(PrepareSchema(writer, path), fmt::format("ledger {}", path)));
  // What an earlier process could not sync is in the kernel's memory, marked as written: no later sync of the log
  // writes it again (fsync(2), NOTES). So the log goes into the database, which SQLite writes and syncs, and begins
  // anew.
  HK_ASSIGN_OR_RETURN(int64_t busy, writer.Pragma("wal_checkpoint(TRUNCATE)"));
  if (busy != 0) return absl::UnavailableError(fmt::format("ledger {}: another program reads it", path));
  HK_ASSIGN_OR_RETURN(Database reader, Database::Open(path, Access::kReadOnly));
  HK_RETURN_IF_ERROR(ReadTombstones(reader).status());  // makes SQLite open the log

  // A new file, and its log, exist for sure only when their folder is synced as well.
  HK_ASSIGN_OR_RETURN(sys::UniqueFd wal, OpenFile(path + "-wal", O_RDWR));
  HK_ASSIGN_OR_RETURN(sys::UniqueFd directory, OpenFile(folder.string(), O_RDONLY | O_DIRECTORY));
  if (fdatasync(wal.get()) != 0 || fsync(directory.get()) != 0)
    return ErrnoToStatus(errno, fmt::format("sync {}", path));
  return std::make_unique<LedgerFile>(path, std::move(lock), std::move(writer), std::move(reader), std::move(wal));
}

absl::StatusOr<std::string> Ledger::SetAside(const std::string& path) {
  HK_ASSIGN_OR_RETURN(sys::UniqueFd lock, OpenFile(path + ".lock", O_RDWR | O_CREAT));
  if (flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(fmt::format("another process has the ledger {} open", path));
  }
  auto now = std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch());
  std::string aside = fmt::format("{}.corrupt-{}", path, now.count());
  for (const char* suffix : {"-wal", "-shm", ""}) {
    if (rename((path + suffix).c_str(), (aside + suffix).c_str()) != 0 && errno != ENOENT) {
      return ErrnoToStatus(errno, fmt::format("rename {}{} to {}{}", path, suffix, aside, suffix));
    }
  }
  return aside;
}

}  // namespace heterok8s::ledger
