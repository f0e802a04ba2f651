// What a rule's text can compare: "ip saddr", "ct mark", …: how it is loaded, how its values are written.
//
// Purpose: the vocabulary of nft_script.h. A field of an upper protocol brings what libnftables would add before it:
// that the packet is of that family, of that transport protocol. Threading: pure functions. Errors: kInvalidArgument
// names the word that is not known here.
//
//   HK_ASSIGN_OR_RETURN(const Field* field, FindField("ip", "saddr"));
//   HK_ASSIGN_OR_RETURN(std::string bytes, field->Value("10.88.0.5"));
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/netfilter/rule_message.h"
#include "common/status/status.h"

namespace heterok8s::netfilter {

struct Field {
  enum class From { kMeta, kCt, kPayload, kSocket };
  // How values are written, and in which order their bytes stand.
  enum class Kind { kV4, kV6, kName, kNumber, kPort, kWord, kRaw };

  std::string_view first, second;  // "ip", "saddr"; `second` is empty for "iifname"
  From from;
  uint32_t key = 0;       // nft_meta_keys, nft_ct_keys or nft_socket_keys
  PayloadPart part = {};  // of From::kPayload
  Kind kind;
  uint32_t type = 0;      // libnftables' number of the type, for listings; 0: not for sets
  uint8_t family = 0;     // NFPROTO_IPV4, NFPROTO_IPV6: only such packets have it
  uint8_t transport = 0;  // IPPROTO_…: only such packets have it
  bool is_bits = false;   // a comparison asks whether any of these bits is set

  uint32_t bytes() const;
  // One value: "10.88.0.5", "0x10", "eth0", "icmp".
  absl::StatusOr<std::string> Value(std::string_view text) const;
  void Load(RuleMessage& rule, uint32_t to) const;
};

// `second` is looked at only when a field of two words begins with `first`.
absl::StatusOr<const Field*> FindField(std::string_view first, std::string_view second);

}  // namespace heterok8s::netfilter
