#include "common/netfilter/nft_fields.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/if_packet.h>
#include <linux/netfilter.h>
#include <net/if.h>

#include <charconv>
#include <cstring>
#include <optional>

#include "common/net/ip.h"

namespace heterok8s::netfilter {
namespace {

using From = Field::From;
using Kind = Field::Kind;

constexpr nft_payload_bases kNetwork = NFT_PAYLOAD_NETWORK_HEADER, kTransport = NFT_PAYLOAD_TRANSPORT_HEADER;
constexpr uint8_t k4 = NFPROTO_IPV4, k6 = NFPROTO_IPV6;
// enum datatypes of libnftables: part of its interface to itself, since listings are read by it.
constexpr uint32_t kV4Type = 7, kV6Type = 8, kProtocolType = 12, kServiceType = 13, kIcmpType = 14, kIcmp6Type = 29;

const Field kFields[] = {
    {"iif", "", From::kMeta, NFT_META_IIF, {}, Kind::kNumber},
    {"iifname", "", From::kMeta, NFT_META_IIFNAME, {}, Kind::kName},
    {"oifname", "", From::kMeta, NFT_META_OIFNAME, {}, Kind::kName},
    {"meta", "mark", From::kMeta, NFT_META_MARK, {}, Kind::kNumber},
    {"meta", "pkttype", From::kMeta, NFT_META_PKTTYPE, {}, Kind::kWord},
    {"meta", "l4proto", From::kMeta, NFT_META_L4PROTO, {}, Kind::kWord, kProtocolType},
    {"ct", "state", From::kCt, NFT_CT_STATE, {}, Kind::kNumber, 0, 0, 0, true},
    {"ct", "mark", From::kCt, NFT_CT_MARK, {}, Kind::kNumber},
    {"ct", "direction", From::kCt, NFT_CT_DIRECTION, {}, Kind::kWord},
    {"socket", "wildcard", From::kSocket, NFT_SOCKET_WILDCARD, {}, Kind::kWord},
    {"ip", "saddr", From::kPayload, 0, {kNetwork, 12, 4}, Kind::kV4, kV4Type, k4},
    {"ip", "daddr", From::kPayload, 0, {kNetwork, 16, 4}, Kind::kV4, kV4Type, k4},
    {"ip6", "saddr", From::kPayload, 0, {kNetwork, 8, 16}, Kind::kV6, kV6Type, k6},
    {"ip6", "daddr", From::kPayload, 0, {kNetwork, 24, 16}, Kind::kV6, kV6Type, k6},
    {"th", "sport", From::kPayload, 0, {kTransport, 0, 2}, Kind::kPort, kServiceType},
    {"th", "dport", From::kPayload, 0, {kTransport, 2, 2}, Kind::kPort, kServiceType},
    {"icmp", "type", From::kPayload, 0, {kTransport, 0, 1}, Kind::kWord, kIcmpType, k4, IPPROTO_ICMP},
    {"icmp", "code", From::kPayload, 0, {kTransport, 1, 1}, Kind::kWord, 0, k4, IPPROTO_ICMP},
    {"icmpv6", "type", From::kPayload, 0, {kTransport, 0, 1}, Kind::kWord, kIcmp6Type, k6, IPPROTO_ICMPV6},
    {"icmpv6", "code", From::kPayload, 0, {kTransport, 1, 1}, Kind::kWord, 0, k6, IPPROTO_ICMPV6},
    // Bits of the transport header, by their place: of the packet that an ICMP error quotes, its source.
    {"@th,160,32", "", From::kPayload, 0, {kTransport, 20, 4}, Kind::kRaw},
    {"@th,128,128", "", From::kPayload, 0, {kTransport, 16, 16}, Kind::kRaw},
    {"tcp", "flags", From::kPayload, 0, {kTransport, 13, 1}, Kind::kWord, 0, 0, IPPROTO_TCP},
};

struct Symbol {
  std::string_view first, second;  // the field's
  std::string_view word;
  uint8_t value;
};

const Symbol kSymbols[] = {
    {"iif", "", "lo", 1},  // LOOPBACK_IFINDEX, in every namespace
    {"meta", "pkttype", "host", PACKET_HOST},
    {"meta", "l4proto", "icmp", IPPROTO_ICMP},
    {"meta", "l4proto", "ipv6-icmp", IPPROTO_ICMPV6},
    {"meta", "l4proto", "tcp", IPPROTO_TCP},
    {"meta", "l4proto", "udp", IPPROTO_UDP},
    {"ct", "direction", "reply", 1},  // IP_CT_DIR_REPLY
    {"ct", "state", "established", 2},
    {"ct", "state", "related", 4},
    {"ct", "state", "new", 8},
    {"ct", "state", "untracked", 64},
    {"icmp", "type", "destination-unreachable", 3},
    {"icmp", "type", "echo-request", 8},
    {"icmp", "type", "time-exceeded", 11},
    {"icmp", "type", "parameter-problem", 12},
    {"icmp", "code", "port-unreachable", 3},
    {"icmpv6", "type", "destination-unreachable", 1},
    {"icmpv6", "type", "packet-too-big", 2},
    {"icmpv6", "type", "time-exceeded", 3},
    {"icmpv6", "type", "parameter-problem", 4},
    {"icmpv6", "type", "echo-request", 128},
    {"icmpv6", "code", "port-unreachable", 4},
    {"tcp", "flags", "rst", 4},
};

template <typename T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

std::optional<uint32_t> ParseNumber(std::string_view text) {
  const bool hex = text.starts_with("0x");
  if (hex) text.remove_prefix(2);
  uint32_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, hex ? 16 : 10);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

uint32_t Field::bytes() const {
  switch (kind) {
    case Kind::kV4:
    case Kind::kNumber:
      return 4;
    case Kind::kV6:
    case Kind::kName:
      return 16;
    case Kind::kPort:
      return 2;
    case Kind::kWord:
      return 1;
    case Kind::kRaw:
      return part.bytes;
  }
  return 0;
}

absl::StatusOr<std::string> Field::Value(std::string_view text) const {
  auto unknown = [&] {
    return absl::InvalidArgumentError(fmt::format("'{}' is no value of {} {}", text, first, second));
  };
  if (kind == Kind::kV4 || kind == Kind::kV6) {
    HK_ASSIGN_OR_RETURN(IpAddress address, IpAddress::Parse(text));
    if (address.size() != bytes()) return unknown();
    return std::string(reinterpret_cast<const char*>(address.bytes.data()), address.size());
  }
  if (kind == Kind::kName) {
    if (text.empty() || text.size() >= IFNAMSIZ || text.back() == '*') return unknown();
    std::string name(text);
    name.resize(IFNAMSIZ);
    return name;
  }
  if (kind == Kind::kRaw) {  // "0x7f000001": every byte, the first one first
    if (!text.starts_with("0x") || text.size() != 2 + 2 * bytes()) return unknown();
    std::string value;
    for (size_t at = 2; at < text.size(); at += 2) {
      uint8_t byte = 0;
      auto [end, error] = std::from_chars(text.data() + at, text.data() + at + 2, byte, 16);
      if (error != std::errc() || end != text.data() + at + 2) return unknown();
      value.push_back(static_cast<char>(byte));
    }
    return value;
  }
  std::optional<uint32_t> number = ParseNumber(text);
  for (const Symbol& symbol : kSymbols) {
    if (symbol.first == first && symbol.second == second && symbol.word == text) number = symbol.value;
  }
  if (!number.has_value() || (bytes() < 4 && *number >> (8 * bytes()) != 0)) return unknown();
  if (kind == Kind::kNumber) return Raw(*number);
  if (kind == Kind::kPort) return Raw(htons(static_cast<uint16_t>(*number)));
  return Raw(static_cast<uint8_t>(*number));
}

void Field::Load(RuleMessage& rule, uint32_t to) const {
  switch (from) {
    case From::kMeta:
      return rule.LoadMeta(static_cast<nft_meta_keys>(key), to);
    case From::kCt:
      return rule.LoadCt(static_cast<nft_ct_keys>(key), to);
    case From::kPayload:
      return rule.LoadPayload(part, to);
    case From::kSocket:
      return rule.LoadSocket(static_cast<nft_socket_keys>(key));
  }
}

absl::StatusOr<const Field*> FindField(std::string_view first, std::string_view second) {
  for (const Field& field : kFields) {
    if (field.first == first && (field.second.empty() || field.second == second)) return &field;
  }
  return absl::InvalidArgumentError(fmt::format("'{} {}' is not known here", first, second));
}

}  // namespace heterok8s::netfilter
