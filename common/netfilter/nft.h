// nftables of one network namespace, as a port: LibnftablesNft is the kernel, FakeNft behaves like it.
//
// Purpose: run nft scripts (the language of `nft -f`) as one transaction, and read back what is there.
// Threading: thread-compatible (one caller at a time). An instance stays with the network namespace of the thread that
// made it and is used on that thread.
// Ownership: owns its netlink socket.
// Errors: the text of libnftables with the offending line. kNotFound: no such table, chain, set or element;
// kAlreadyExists: `create` of what exists; kInvalidArgument: not understood, by libnftables or by this kernel.
//
//   HK_RETURN_IF_ERROR(nft.Run("add table inet t\nadd set inet t ports { type inet_proto . inet_service; }\n"));
//   HK_ASSIGN_OR_RETURN(std::vector<NftElement> elements, nft.Elements("inet t", "ports"));
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/status/status.h"

namespace heterok8s::netfilter {

// One element of a set or a map. Addresses, protocols and ports are text: {"tcp", "80"}.
struct NftElement {
  std::vector<std::string> key;
  std::vector<std::string> value;  // empty in a set
  std::string comment;
  auto operator<=>(const NftElement&) const = default;
};

struct NftCounter {
  uint64_t packets = 0, bytes = 0;
  auto operator<=>(const NftCounter&) const = default;
};

class Nft {
 public:
  virtual ~Nft() = default;

  // All of `script` or nothing of it.
  virtual absl::Status Run(const std::string& script) = 0;
  // Of the set or map `name` in `table` ("inet heterok8s"), sorted.
  virtual absl::StatusOr<std::vector<NftElement>> Elements(const std::string& table, const std::string& name) = 0;
  // Of every set and map of `table`, by its name, sorted.
  virtual absl::StatusOr<std::map<std::string, std::vector<NftElement>>> AllElements(const std::string& table) = 0;
  // The named counters of `table`.
  virtual absl::StatusOr<std::map<std::string, NftCounter>> Counters(const std::string& table) = 0;
  // `table` as text, without what changes by itself: no set elements, no counter values.
  virtual absl::StatusOr<std::string> Print(const std::string& table) = 0;
};

}  // namespace heterok8s::netfilter
