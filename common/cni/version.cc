#include <array>
#include <charconv>

#include "common/cni/types.h"

namespace heterok8s::cni {
namespace {

// {major, minor, micro}; all -1 when `version` is not three numbers.
std::array<int, 3> Parts(const std::string& version) {
  std::array<int, 3> parts = {-1, -1, -1};
  const char* at = version.data();
  const char* end = at + version.size();
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0 && (at == end || *at++ != '.')) return {-1, -1, -1};
    auto [next, error] = std::from_chars(at, end, parts[i]);
    if (error != std::errc() || parts[i] < 0) return {-1, -1, -1};
    at = next;
  }
  return at == end ? parts : std::array<int, 3>{-1, -1, -1};
}

}  // namespace

bool IsSupported(const std::string& version) {
  for (const char* supported : kSupportedVersions) {
    if (version == supported) return true;
  }
  return false;
}

int CompareVersions(const std::string& a, const std::string& b) {
  std::array<int, 3> left = Parts(a), right = Parts(b);
  return left < right ? -1 : left > right ? 1 : 0;
}

std::string VersionJson() {
  nlohmann::ordered_json json = {{"cniVersion", kLatestVersion}, {"supportedVersions", kSupportedVersions}};
  return json.dump();
}

}  // namespace heterok8s::cni
