// The ledger as the engines use it: rows by key, every failure to write as CNI's "I/O failure".
//
// Threading: thread-safe. Ownership: borrows the ledger.
// Errors: what the function given to Write returns, unchanged; anything of the ledger's own as kIoFailure (code 5).
//
//   HK_RETURN_IF_ERROR(journal_.Put(row, Durability::kSynced));
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "node-agent/ledger/ledger.h"

namespace heterok8s::attach {

using ledger::Attachment;
using ledger::Durability;

class Journal {
 public:
  explicit Journal(ledger::Ledger& ledger) : ledger_(ledger) {}

  absl::Status Write(const std::function<absl::Status(ledger::Tx&)>& fn, Durability durability = Durability::kSynced);
  absl::Status Put(const Attachment& row, Durability durability);
  absl::Status Sync();
  absl::Status Health() const { return ledger_.Health(); }

  absl::StatusOr<std::optional<Attachment>> Find(const ledger::AttachmentKey& key);
  absl::StatusOr<std::vector<Attachment>> OfPod(const std::string& pod_key);
  absl::StatusOr<std::vector<Attachment>> All();
  absl::StatusOr<std::vector<ledger::Tombstone>> Tombstones();
  absl::StatusOr<std::optional<ledger::Tombstone>> TombstoneOf(const std::string& pod_key);
  // Pod addresses that are not free, quarantined ones included; link blocks are not counted.
  absl::StatusOr<uint32_t> AddressesUsed();
  // Every network, link blocks included, in which `owner` has addresses.
  absl::StatusOr<std::vector<std::string>> NetworksOf(const std::string& owner);
  // The number up to which generations have been given out before this call.
  absl::StatusOr<uint64_t> NewestGeneration();
  absl::StatusOr<std::optional<std::string>> Value(const std::string& name);

 private:
  ledger::Ledger& ledger_;
};

// The network under which blocks of link addresses are claimed; '@' cannot occur in the name of a real one.
inline constexpr char kLinkNetwork[] = "@link";

int64_t UnixMs();

}  // namespace heterok8s::attach
