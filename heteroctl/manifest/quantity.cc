#include "heteroctl/manifest/quantity.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <utility>

namespace heterok8s::manifest {

absl::StatusOr<int64_t> ParseMilli(const std::string& text) {
  static constexpr std::array<std::pair<const char*, double>, 12> kSuffixes = {{{"", 1},
                                                                                {"m", 1e-3},
                                                                                {"k", 1e3},
                                                                                {"M", 1e6},
                                                                                {"G", 1e9},
                                                                                {"T", 1e12},
                                                                                {"Ki", 1024.0},
                                                                                {"Mi", 1048576.0},
                                                                                {"Gi", 1073741824.0},
                                                                                {"Ti", 1099511627776.0},
                                                                                {"P", 1e15},
                                                                                {"Pi", 1125899906842624.0}}};
  absl::Status bad = absl::InvalidArgumentError(fmt::format("'{}' is not a quantity (as in 250m, 1.5 or 64Mi)", text));
  size_t digits = text.find_first_not_of("0123456789.");
  std::string number = text.substr(0, digits);
  std::string suffix = digits == std::string::npos ? "" : text.substr(digits);
  if (number.empty() || number == "." || number.find('.') != number.rfind('.')) return bad;
  for (const auto& [name, factor] : kSuffixes) {
    if (suffix != name) continue;
    double milli = std::ceil(std::stod(number) * factor * 1000 - 1e-6);
    if (milli > 9e18) return bad;
    return static_cast<int64_t>(milli);
  }
  return bad;
}

}  // namespace heterok8s::manifest
