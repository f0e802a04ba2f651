#include "node-agent/ledger/tx.h"

#include <fmt/format.h>

namespace heterok8s::ledger {
namespace {

std::string Encode(const IpAddress& address) {
  std::string bytes(1, static_cast<char>(address.family));
  bytes.append(reinterpret_cast<const char*>(address.bytes.data()), address.size());
  return bytes;
}

absl::StatusOr<IpAddress> Decode(const std::string& bytes) {
  IpAddress address;
  if (!bytes.empty()) address.family = static_cast<Family>(bytes[0]);
  bool known = !bytes.empty() && (address.family == Family::kV4 || address.family == Family::kV6);
  if (!known || bytes.size() != 1 + address.size()) {
    return absl::DataLossError(fmt::format("an address of {} bytes in the ledger is none", bytes.size()));
  }
  std::copy(bytes.begin() + 1, bytes.end(), address.bytes.begin());
  return address;
}

template <typename Enum, size_t N>
absl::StatusOr<Enum> ParseName(const std::string& text, const Enum (&all)[N]) {
  for (Enum value : all) {
    if (Name(value) == text) return value;
  }
  return absl::DataLossError(fmt::format("the ledger holds '{}' where a state or mode belongs", text));
}
constexpr State kStates[] = {State::kPreparing, State::kCommitted, State::kDeleting};
constexpr Mode kModes[] = {Mode::kOrdinary, Mode::kSplit, Mode::kTwin};

#define HK_ATTACHMENT_COLUMNS                                                                              \
  "network, container_id, ifname, pod_key, pod_namespace, pod_name, netns_path, mode, state, generation, " \
  "details, created_unix_ms"

absl::StatusOr<Attachment> AttachmentOf(const Query& row) {
  Attachment a;
  a.key = {row.Text(0), row.Text(1), row.Text(2)};
  a.pod_key = row.Text(3);
  a.pod_namespace = row.Text(4);
  a.pod_name = row.Text(5);
  a.netns_path = row.Text(6);
  HK_ASSIGN_OR_RETURN(a.mode, ParseName(row.Text(7), kModes));
  HK_ASSIGN_OR_RETURN(a.state, ParseName(row.Text(8), kStates));
  a.generation = static_cast<uint64_t>(row.Number(9));
  a.details = row.Text(10);
  a.created_unix_ms = row.Number(11);
  return a;
}

absl::StatusOr<std::vector<Attachment>> AllAttachments(Query query) {
  std::vector<Attachment> all;
  for (;;) {
    HK_ASSIGN_OR_RETURN(bool row, query.Step());
    if (!row) return all;
    HK_ASSIGN_OR_RETURN(Attachment attachment, AttachmentOf(query));
    all.push_back(std::move(attachment));
  }
}

}  // namespace

std::string_view Name(State state) {
  switch (state) {
    case State::kPreparing:
      return "preparing";
    case State::kCommitted:
      return "committed";
    case State::kDeleting:
      return "deleting";
  }
  return "";
}

std::string_view Name(Mode mode) {
  switch (mode) {
    case Mode::kOrdinary:
      return "ordinary";
    case Mode::kSplit:
      return "split";
    case Mode::kTwin:
      return "twin";
  }
  return "";
}

absl::Status SqliteTx::PutAttachment(const Attachment& a) {
  HK_ASSIGN_OR_RETURN(Query query, db_.Prepare("INSERT OR REPLACE INTO attachment (" HK_ATTACHMENT_COLUMNS
                                               ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"));
  query.Bind(a.key.network).Bind(a.key.container_id).Bind(a.key.ifname).Bind(a.pod_key).Bind(a.pod_namespace);
  query.Bind(a.pod_name).Bind(a.netns_path).Bind(Name(a.mode)).Bind(Name(a.state));
  query.Bind(static_cast<int64_t>(a.generation)).Bind(a.details).Bind(a.created_unix_ms);
  return query.Run();
}

absl::Status SqliteTx::DeleteAttachment(const AttachmentKey& key) {
  HK_ASSIGN_OR_RETURN(Query query,
                      db_.Prepare("DELETE FROM attachment WHERE network = ?1 AND container_id = ?2 AND ifname = ?3"));
  return query.Bind(key.network).Bind(key.container_id).Bind(key.ifname).Run();
}

absl::StatusOr<std::optional<Attachment>> SqliteTx::FindAttachment(const AttachmentKey& key) {
  HK_ASSIGN_OR_RETURN(Query query,
                      db_.Prepare("SELECT " HK_ATTACHMENT_COLUMNS
                                  " FROM attachment WHERE network = ?1 AND container_id = ?2 AND ifname = ?3"));
  query.Bind(key.network).Bind(key.container_id).Bind(key.ifname);
  HK_ASSIGN_OR_RETURN(bool row, query.Step());
  if (!row) return std::nullopt;
  HK_ASSIGN_OR_RETURN(Attachment attachment, AttachmentOf(query));
  return attachment;
}

absl::StatusOr<std::vector<Attachment>> SqliteTx::AttachmentsOfPod(const std::string& pod_key) {
  HK_ASSIGN_OR_RETURN(Query query, db_.Prepare("SELECT " HK_ATTACHMENT_COLUMNS " FROM attachment WHERE pod_key = ?1"));
  query.Bind(pod_key);
  return AllAttachments(std::move(query));
}

absl::Status SqliteTx::ClaimAddress(const std::string& network, const IpAddress& address, const std::string& owner) {
  HK_ASSIGN_OR_RETURN(std::optional<std::string> holder, HolderOf(network, address));
  if (holder == owner) return absl::OkStatus();
  if (holder.has_value()) {
    return absl::AlreadyExistsError(
        fmt::format("{} of network {} belongs to {}", address.ToString(), network, *holder));
  }
  std::string bytes = Encode(address);
  HK_ASSIGN_OR_RETURN(Query query, db_.Prepare("INSERT INTO address (network, address, owner) VALUES (?1, ?2, ?3)"));
  return query.Bind(network).BindBlob(bytes).Bind(owner).Run();
}

absl::StatusOr<std::vector<IpAddress>> SqliteTx::AddressesOf(const std::string& network, const std::string& owner) {
  HK_ASSIGN_OR_RETURN(Query query,
                      db_.Prepare("SELECT address FROM address WHERE network = ?1 AND owner = ?2 ORDER BY address"));
  query.Bind(network).Bind(owner);
  std::vector<IpAddress> all;
  for (;;) {
    HK_ASSIGN_OR_RETURN(bool row, query.Step());
    if (!row) return all;
    HK_ASSIGN_OR_RETURN(IpAddress address, Decode(query.Text(0)));
    all.push_back(address);
  }
}

absl::StatusOr<std::optional<std::string>> SqliteTx::HolderOf(const std::string& network, const IpAddress& address) {
  std::string bytes = Encode(address);
  HK_ASSIGN_OR_RETURN(Query query, db_.Prepare("SELECT owner FROM address WHERE network = ?1 AND address = ?2"));
  query.Bind(network).BindBlob(bytes);
  HK_ASSIGN_OR_RETURN(bool row, query.Step());
  if (!row) return std::nullopt;
  return query.Text(0);
}

absl::StatusOr<std::optional<IpAddress>> SqliteTx::FirstFree(const std::string& network, const IpAddress& from,
                                                             const IpAddress& to, uint32_t stride) {
  std::string first = Encode(from), last = Encode(to);
  HK_ASSIGN_OR_RETURN(Query taken, db_.Prepare("SELECT address FROM address WHERE network = ?1 AND address >= ?2 "
                                               "AND address <= ?3 ORDER BY address"));
  taken.Bind(network).BindBlob(first).BindBlob(last);
  IpAddress candidate = from;
  for (;;) {
    HK_ASSIGN_OR_RETURN(bool row, taken.Step());
    if (!row) return candidate;
    HK_ASSIGN_OR_RETURN(IpAddress address, Decode(taken.Text(0)));
    if (address < candidate) continue;  // inside the block just passed
    if (address > candidate) return candidate;
    candidate = candidate.Plus(stride);
    if (candidate > to || candidate < from) return std::nullopt;  // the end of the range, or of the address space
  }
}

absl::StatusOr<IpAddress> SqliteTx::ClaimNext(const std::string& network, const IpAddress& first, const IpAddress& last,
                                              const std::string& owner, uint32_t stride) {
  std::string first_bytes = Encode(first), last_bytes = Encode(last);
  IpAddress start = first;
  {
    HK_ASSIGN_OR_RETURN(Query cursor, db_.Prepare("SELECT handed_out FROM range_cursor WHERE network = ?1 AND "
                                                  "first = ?2 AND last = ?3"));
    cursor.Bind(network).BindBlob(first_bytes).BindBlob(last_bytes);
    HK_ASSIGN_OR_RETURN(bool row, cursor.Step());
    if (row) {
      HK_ASSIGN_OR_RETURN(IpAddress handed_out, Decode(cursor.Text(0)));
      start = handed_out.Plus(stride);
      if (start > last || start < first) start = first;
    }
  }

  HK_ASSIGN_OR_RETURN(std::optional<IpAddress> free, FirstFree(network, start, last, stride));
  if (!free.has_value() && start != first) {
    HK_ASSIGN_OR_RETURN(free, FirstFree(network, first, start, stride));
  }
  if (!free.has_value()) {
    return absl::ResourceExhaustedError(
        fmt::format("every address from {} to {} of network {} is taken", first.ToString(), last.ToString(), network));
  }
  HK_RETURN_IF_ERROR(ClaimAddress(network, *free, owner));

  std::string free_bytes = Encode(*free);
  HK_ASSIGN_OR_RETURN(Query cursor,
                      db_.Prepare("INSERT OR REPLACE INTO range_cursor (network, first, last, handed_out) "
                                  "VALUES (?1, ?2, ?3, ?4)"));
  HK_RETURN_IF_ERROR(cursor.Bind(network).BindBlob(first_bytes).BindBlob(last_bytes).BindBlob(free_bytes).Run());
  return *free;
}

absl::Status SqliteTx::ReleaseAddresses(const std::string& network, const std::string& owner) {
  HK_ASSIGN_OR_RETURN(Query query, db_.Prepare("DELETE FROM address WHERE network = ?1 AND owner = ?2"));
  return query.Bind(network).Bind(owner).Run();
}

absl::Status SqliteTx::RenameOwner(const std::string& network, const std::string& from, const std::string& to) {
  HK_ASSIGN_OR_RETURN(Query query, db_.Prepare("UPDATE address SET owner = ?3 WHERE network = ?1 AND owner = ?2"));
  return query.Bind(network).Bind(from).Bind(to).Run();
}

absl::Status SqliteTx::PutTombstone(const Tombstone& t) {
  HK_ASSIGN_OR_RETURN(Query query,
                      db_.Prepare("INSERT OR REPLACE INTO tombstone (pod_key, generation, reason, created_unix_ms) "
                                  "VALUES (?1, ?2, ?3, ?4)"));
  return query.Bind(t.pod_key).Bind(static_cast<int64_t>(t.generation)).Bind(t.reason).Bind(t.created_unix_ms).Run();
}

absl::Status SqliteTx::DeleteTombstone(const std::string& pod_key) {
  HK_ASSIGN_OR_RETURN(Query query, db_.Prepare("DELETE FROM tombstone WHERE pod_key = ?1"));
  return query.Bind(pod_key).Run();
}

absl::StatusOr<std::optional<Tombstone>> SqliteTx::FindTombstone(const std::string& pod_key) {
  HK_ASSIGN_OR_RETURN(Query query, db_.Prepare("SELECT pod_key, generation, reason, created_unix_ms FROM tombstone "
                                               "WHERE pod_key = ?1"));
  query.Bind(pod_key);
  HK_ASSIGN_OR_RETURN(bool row, query.Step());
  if (!row) return std::nullopt;
  return Tombstone{query.Text(0), static_cast<uint64_t>(query.Number(1)), query.Text(2), query.Number(3)};
}

absl::StatusOr<uint64_t> SqliteTx::NextGeneration() {
  HK_ASSIGN_OR_RETURN(Query query, db_.Prepare("UPDATE counter SET number = number + 1 WHERE name = 'generation' "
                                               "RETURNING number"));
  HK_ASSIGN_OR_RETURN(bool row, query.Step());
  if (!row) return absl::DataLossError("the ledger's generation counter is gone");
  return static_cast<uint64_t>(query.Number(0));
}

absl::Status SqliteTx::SkipGenerations(uint64_t count) {
  HK_ASSIGN_OR_RETURN(Query query, db_.Prepare("UPDATE counter SET number = number + ?1 WHERE name = 'generation'"));
  return query.Bind(static_cast<int64_t>(count)).Run();
}

absl::Status SqliteTx::PutValue(const std::string& name, const std::string& value) {
  if (value.empty()) {
    HK_ASSIGN_OR_RETURN(Query query, db_.Prepare("DELETE FROM value WHERE name = ?1"));
    return query.Bind(name).Run();
  }
  HK_ASSIGN_OR_RETURN(Query query, db_.Prepare("INSERT OR REPLACE INTO value (name, value) VALUES (?1, ?2)"));
  return query.Bind(name).Bind(value).Run();
}

absl::StatusOr<std::optional<std::string>> SqliteTx::GetValue(const std::string& name) {
  HK_ASSIGN_OR_RETURN(Query query, db_.Prepare("SELECT value FROM value WHERE name = ?1"));
  query.Bind(name);
  HK_ASSIGN_OR_RETURN(bool row, query.Step());
  if (!row) return std::nullopt;
  return query.Text(0);
}

absl::StatusOr<std::vector<Attachment>> ReadAttachments(Database& db) {
  HK_ASSIGN_OR_RETURN(Query query, db.Prepare("SELECT " HK_ATTACHMENT_COLUMNS
                                              " FROM attachment ORDER BY created_unix_ms, container_id, ifname"));
  return AllAttachments(std::move(query));
}

absl::StatusOr<std::vector<AddressRow>> ReadAddresses(Database& db) {
  HK_ASSIGN_OR_RETURN(Query query, db.Prepare("SELECT network, address, owner FROM address ORDER BY network, address"));
  std::vector<AddressRow> all;
  for (;;) {
    HK_ASSIGN_OR_RETURN(bool row, query.Step());
    if (!row) return all;
    HK_ASSIGN_OR_RETURN(IpAddress address, Decode(query.Text(1)));
    all.push_back({query.Text(0), address, query.Text(2)});
  }
}

absl::StatusOr<std::vector<Tombstone>> ReadTombstones(Database& db) {
  HK_ASSIGN_OR_RETURN(Query query, db.Prepare("SELECT pod_key, generation, reason, created_unix_ms FROM tombstone "
                                              "ORDER BY created_unix_ms, pod_key"));
  std::vector<Tombstone> all;
  for (;;) {
    HK_ASSIGN_OR_RETURN(bool row, query.Step());
    if (!row) return all;
    all.push_back({query.Text(0), static_cast<uint64_t>(query.Number(1)), query.Text(2), query.Number(3)});
  }
}

}  // namespace heterok8s::ledger
