// The SQL of one transaction and of the reads. Private to the ledger.
//
// Threading: as the Database it borrows.
#pragma once

#include <string>
#include <vector>

#include "node-agent/ledger/ledger.h"
#include "node-agent/ledger/sqlite.h"

namespace heterok8s::ledger {

class SqliteTx : public Tx {
 public:
  explicit SqliteTx(Database& db) : db_(db) {}

  absl::Status PutAttachment(const Attachment& attachment) override;
  absl::Status DeleteAttachment(const AttachmentKey& key) override;
  absl::StatusOr<std::optional<Attachment>> FindAttachment(const AttachmentKey& key) override;
  absl::StatusOr<std::vector<Attachment>> AttachmentsOfPod(const std::string& pod_key) override;

  absl::Status ClaimAddress(const std::string& network, const IpAddress& address, const std::string& owner) override;
  absl::StatusOr<std::vector<IpAddress>> AddressesOf(const std::string& network, const std::string& owner) override;
  absl::StatusOr<std::optional<std::string>> HolderOf(const std::string& network, const IpAddress& address) override;
  absl::StatusOr<IpAddress> ClaimNext(const std::string& network, const IpAddress& first, const IpAddress& last,
                                      const std::string& owner, uint32_t stride) override;
  absl::Status ReleaseAddresses(const std::string& network, const std::string& owner) override;
  absl::Status RenameOwner(const std::string& network, const std::string& from, const std::string& to) override;

  absl::Status PutTombstone(const Tombstone& tombstone) override;
  absl::Status DeleteTombstone(const std::string& pod_key) override;
  absl::StatusOr<std::optional<Tombstone>> FindTombstone(const std::string& pod_key) override;

  absl::StatusOr<uint64_t> NextGeneration() override;
  absl::Status SkipGenerations(uint64_t count) override;
  absl::Status PutValue(const std::string& name, const std::string& value) override;
  absl::StatusOr<std::optional<std::string>> GetValue(const std::string& name) override;

 private:
  // The first free one of from, from + stride, … to; absent when all are taken.
  absl::StatusOr<std::optional<IpAddress>> FirstFree(const std::string& network, const IpAddress& from,
                                                     const IpAddress& to, uint32_t stride);

  Database& db_;
};

absl::StatusOr<std::vector<Attachment>> ReadAttachments(Database& db);
absl::StatusOr<std::vector<AddressRow>> ReadAddresses(Database& db);
absl::StatusOr<std::vector<Tombstone>> ReadTombstones(Database& db);

}  // namespace heterok8s::ledger
