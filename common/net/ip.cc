#include "common/net/ip.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace heterok8s {

std::string_view Name(Protocol protocol) {
  switch (protocol) {
    case Protocol::kTcp:
      return "tcp";
    case Protocol::kUdp:
      return "udp";
    case Protocol::kSctp:
      return "sctp";
  }
  return "unknown";
}

absl::StatusOr<Protocol> ParseProtocol(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  for (Protocol p : {Protocol::kTcp, Protocol::kUdp, Protocol::kSctp}) {
    if (lower == Name(p)) return p;
  }
  return absl::InvalidArgumentError(fmt::format("unknown protocol '{}'; use tcp, udp or sctp", text));
}

absl::StatusOr<IpAddress> IpAddress::Parse(std::string_view text) {
  std::string copy(text);
  IpAddress address;
  if (inet_pton(AF_INET, copy.c_str(), address.bytes.data()) == 1) return address;
  address = {};
  address.family = Family::kV6;
  if (inet_pton(AF_INET6, copy.c_str(), address.bytes.data()) == 1) return address;
  return absl::InvalidArgumentError(fmt::format("'{}' is not an IP address", text));
}

IpAddress IpAddress::V4(uint32_t host_order) {
  IpAddress address;
  for (int i = 0; i < 4; ++i) address.bytes[i] = static_cast<uint8_t>(host_order >> (24 - 8 * i));
  return address;
}

std::string IpAddress::ToString() const {
  char text[INET6_ADDRSTRLEN];
  inet_ntop(family == Family::kV4 ? AF_INET : AF_INET6, bytes.data(), text, sizeof text);
  return text;
}

uint32_t IpAddress::v4() const {
  return uint32_t{bytes[0]} << 24 | uint32_t{bytes[1]} << 16 | uint32_t{bytes[2]} << 8 | bytes[3];
}

IpAddress IpAddress::Plus(uint64_t n) const {
  IpAddress sum = *this;
  uint64_t carry = n;
  for (size_t i = size(); i-- > 0 && carry != 0;) {
    carry += sum.bytes[i];
    sum.bytes[i] = static_cast<uint8_t>(carry);
    carry >>= 8;
  }
  return sum;
}

bool IpAddress::is_loopback() const {
  if (family == Family::kV4) return bytes[0] == 127;
  IpAddress one;
  one.family = Family::kV6;
  one.bytes[15] = 1;
  return *this == one;
}

bool IpAddress::is_unspecified() const {
  return std::all_of(bytes.begin(), bytes.end(), [](uint8_t b) { return b == 0; });
}

absl::StatusOr<IpPrefix> IpPrefix::Parse(std::string_view text) {
  size_t slash = text.find('/');
  if (slash == std::string_view::npos) {
    return absl::InvalidArgumentError(fmt::format("'{}' has no prefix length (as in 10.0.0.0/8)", text));
  }
  HK_ASSIGN_OR_RETURN(IpAddress address, IpAddress::Parse(text.substr(0, slash)));
  std::string_view digits = text.substr(slash + 1);
  unsigned length = 0;
  auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), length);
  if (error != std::errc() || end != digits.data() + digits.size() || length > address.bits()) {
    return absl::InvalidArgumentError(fmt::format("'{}': prefix length must be 0 to {}", text, address.bits()));
  }
  return IpPrefix{address, static_cast<uint8_t>(length)};
}

std::string IpPrefix::ToString() const { return fmt::format("{}/{}", address.ToString(), length); }

IpPrefix IpPrefix::Masked() const {
  IpPrefix masked = *this;
  for (size_t i = 0; i < address.size(); ++i) {
    int kept = std::clamp<int>(length - static_cast<int>(i) * 8, 0, 8);
    masked.address.bytes[i] &= static_cast<uint8_t>(0xff00 >> kept);
  }
  return masked;
}

IpAddress IpPrefix::Last() const {
  IpAddress last = Masked().address;
  for (size_t i = 0; i < address.size(); ++i) {
    int kept = std::clamp<int>(length - static_cast<int>(i) * 8, 0, 8);
    last.bytes[i] |= static_cast<uint8_t>(0xff >> kept);
  }
  return last;
}

bool IpPrefix::Contains(const IpAddress& other) const {
  return other.family == address.family && IpPrefix{other, length}.Masked() == Masked();
}

}  // namespace heterok8s
