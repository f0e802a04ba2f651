#include "common/netfilter/rule_message.h"

#include <arpa/inet.h>

namespace heterok8s::netfilter {
namespace {

constexpr uint8_t kInet = 1;                // NFPROTO_INET
constexpr uint32_t kIpChecksumOffset = 10;  // of struct iphdr

}  // namespace

NfMessage NftMessage(uint16_t type, uint16_t flags) {
  return NfMessage(static_cast<uint16_t>(NFNL_SUBSYS_NFTABLES << 8 | type), NLM_F_REQUEST | flags, kInet);
}

void PutNumber(NfMessage& message, uint16_t attribute, uint32_t value) {
  const uint32_t network_order = htonl(value);
  message.Put(attribute, &network_order, sizeof network_order);
}

RuleMessage::RuleMessage(std::string_view table, std::string_view chain)
    : message_(NftMessage(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND)) {
  message_.Put(NFTA_RULE_TABLE, table);
  message_.Put(NFTA_RULE_CHAIN, chain);
  expressions_ = message_.Open(NFTA_RULE_EXPRESSIONS);
}

template <typename Fn>
void RuleMessage::Expression(std::string_view name, Fn fill) {
  const size_t element = message_.Open(NFTA_LIST_ELEM);
  message_.Put(NFTA_EXPR_NAME, name);
  const size_t data = message_.Open(NFTA_EXPR_DATA);
  fill();
  message_.Close(data);
  message_.Close(element);
}

void RuleMessage::Data(uint16_t attribute, std::string_view value) {
  const size_t data = message_.Open(attribute);
  message_.Put(NFTA_DATA_VALUE, value.data(), value.size());
  message_.Close(data);
}

void RuleMessage::LoadMeta(nft_meta_keys key, uint32_t to) {
  Expression("meta", [&] {
    PutNumber(message_, NFTA_META_KEY, key);
    PutNumber(message_, NFTA_META_DREG, to);
  });
}

void RuleMessage::LoadCt(nft_ct_keys key, uint32_t to) {
  Expression("ct", [&] {
    PutNumber(message_, NFTA_CT_KEY, key);
    PutNumber(message_, NFTA_CT_DREG, to);
  });
}

void RuleMessage::LoadPayload(const PayloadPart& part, uint32_t to) {
  Expression("payload", [&] {
    PutNumber(message_, NFTA_PAYLOAD_DREG, to);
    PutNumber(message_, NFTA_PAYLOAD_BASE, part.base);
    PutNumber(message_, NFTA_PAYLOAD_OFFSET, part.offset);
    PutNumber(message_, NFTA_PAYLOAD_LEN, part.bytes);
  });
}

void RuleMessage::LoadSocket(nft_socket_keys key) {
  Expression("socket", [&] {
    PutNumber(message_, NFTA_SOCKET_KEY, key);
    PutNumber(message_, NFTA_SOCKET_DREG, kRegister);
  });
}

void RuleMessage::Compare(nft_cmp_ops op, std::string_view value) {
  Expression("cmp", [&] {
    PutNumber(message_, NFTA_CMP_SREG, kRegister);
    PutNumber(message_, NFTA_CMP_OP, op);
    Data(NFTA_CMP_DATA, value);
  });
}

void RuleMessage::CompareBits(std::string_view mask, nft_cmp_ops op, std::string_view value) {
  Expression("bitwise", [&] {
    PutNumber(message_, NFTA_BITWISE_SREG, kRegister);
    PutNumber(message_, NFTA_BITWISE_DREG, kRegister);
    PutNumber(message_, NFTA_BITWISE_OP, NFT_BITWISE_BOOL);
    PutNumber(message_, NFTA_BITWISE_LEN, static_cast<uint32_t>(mask.size()));
    Data(NFTA_BITWISE_MASK, mask);
    Data(NFTA_BITWISE_XOR, std::string(mask.size(), '\0'));
  });
  Compare(op, value);
}

void RuleMessage::Lookup(const SetReference& set) {
  Expression("lookup", [&] {
    PutNumber(message_, NFTA_LOOKUP_SREG, kRegister);
    message_.Put(NFTA_LOOKUP_SET, set.name);
    if (set.id != 0) PutNumber(message_, NFTA_LOOKUP_SET_ID, set.id);
  });
}

void RuleMessage::Immediate(std::string_view value) {
  Expression("immediate", [&] {
    PutNumber(message_, NFTA_IMMEDIATE_DREG, kRegister);
    Data(NFTA_IMMEDIATE_DATA, value);
  });
}

void RuleMessage::SetMeta(nft_meta_keys key, std::string_view value) {
  Immediate(value);
  Expression("meta", [&] {
    PutNumber(message_, NFTA_META_KEY, key);
    PutNumber(message_, NFTA_META_SREG, kRegister);
  });
}

void RuleMessage::SetCt(nft_ct_keys key, std::string_view value) {
  Immediate(value);
  Expression("ct", [&] {
    PutNumber(message_, NFTA_CT_KEY, key);
    PutNumber(message_, NFTA_CT_SREG, kRegister);
  });
}

void RuleMessage::SetAddress(const PayloadPart& part, std::string_view value) {
  const bool v4 = part.bytes == sizeof(in_addr);
  WritePayload(part, value, [&] {
    PutNumber(message_, NFTA_PAYLOAD_CSUM_TYPE, v4 ? NFT_PAYLOAD_CSUM_INET : NFT_PAYLOAD_CSUM_NONE);
    PutNumber(message_, NFTA_PAYLOAD_CSUM_OFFSET, v4 ? kIpChecksumOffset : 0);
    PutNumber(message_, NFTA_PAYLOAD_CSUM_FLAGS, NFT_PAYLOAD_L4CSUM_PSEUDOHDR);
  });
}

void RuleMessage::SetPayload(const PayloadPart& part, std::string_view value) {
  WritePayload(part, value, [] {});
}

template <typename Fn>
void RuleMessage::WritePayload(const PayloadPart& part, std::string_view value, Fn checksums) {
  Immediate(value);
  Expression("payload", [&] {
    PutNumber(message_, NFTA_PAYLOAD_SREG, kRegister);
    PutNumber(message_, NFTA_PAYLOAD_BASE, part.base);
    PutNumber(message_, NFTA_PAYLOAD_OFFSET, part.offset);
    PutNumber(message_, NFTA_PAYLOAD_LEN, part.bytes);
    checksums();
  });
}

void RuleMessage::Count(std::string_view counter) {
  Expression("objref", [&] {
    PutNumber(message_, NFTA_OBJREF_IMM_TYPE, NFT_OBJECT_COUNTER);
    message_.Put(NFTA_OBJREF_IMM_NAME, counter);
  });
}

void RuleMessage::NoTrack() {
  const size_t element = message_.Open(NFTA_LIST_ELEM);
  message_.Put(NFTA_EXPR_NAME, std::string_view("notrack"));
  message_.Close(element);
}

void RuleMessage::Verdict(int verdict, std::string_view chain) {
  Expression("immediate", [&] {
    PutNumber(message_, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
    const size_t data = message_.Open(NFTA_IMMEDIATE_DATA);
    const size_t code = message_.Open(NFTA_DATA_VERDICT);
    PutNumber(message_, NFTA_VERDICT_CODE, static_cast<uint32_t>(verdict));
    if (!chain.empty()) message_.Put(NFTA_VERDICT_CHAIN, chain);
    message_.Close(code);
    message_.Close(data);
  });
}

const std::string& RuleMessage::Bytes() {
  message_.Close(expressions_);
  return message_.Bytes();
}

}  // namespace heterok8s::netfilter
