// Nft in memory, for tests without a kernel.
//
// Purpose: understands the part of the language that this repository writes, one command per line: add, create, delete
// and flush of tables, chains, sets, maps, counters, elements and rules. Behaves as the kernel does: a script is one
// transaction, `flush table` drops rules only, what is missing is kNotFound. Counters count what Hit() says.
// Threading: thread-compatible. Errors: as nft.h; kInvalidArgument for a line it does not understand.
//
//   FakeNft nft;
//   nft.FailNext(absl::StatusCode::kResourceExhausted);
//   CHECK_THAT(nft.Run("add table inet t\n"), HasCode(absl::StatusCode::kResourceExhausted));
#pragma once

#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "common/netfilter/nft.h"

namespace heterok8s::netfilter {

class FakeNft : public Nft {
 public:
  absl::Status Run(const std::string& script) override;
  absl::StatusOr<std::vector<NftElement>> Elements(const std::string& table, const std::string& name) override;
  absl::StatusOr<std::map<std::string, std::vector<NftElement>>> AllElements(const std::string& table) override;
  absl::StatusOr<std::map<std::string, NftCounter>> Counters(const std::string& table) override;
  absl::StatusOr<std::string> Print(const std::string& table) override;

  void FailNext(absl::StatusCode code) { fail_next_ = code; }
  void Hit(const std::string& table, const std::string& counter, NftCounter by);

 private:
  struct Table {
    std::map<std::string, std::string> declared;            // set, map or chain name -> "map any4 { … }"
    std::map<std::string, std::set<NftElement>> elements;   // of sets and maps
    std::map<std::string, std::vector<std::string>> rules;  // by chain
    std::map<std::string, NftCounter> counters;
  };
  using Tables = std::map<std::string, Table>;

  static absl::Status RunLine(const std::string& line, Tables& tables);
  static absl::Status ElementLine(bool add, bool exclusive, const std::vector<std::string>& words, Table& table);

  Tables tables_;
  std::optional<absl::StatusCode> fail_next_;
};

}  // namespace heterok8s::netfilter
