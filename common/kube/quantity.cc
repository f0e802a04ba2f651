#include "common/kube/quantity.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <optional>

namespace heterok8s::kube {
namespace {

// What a suffix multiplies by; "e3" and "E+3" are exponents, "E" alone is exa.
std::optional<double> FactorOf(const std::string& suffix) {
  static const std::map<std::string, double> kSuffixes = {
      {"", 1},        {"n", 1e-9},    {"u", 1e-6},    {"m", 1e-3},   {"k", 1e3},     {"M", 1e6},
      {"G", 1e9},     {"T", 1e12},    {"P", 1e15},    {"E", 1e18},   {"Ki", 0x1p10}, {"Mi", 0x1p20},
      {"Gi", 0x1p30}, {"Ti", 0x1p40}, {"Pi", 0x1p50}, {"Ei", 0x1p60}};
  if (auto found = kSuffixes.find(suffix); found != kSuffixes.end()) return found->second;
  if (suffix[0] != 'e' && suffix[0] != 'E') return std::nullopt;
  const size_t digits = suffix.find_first_not_of("+-", 1);
  if (digits == std::string::npos || digits > 2 || suffix.size() > digits + 3) return std::nullopt;
  if (suffix.find_first_not_of("0123456789", digits) != std::string::npos) return std::nullopt;
  return std::pow(10, std::atoi(suffix.c_str() + 1));
}

}  // namespace

absl::StatusOr<int64_t> ParseMilli(const std::string& text) {
  const absl::Status bad =
      absl::InvalidArgumentError(fmt::format("'{}' is not a quantity (as in 250m, 1.5 or 64Mi)", text));
  const size_t digits = text.find_first_not_of("0123456789.");
  const std::string number = text.substr(0, digits);
  if (number.empty() || number == "." || number.find('.') != number.rfind('.')) return bad;
  const std::optional<double> factor = FactorOf(digits == std::string::npos ? "" : text.substr(digits));
  if (!factor) return bad;
  const double milli = std::ceil(std::strtod(number.c_str(), nullptr) * *factor * 1000 - 1e-6);
  if (!(milli <= 9e18)) return bad;
  return static_cast<int64_t>(milli);
}

}  // namespace heterok8s::kube
