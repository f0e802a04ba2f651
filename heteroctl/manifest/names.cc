#include "heteroctl/manifest/names.h"

#include <algorithm>

namespace heterok8s::manifest {
namespace {

bool IsLowerOrDigit(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }
bool IsLetterOrDigit(char c) { return IsLowerOrDigit(c) || (c >= 'A' && c <= 'Z'); }

// Between two dots. In a subdomain only the whole has a longest length (validation.IsDNS1123Subdomain).
bool IsPart(std::string_view text) {
  return !text.empty() && IsLowerOrDigit(text.front()) && IsLowerOrDigit(text.back()) &&
         std::all_of(text.begin(), text.end(), [](char c) { return IsLowerOrDigit(c) || c == '-'; });
}

}  // namespace

bool IsDnsLabel(std::string_view text) { return text.size() <= 63 && IsPart(text); }

bool IsDnsSubdomain(std::string_view text) {
  if (text.size() > 253) return false;
  for (size_t dot; (dot = text.find('.')) != std::string_view::npos; text.remove_prefix(dot + 1)) {
    if (!IsPart(text.substr(0, dot))) return false;
  }
  return IsPart(text);
}

bool IsUid(std::string_view text) {
  return !text.empty() && text.size() <= 63 && IsLetterOrDigit(text.front()) &&
         std::all_of(text.begin(), text.end(), [](char c) { return IsLetterOrDigit(c) || c == '-'; });
}

}  // namespace heterok8s::manifest
