#include "common/netfilter/nft_script.h"

#include <arpa/inet.h>
#include <linux/netfilter.h>

#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "common/netfilter/nfnetlink.h"
#include "common/netfilter/nft_compiler.h"
#include "common/netfilter/reaper.h"

namespace heterok8s::netfilter {
namespace {

struct Named {
  std::string_view name;
  uint32_t value;
};
constexpr Named kHooks[] = {{"prerouting", NF_INET_PRE_ROUTING},
                            {"input", NF_INET_LOCAL_IN},
                            {"forward", NF_INET_FORWARD},
                            {"output", NF_INET_LOCAL_OUT},
                            {"postrouting", NF_INET_POST_ROUTING}};
constexpr Named kPriorities[] = {
    {"raw", static_cast<uint32_t>(-300)}, {"mangle", static_cast<uint32_t>(-150)}, {"filter", 0}};
constexpr Named kSetTypes[] = {{"inet_proto", 12}, {"inet_service", 13}};  // libnftables' enum datatypes

absl::StatusOr<uint32_t> ValueOf(std::span<const Named> known, std::string_view word) {
  for (const Named& named : known) {
    if (named.name == word) return named.value;
  }
  return absl::InvalidArgumentError(fmt::format("'{}' is not known here", word));
}

}  // namespace

// The line number is the message's sequence number: the kernel names it in an error.
void Compiler::Append(const std::string& message) {
  last_ = batch_.size();
  batch_ += message;
  std::memcpy(batch_.data() + last_ + offsetof(nlmsghdr, nlmsg_seq), &line_, sizeof line_);
}

absl::Status Compiler::Line(std::string_view line) {
  ++line_;
  Words words(line);
  if (words.empty()) return absl::OkStatus();
  const std::string_view verb = words.Next(), what = words.Next();
  HK_RETURN_IF_ERROR(words.Expect("inet"));
  const std::string_view table = words.Next();
  if (verb == "add" && what == "set") return Set(words, table);
  if (verb == "add" && what == "chain") return Chain(words, table);
  if (verb == "add" && what == "rule") return Rule(words, table);
  if (verb == "add" && what == "counter") {
    NfMessage message = NftMessage(NFT_MSG_NEWOBJ, NLM_F_CREATE);
    message.Put(NFTA_OBJ_TABLE, table);
    message.Put(NFTA_OBJ_NAME, words.Next());
    PutNumber(message, NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER);
    message.Close(message.Open(NFTA_OBJ_DATA));  // from zero
    Append(std::move(message));
  } else if (what == "table" && (verb == "add" || verb == "delete")) {
    NfMessage message = verb == "add" ? NftMessage(NFT_MSG_NEWTABLE, NLM_F_CREATE) : NftMessage(NFT_MSG_DELTABLE, 0);
    message.Put(NFTA_TABLE_NAME, table);
    Append(std::move(message));
  } else if (verb == "flush" && what == "table") {
    NfMessage message = NftMessage(NFT_MSG_DELRULE, 0);  // of no chain in particular
    message.Put(NFTA_RULE_TABLE, table);
    Append(std::move(message));
  } else {
    return absl::InvalidArgumentError(fmt::format("'{} {}' is not known here", verb, what));
  }
  return words.empty() ? absl::OkStatus() : words.Expect("");
}

// NAME { type inet_proto . inet_service; }
absl::Status Compiler::Set(Words& words, std::string_view table) {
  NfMessage message = NftMessage(NFT_MSG_NEWSET, NLM_F_CREATE);
  message.Put(NFTA_SET_TABLE, table);
  message.Put(NFTA_SET_NAME, words.Next());
  HK_RETURN_IF_ERROR(words.Expect("{"));
  HK_RETURN_IF_ERROR(words.Expect("type"));
  uint32_t type = 0, bytes = 0;
  do {
    HK_ASSIGN_OR_RETURN(uint32_t part, ValueOf(kSetTypes, words.Next()));
    type = type << kTypeBits | part;
    bytes += kRegisterBytes;
  } while (words.Take("."));
  HK_RETURN_IF_ERROR(words.Expect(";"));
  HK_RETURN_IF_ERROR(words.Expect("}"));
  PutNumber(message, NFTA_SET_FLAGS, 0);
  PutNumber(message, NFTA_SET_KEY_TYPE, type);
  PutNumber(message, NFTA_SET_KEY_LEN, bytes);
  PutNumber(message, NFTA_SET_ID, next_set_++);
  Append(std::move(message));
  return absl::OkStatus();
}

// NAME [{ type filter hook prerouting priority raw; policy accept; }]
absl::Status Compiler::Chain(Words& words, std::string_view table) {
  NfMessage message = NftMessage(NFT_MSG_NEWCHAIN, NLM_F_CREATE);
  message.Put(NFTA_CHAIN_TABLE, table);
  message.Put(NFTA_CHAIN_NAME, words.Next());
  if (!words.empty()) {
    HK_RETURN_IF_ERROR(words.Expect("{"));
    HK_RETURN_IF_ERROR(words.Expect("type"));
    const std::string_view type = words.Next();
    HK_RETURN_IF_ERROR(words.Expect("hook"));
    HK_ASSIGN_OR_RETURN(uint32_t hook, ValueOf(kHooks, words.Next()));
    HK_RETURN_IF_ERROR(words.Expect("priority"));
    HK_ASSIGN_OR_RETURN(uint32_t priority, ValueOf(kPriorities, words.Next()));
    HK_RETURN_IF_ERROR(words.Expect(";"));
    if (words.Take("policy")) {
      HK_RETURN_IF_ERROR(words.Expect("accept"));
      HK_RETURN_IF_ERROR(words.Expect(";"));
    }
    HK_RETURN_IF_ERROR(words.Expect("}"));
    message.Put(NFTA_CHAIN_TYPE, type);
    PutNumber(message, NFTA_CHAIN_POLICY, NF_ACCEPT);
    const size_t hooked = message.Open(NFTA_CHAIN_HOOK);
    PutNumber(message, NFTA_HOOK_HOOKNUM, hook);
    PutNumber(message, NFTA_HOOK_PRIORITY, priority);
    message.Close(hooked);
  }
  Append(std::move(message));
  return absl::OkStatus();
}

absl::StatusOr<std::string> Compiler::Finish() {
  if (batch_.empty()) return absl::InvalidArgumentError("nft: an empty script");
  nlmsghdr header;
  std::memcpy(&header, batch_.data() + last_, sizeof header);
  header.nlmsg_flags |= NLM_F_ACK;
  std::memcpy(batch_.data() + last_, &header, sizeof header);
  return std::move(batch_);
}

absl::StatusOr<std::string> CompileScript(std::string_view script) {
  Compiler compiler;
  while (!script.empty()) {
    const std::string_view line = script.substr(0, script.find('\n'));
    script.remove_prefix(std::min(line.size() + 1, script.size()));
    HK_RETURN_IF_ERROR(Annotate(compiler.Line(line), fmt::format("nft: '{}'", line)));
  }
  return compiler.Finish();
}

absl::Status RunScript(std::string_view script) {
  HK_ASSIGN_OR_RETURN(std::string messages, CompileScript(script));
  NfMessage begin(NFNL_MSG_BATCH_BEGIN, NLM_F_REQUEST, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
  NfMessage end(NFNL_MSG_BATCH_END, NLM_F_REQUEST, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
  HK_ASSIGN_OR_RETURN(NfSocket opened, NfSocket::Open());
  auto socket = std::make_shared<NfSocket>(std::move(opened));
  absl::Status done = socket->Request(begin.Bytes() + messages + end.Bytes(), "nft: line");
  CloseLater([socket = std::move(socket)]() mutable { socket.reset(); });
  return done;
}

}  // namespace heterok8s::netfilter
