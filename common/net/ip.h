// IP addresses, prefixes and transport protocols as values.
//
// Threading: values. Errors: kInvalidArgument that names the text.
//
//   HK_ASSIGN_OR_RETURN(IpPrefix subnet, IpPrefix::Parse("10.88.0.0/16"));
//   IpAddress first = subnet.address.Plus(1);
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/status/status.h"

namespace heterok8s {

enum class Family : uint8_t { kV4 = 4, kV6 = 6 };
enum class Protocol : uint8_t { kTcp = 6, kUdp = 17, kSctp = 132 };  // IANA numbers

std::string_view Name(Protocol protocol);                       // "tcp"
absl::StatusOr<Protocol> ParseProtocol(std::string_view text);  // any case

struct IpAddress {
  Family family = Family::kV4;
  std::array<uint8_t, 16> bytes{};  // network order; v4 uses the first four, the rest are zero

  static absl::StatusOr<IpAddress> Parse(std::string_view text);
  static IpAddress V4(uint32_t host_order);

  std::string ToString() const;
  size_t size() const { return family == Family::kV4 ? 4 : 16; }  // bytes
  uint8_t bits() const { return static_cast<uint8_t>(size() * 8); }
  uint32_t v4() const;  // host order; family must be kV4
  // The address `n` further on, wrapping at the end of the address space.
  IpAddress Plus(uint64_t n) const;
  bool is_loopback() const;     // 127.0.0.0/8 or ::1
  bool is_unspecified() const;  // 0.0.0.0 or ::

  auto operator<=>(const IpAddress&) const = default;
};

struct IpPrefix {
  IpAddress address;   // not masked: an interface address keeps its host bits
  uint8_t length = 0;  // bits

  static absl::StatusOr<IpPrefix> Parse(std::string_view text);  // "10.0.0.0/8"; the length is mandatory
  static IpPrefix Host(const IpAddress& address) { return {address, address.bits()}; }

  std::string ToString() const;
  IpPrefix Masked() const;
  IpAddress Last() const;  // highest address of the prefix (v4: broadcast)
  bool Contains(const IpAddress& other) const;

  auto operator<=>(const IpPrefix&) const = default;
};

}  // namespace heterok8s
