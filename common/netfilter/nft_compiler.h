// The two halves of nft_script.h: lines that declare (nft_script.cc) and rules (nft_rule.cc).
//
// Threading: thread-compatible. Errors: kInvalidArgument names the word that is not known, without its line.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "common/netfilter/nft_fields.h"
#include "common/netfilter/rule_message.h"
#include "common/status/status.h"

namespace heterok8s::netfilter {

// libnftables numbers the type of a concatenation by the types of its parts.
inline constexpr uint32_t kTypeBits = 6;
inline constexpr uint32_t kRegisterBytes = 4;

// The words of one line; braces, commas and semicolons are words of their own.
class Words {
 public:
  explicit Words(std::string_view line) : line_(line) { Skip(); }

  bool empty() const { return line_.empty(); }
  std::string_view Peek() const { return line_.substr(0, Length()); }
  std::string_view Next() {
    std::string_view word = Peek();
    line_.remove_prefix(word.size());
    Skip();
    return word;
  }
  bool Take(std::string_view word) {
    if (Peek() != word) return false;
    Next();
    return true;
  }
  absl::Status Expect(std::string_view word) {
    if (Take(word)) return absl::OkStatus();
    return absl::InvalidArgumentError(fmt::format("'{}' where '{}' should be", Peek(), word));
  }

 private:
  void Skip() { line_.remove_prefix(std::min(line_.find_first_not_of(' '), line_.size())); }
  size_t Length() const {
    if (line_.empty()) return 0;
    if (std::strchr("{},;", line_[0]) != nullptr) return 1;
    if (line_[0] == '@') return std::min(line_.find_first_of(" {};"), line_.size());  // "@th,160,32" is one word
    return std::min(line_.find_first_of(" {},;"), line_.size());
  }

  std::string_view line_;
};

class Compiler {
 public:
  absl::Status Line(std::string_view line);
  absl::StatusOr<std::string> Finish();

 private:
  struct RuleState {  // what is known of a packet that has come this far in the rule
    uint8_t family = 0, transport = 0;
  };

  void Append(const std::string& message);
  void Append(NfMessage message) { Append(message.Bytes()); }

  absl::Status Set(Words& words, std::string_view table);
  absl::Status Chain(Words& words, std::string_view table);
  absl::Status Rule(Words& words, std::string_view table);
  absl::StatusOr<bool> Action(std::string_view word, Words& words, RuleMessage& rule);
  absl::Status Match(std::string_view word, Words& words, std::string_view table, RuleMessage& rule, RuleState& state);
  void Require(const Field& field, RuleMessage& rule, RuleState& state);
  absl::Status CompareOne(const Field& field, Words& words, RuleMessage& rule);
  absl::StatusOr<SetReference> AnonymousSet(const std::vector<const Field*>& key, Words& words, std::string_view table);

  std::string batch_;
  size_t last_ = 0;  // where the last message begins
  uint32_t next_set_ = 1, line_ = 0;
};

}  // namespace heterok8s::netfilter
