// What this heterod must remember across a crash: one SQLite file (WAL).
//
// Purpose: attachments with their state and generation, addresses and link blocks with their owner, tombstones for the
// other PU, the Pods reserved for a DPU twin. Rows are written before the kernel is touched and removed after.
// Threading: thread-safe; one writer at a time, readers never wait for it. Writers that commit at the same time share
// one sync. Ownership: values are copies. One heterod per file: a lock beside it (<path>.lock) says so.
// Errors: kAlreadyExists names the holder of an address; kDataLoss when the file is not a ledger (it is set aside only
// by an explicit SetAside, never silently); kFailedPrecondition when another process has it open, or a newer version
// of this program made it.
//
//   HK_ASSIGN_OR_RETURN(std::unique_ptr<Ledger> ledger, Ledger::Open("/var/lib/heterok8s/host.db"));
//   HK_RETURN_IF_ERROR(ledger->Transact([&](Tx& tx) -> absl::Status {
//     HK_RETURN_IF_ERROR(tx.ClaimAddress("podnet", ip, attachment.pod_key));
//     return tx.PutAttachment(attachment);
//   }));                                     // one commit, one sync
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/net/ip.h"
#include "common/status/status.h"

namespace heterok8s::ledger {

struct AttachmentKey {
  std::string network, container_id, ifname;
  auto operator<=>(const AttachmentKey&) const = default;
};

enum class State { kPreparing, kCommitted, kDeleting };
enum class Mode {
  kOrdinary,  // host side only
  kSplit,     // host: the Pod's host half. DPU: the half that the host's Prepare made
  kTwin,      // DPU: a sandbox that the DPU's own runtime made; becomes the Pod's DPU half at Prepare
};
std::string_view Name(State state);
std::string_view Name(Mode mode);

struct Attachment {
  AttachmentKey key;
  std::string pod_key;  // Pod UID, or the container id where the runtime gives none
  std::string pod_namespace, pod_name;
  std::string netns_path;
  Mode mode = Mode::kOrdinary;
  State state = State::kPreparing;
  uint64_t generation = 0;  // of the Pod's attach; rises with every new attach of the same pod_key
  std::string details;      // JSON that the attach engine writes and reads: specs, result, placement
  int64_t created_unix_ms = 0;
};

struct AddressRow {
  std::string network;
  IpAddress address;
  std::string owner;  // pod_key, or "quarantine:<pod_key>" until the DPU has let go of it
};

struct Tombstone {  // the other PU must still remove this
  std::string pod_key;
  uint64_t generation = 0;
  std::string reason;
  int64_t created_unix_ms = 0;
};

// One transaction. Lives only inside Ledger::Transact's function.
class Tx {
 public:
  virtual ~Tx() = default;
  virtual absl::Status PutAttachment(const Attachment& attachment) = 0;  // insert or replace by key
  virtual absl::Status DeleteAttachment(const AttachmentKey& key) = 0;   // OK when absent
  virtual absl::StatusOr<std::optional<Attachment>> FindAttachment(const AttachmentKey& key) = 0;
  virtual absl::StatusOr<std::vector<Attachment>> AttachmentsOfPod(const std::string& pod_key) = 0;

  // OK when `owner` has it already; kAlreadyExists names the holder.
  virtual absl::Status ClaimAddress(const std::string& network, const IpAddress& address, const std::string& owner) = 0;
  virtual absl::StatusOr<std::vector<IpAddress>> AddressesOf(const std::string& network, const std::string& owner) = 0;
  virtual absl::StatusOr<std::optional<std::string>> HolderOf(const std::string& network, const IpAddress& address) = 0;
  // The first free address of first, first + stride, … last after the one handed out last for this range (round robin,
  // wraps), claimed for `owner`. kResourceExhausted when all are taken. A block of n addresses is claimed by its first
  // one with stride n.
  virtual absl::StatusOr<IpAddress> ClaimNext(const std::string& network, const IpAddress& first, const IpAddress& last,
                                              const std::string& owner, uint32_t stride = 1) = 0;
  virtual absl::Status ReleaseAddresses(const std::string& network, const std::string& owner) = 0;
  virtual absl::Status RenameOwner(const std::string& network, const std::string& from, const std::string& to) = 0;

  virtual absl::Status PutTombstone(const Tombstone& tombstone) = 0;
  virtual absl::Status DeleteTombstone(const std::string& pod_key) = 0;
  virtual absl::StatusOr<std::optional<Tombstone>> FindTombstone(const std::string& pod_key) = 0;

  // Rises by one at each call and is never reused, also across restarts. A new file starts at the time of its making
  // (unix seconds), so that even a lost ledger does not repeat what the other PU has seen.
  virtual absl::StatusOr<uint64_t> NextGeneration() = 0;
  // As if so many had been given out: for those that a power cut may have taken from the disk.
  virtual absl::Status SkipGenerations(uint64_t count) = 0;
  // Small named values: epoch, boot id, node identity. An empty value removes the name.
  virtual absl::Status PutValue(const std::string& name, const std::string& value) = 0;
  virtual absl::StatusOr<std::optional<std::string>> GetValue(const std::string& name) = 0;
};

enum class Durability {
  kSynced,  // on disk when Transact returns
  // Survives the end of this process at once, the end of the kernel only after the next synced commit or Sync(). For
  // what is worthless without the kernel objects that it announces.
  kOrdered,
};

class Ledger {
 public:
  static absl::StatusOr<std::unique_ptr<Ledger>> Open(const std::string& path);
  // Renames a file that Open refused, and what belongs to it, to <path>.corrupt-<unix seconds>; returns that name.
  static absl::StatusOr<std::string> SetAside(const std::string& path);
  virtual ~Ledger() = default;

  // Commits when `fn` returns OK, else rolls back and returns what it returned. `fn` must not call Transact.
  virtual absl::Status Transact(const std::function<absl::Status(Tx&)>& fn, Durability durability) = 0;
  absl::Status Transact(const std::function<absl::Status(Tx&)>& fn) { return Transact(fn, Durability::kSynced); }
  // Everything committed before this call is on disk when it returns.
  virtual absl::Status Sync() = 0;
  // kUnavailable since a sync failed: nothing is written to the disk any more, until the file is opened anew.
  virtual absl::Status Health() = 0;

  // Reads outside a transaction.
  virtual absl::StatusOr<std::vector<Attachment>> ListAttachments() = 0;
  virtual absl::StatusOr<std::vector<AddressRow>> ListAddresses() = 0;
  virtual absl::StatusOr<std::vector<Tombstone>> ListTombstones() = 0;
};

}  // namespace heterok8s::ledger
