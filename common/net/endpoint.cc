#include "common/net/endpoint.h"

#include <fmt/format.h>

#include <charconv>

namespace heterok8s {

absl::StatusOr<Endpoint> Endpoint::Parse(std::string_view text) {
  const auto wrong = [&] { return absl::InvalidArgumentError(fmt::format("'{}' is no ADDRESS:PORT", text)); };
  const size_t colon = text.find_last_of(':');
  if (colon == std::string_view::npos) return wrong();
  std::string_view host = text.substr(0, colon), number = text.substr(colon + 1);
  Endpoint endpoint;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), endpoint.port);
  if (error != std::errc() || end != number.data() + number.size()) return wrong();
  const bool in_brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (in_brackets) host = host.substr(1, host.size() - 2);
  absl::StatusOr<IpAddress> address = IpAddress::Parse(host);
  // Without brackets an IPv6 address would end where its reader likes.
  if (!address.ok() || in_brackets != (address->family == Family::kV6)) return wrong();
  endpoint.address = *address;
  return endpoint;
}

std::string Endpoint::ToString() const {
  const std::string text = address.ToString();
  return address.family == Family::kV4 ? fmt::format("{}:{}", text, port) : fmt::format("[{}]:{}", text, port);
}

}  // namespace heterok8s
