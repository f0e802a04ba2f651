// A rule for nf_tables as the message that adds it: one call for each expression, in the order they run.
//
// Purpose: what libnftables makes of a rule, without its parser. Loads fill registers, the next call compares them; the
// first comparison that fails ends the rule. nft_script.h is who knows which expressions a rule's text needs.
// Threading: thread-compatible. Errors: none; the kernel checks what it is sent.
//
//   RuleMessage rule("heterok8s", "guard");
//   rule.LoadMeta(NFT_META_IIFNAME);
//   rule.Compare(NFT_CMP_EQ, name_padded_to_16_bytes);
//   rule.Verdict(NF_DROP);
//   batch += rule.Bytes();
#pragma once

#include <linux/netfilter/nf_tables.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "common/netfilter/nfnetlink.h"

namespace heterok8s::netfilter {

// Of nf_tables' requests: type without the subsystem, family inet.
NfMessage NftMessage(uint16_t type, uint16_t flags);
// Most numbers in nf_tables' attributes are 32 bits in network order.
void PutNumber(NfMessage& message, uint16_t attribute, uint32_t value);

// Where loads go and comparisons look: 16 bytes at kRegister, or parts of 4 bytes of a concatenation behind it.
inline constexpr uint32_t kRegister = NFT_REG_1;

struct PayloadPart {
  nft_payload_bases base;
  uint32_t offset, bytes;
};
struct SetReference {
  std::string name;
  uint32_t id = 0;  // of a set made in the same batch; 0: it has a name
};

class RuleMessage {
 public:
  RuleMessage(std::string_view table, std::string_view chain);

  void LoadMeta(nft_meta_keys key, uint32_t to = kRegister);
  void LoadCt(nft_ct_keys key, uint32_t to = kRegister);
  void LoadPayload(const PayloadPart& part, uint32_t to = kRegister);
  void LoadSocket(nft_socket_keys key);
  void Compare(nft_cmp_ops op, std::string_view value);
  void CompareBits(std::string_view mask, nft_cmp_ops op, std::string_view value);  // (register & mask) op value
  void Lookup(const SetReference& set);
  void SetMeta(nft_meta_keys key, std::string_view value);
  void SetCt(nft_ct_keys key, std::string_view value);
  void SetAddress(const PayloadPart& part, std::string_view value);  // and keeps the checksums right
  void SetPayload(const PayloadPart& part, std::string_view value);  // and leaves the checksums as they are
  void Count(std::string_view counter);
  void NoTrack();
  void Verdict(int verdict, std::string_view chain = {});

  const std::string& Bytes();  // once, when all is said

 private:
  template <typename Fn>
  void Expression(std::string_view name, Fn fill);
  template <typename Fn>
  void WritePayload(const PayloadPart& part, std::string_view value, Fn checksums);
  void Data(uint16_t attribute, std::string_view value);
  void Immediate(std::string_view value);

  NfMessage message_;
  size_t expressions_;
};

}  // namespace heterok8s::netfilter
