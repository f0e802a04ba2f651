// Whole numbers from JSON that another process wrote, or that lay on a disk.
//
// Purpose: json::get<uint16_t>() takes 65536.46 and -1 as well: it casts, which is undefined for a double that the type
// cannot hold (C++20 [conv.fpint]) and drops bits of an integer. These take a whole number that the type holds,
// written as one (1500, not 1500.0), and nothing else.
// Threading: pure. Ownership: borrows the JSON for the call.
// Errors: kInvalidArgument "'hostPort' must be a whole number from 0 to 65535, not 65536.46". WholeAt is for parsers
// that walk a document with the library's own at() and get() inside one try: like these it throws a std::exception,
// with that text.
//
//   HK_ASSIGN_OR_RETURN(int count, Whole<int>(answer["fenced"], "fenced"));
//   port.host_port = WholeAt<uint16_t>(json, "hostPort");
//   range.first = WholeAt<uint16_t>(json, "hostEphemeral", 0);
#pragma once

#include <fmt/format.h>

#include <concepts>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "common/status/status.h"

namespace heterok8s {

namespace whole_internal {

template <std::integral T>
std::optional<T> Within(const nlohmann::json& value, T least, T most) {
  auto fits = [&](auto number) { return std::cmp_less_equal(least, number) && std::cmp_less_equal(number, most); };
  if (value.is_number_unsigned()) {  // asked first: is_number_integer() says yes to these, too
    const auto number = value.get<uint64_t>();
    return fits(number) ? std::optional(static_cast<T>(number)) : std::nullopt;
  }
  if (!value.is_number_integer()) return std::nullopt;
  const auto number = value.get<int64_t>();
  return fits(number) ? std::optional(static_cast<T>(number)) : std::nullopt;
}

// In ASCII, and short. Of an array or object only that it is one: dump() recurses as deep as a stranger nested it.
inline std::string Quoted(const nlohmann::json& value) {
  if (value.is_structured()) return fmt::format("an {}", value.type_name());
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  return text.size() <= 40 ? text : text.substr(0, 40) + "...";
}

template <std::integral T>
std::string Complaint(const nlohmann::json& value, std::string_view name, T least, T most) {
  return fmt::format("'{}' must be a whole number from {} to {}, not {}", name, least, most, Quoted(value));
}

template <typename Key>
void AddKey(std::string& name, const Key& key) {
  if constexpr (std::is_integral_v<Key>) {
    name += fmt::format("[{}]", key);
  } else {
    name += fmt::format("{}{}", name.empty() ? "" : ".", key);
  }
}

}  // namespace whole_internal

// `value` as a T; `name` is the field's in the error.
template <std::integral T>
absl::StatusOr<T> Whole(const nlohmann::json& value, std::string_view name, T least = std::numeric_limits<T>::min(),
                        T most = std::numeric_limits<T>::max()) {
  if (std::optional<T> number = whole_internal::Within<T>(value, least, most)) return *number;
  return absl::InvalidArgumentError(whole_internal::Complaint(value, name, least, most));
}

// What `document` has at a path of keys and indices. Throws.
template <std::integral T, typename... Keys>
T WholeAt(const nlohmann::json& document, const Keys&... keys) {
  constexpr T kLeast = std::numeric_limits<T>::min(), kMost = std::numeric_limits<T>::max();
  const nlohmann::json* value = &document;
  ((value = &value->at(keys)), ...);
  if (std::optional<T> number = whole_internal::Within<T>(*value, kLeast, kMost)) return *number;
  std::string name;
  (whole_internal::AddKey(name, keys), ...);
  throw std::range_error(whole_internal::Complaint(*value, name, kLeast, kMost));
}

}  // namespace heterok8s
