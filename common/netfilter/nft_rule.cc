// Rules: matches and actions as expressions.
#include <arpa/inet.h>
#include <linux/netfilter.h>

#include "common/netfilter/nft_compiler.h"

namespace heterok8s::netfilter {
namespace {

constexpr char kAnonymousSet[] = "__set%d";  // the kernel fills in the number

}  // namespace

// CHAIN, then matches and actions in the order they are to run
absl::Status Compiler::Rule(Words& words, std::string_view table) {
  RuleMessage rule(table, words.Next());
  RuleState state;
  while (!words.empty()) {
    const std::string_view word = words.Next();
    HK_ASSIGN_OR_RETURN(bool acted, Action(word, words, rule));
    if (!acted) HK_RETURN_IF_ERROR(Match(word, words, table, rule, state));
  }
  Append(rule.Bytes());
  return absl::OkStatus();
}

absl::StatusOr<bool> Compiler::Action(std::string_view word, Words& words, RuleMessage& rule) {
  if (word == "accept") {
    rule.Verdict(NF_ACCEPT);
  } else if (word == "drop") {
    rule.Verdict(NF_DROP);
  } else if (word == "goto") {
    rule.Verdict(NFT_GOTO, words.Next());
  } else if (word == "notrack") {
    rule.NoTrack();
  } else if (word == "counter") {
    HK_RETURN_IF_ERROR(words.Expect("name"));
    rule.Count(words.Next());
  } else {
    return false;
  }
  return true;
}

// What a packet must be to have this field at all.
void Compiler::Require(const Field& field, RuleMessage& rule, RuleState& state) {
  auto is = [&](nft_meta_keys key, uint8_t wanted, uint8_t& known) {
    if (wanted == 0 || wanted == known) return;
    rule.LoadMeta(key);
    rule.Compare(NFT_CMP_EQ, std::string(1, static_cast<char>(wanted)));
    known = wanted;
  };
  is(NFT_META_NFPROTO, field.family, state.family);
  is(NFT_META_L4PROTO, field.transport, state.transport);
}

// FIELD [. FIELD …] and what it is compared with, or set to.
absl::Status Compiler::Match(std::string_view word, Words& words, std::string_view table, RuleMessage& rule,
                             RuleState& state) {
  std::vector<const Field*> key;
  do {
    if (!key.empty()) word = words.Next();
    HK_ASSIGN_OR_RETURN(const Field* field, FindField(word, words.Peek()));
    if (!field->second.empty()) words.Next();
    key.push_back(field);
  } while (words.Take("."));
  const Field& field = *key[0];

  for (const Field* part : key) Require(*part, rule, state);
  if (words.Take("set")) {
    HK_ASSIGN_OR_RETURN(std::string value, field.Value(words.Next()));
    if (field.from == Field::From::kMeta) rule.SetMeta(static_cast<nft_meta_keys>(field.key), value);
    if (field.from == Field::From::kCt) rule.SetCt(static_cast<nft_ct_keys>(field.key), value);
    if (field.kind == Field::Kind::kRaw) {
      rule.SetPayload(field.part, value);
    } else if (field.from == Field::From::kPayload) {
      rule.SetAddress(field.part, value);
    }
    return absl::OkStatus();
  }
  const bool in_named_set = words.Peek().starts_with('@');
  if (!in_named_set && words.Peek() != "{") {
    if (key.size() > 1) return absl::InvalidArgumentError("a concatenation is compared with a set only");
    return CompareOne(field, words, rule);
  }
  if (key.size() > 2) return absl::InvalidArgumentError("a concatenation has two parts");
  field.Load(rule, kRegister);
  // The second part begins behind the first: registers are 16 bytes, or 4 by their other names.
  const nft_registers next = field.bytes() > kRegisterBytes ? NFT_REG_2 : NFT_REG32_01;
  if (key.size() == 2) key[1]->Load(rule, next);
  if (in_named_set) {
    rule.Lookup({.name = std::string(words.Next().substr(1))});
    return absl::OkStatus();
  }
  HK_ASSIGN_OR_RETURN(SetReference set, AnonymousSet(key, words, table));
  rule.Lookup(set);
  return absl::OkStatus();
}

// VALUE, != VALUE, FIRST-LAST, ADDRESS/BITS, & MASK == VALUE
absl::Status Compiler::CompareOne(const Field& field, Words& words, RuleMessage& rule) {
  const nft_cmp_ops op = words.Take("!=") ? NFT_CMP_NEQ : NFT_CMP_EQ;
  if (words.Take("&")) {
    HK_ASSIGN_OR_RETURN(std::string mask, field.Value(words.Next()));
    HK_RETURN_IF_ERROR(words.Expect("=="));
    HK_ASSIGN_OR_RETURN(std::string value, field.Value(words.Next()));
    field.Load(rule, kRegister);
    rule.CompareBits(mask, NFT_CMP_EQ, value);
    return absl::OkStatus();
  }
  const std::string_view text = words.Next();
  if (size_t slash = text.find('/'); slash != text.npos) {
    HK_ASSIGN_OR_RETURN(std::string value, field.Value(text.substr(0, slash)));
    HK_ASSIGN_OR_RETURN(const Field* number, FindField("meta", "pkttype"));
    HK_ASSIGN_OR_RETURN(std::string bits, number->Value(text.substr(slash + 1)));
    const auto length = static_cast<uint8_t>(bits[0]);
    if (length == 0 || length % 8 != 0 || length > 8 * field.bytes()) {
      return absl::InvalidArgumentError(fmt::format("'{}': only whole bytes are compared", text));
    }
    rule.LoadPayload({field.part.base, field.part.offset, length / 8u});
    rule.Compare(op, value.substr(0, length / 8));
    return absl::OkStatus();
  }
  const bool is_range = field.kind == Field::Kind::kPort || field.from == Field::From::kSocket;
  if (size_t dash = text.find('-'); is_range && dash != text.npos && op == NFT_CMP_EQ) {
    HK_ASSIGN_OR_RETURN(std::string first, field.Value(text.substr(0, dash)));
    HK_ASSIGN_OR_RETURN(std::string last, field.Value(text.substr(dash + 1)));
    field.Load(rule, kRegister);
    rule.Compare(NFT_CMP_GTE, first);
    rule.Compare(NFT_CMP_LTE, last);
    return absl::OkStatus();
  }
  HK_ASSIGN_OR_RETURN(std::string value, field.Value(text));
  field.Load(rule, kRegister);
  if (field.is_bits && op == NFT_CMP_EQ) {
    rule.CompareBits(value, NFT_CMP_NEQ, std::string(value.size(), '\0'));
  } else {
    rule.Compare(op, value);
  }
  return absl::OkStatus();
}

// { VALUE [. VALUE …], … }: made before the rule that looks into it.
absl::StatusOr<SetReference> Compiler::AnonymousSet(const std::vector<const Field*>& key, Words& words,
                                                    std::string_view table) {
  uint32_t type = 0, bytes = 0, count = 0;
  for (const Field* part : key) {
    if (part->type == 0) return absl::InvalidArgumentError(fmt::format("no set of {} {}", part->first, part->second));
    type = type << kTypeBits | part->type;
    bytes += key.size() == 1 ? part->bytes() : (part->bytes() + kRegisterBytes - 1) / kRegisterBytes * kRegisterBytes;
  }
  const uint32_t id = next_set_++;
  NfMessage elements = NftMessage(NFT_MSG_NEWSETELEM, NLM_F_CREATE);
  elements.Put(NFTA_SET_ELEM_LIST_TABLE, table);
  elements.Put(NFTA_SET_ELEM_LIST_SET, std::string_view(kAnonymousSet));
  PutNumber(elements, NFTA_SET_ELEM_LIST_SET_ID, id);
  const size_t list = elements.Open(NFTA_SET_ELEM_LIST_ELEMENTS);
  HK_RETURN_IF_ERROR(words.Expect("{"));
  do {
    std::string value;
    for (const Field* part : key) {
      if (part != key[0]) HK_RETURN_IF_ERROR(words.Expect("."));
      HK_ASSIGN_OR_RETURN(std::string one, part->Value(words.Next()));
      if (key.size() > 1) one.resize((one.size() + kRegisterBytes - 1) / kRegisterBytes * kRegisterBytes);
      value += one;
    }
    const size_t element = elements.Open(NFTA_LIST_ELEM), data = elements.Open(NFTA_SET_ELEM_KEY);
    elements.Put(NFTA_DATA_VALUE, value.data(), value.size());
    elements.Close(data);
    elements.Close(element);
    ++count;
  } while (words.Take(","));
  HK_RETURN_IF_ERROR(words.Expect("}"));
  elements.Close(list);

  NfMessage set = NftMessage(NFT_MSG_NEWSET, NLM_F_CREATE);
  set.Put(NFTA_SET_TABLE, table);
  set.Put(NFTA_SET_NAME, std::string_view(kAnonymousSet));
  PutNumber(set, NFTA_SET_FLAGS, NFT_SET_ANONYMOUS | NFT_SET_CONSTANT);
  PutNumber(set, NFTA_SET_KEY_TYPE, type);
  PutNumber(set, NFTA_SET_KEY_LEN, bytes);
  PutNumber(set, NFTA_SET_ID, id);
  const size_t description = set.Open(NFTA_SET_DESC);  // lets the kernel choose the right kind at once
  PutNumber(set, NFTA_SET_DESC_SIZE, count);
  set.Close(description);
  Append(std::move(set));
  Append(std::move(elements));
  return SetReference{kAnonymousSet, id};
}

}  // namespace heterok8s::netfilter
