#include "node-agent/cri/image_versions.h"

#include <algorithm>

namespace heterok8s::cri {
namespace {

// Docker's rule, which the runtimes share: what is before the first '/' is a registry if it looks like a host's name.
bool IsRegistry(const std::string& first) {
  return first == "localhost" || first.find_first_of(".:") != std::string::npos ||
         std::any_of(first.begin(), first.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
}

// Without tag and digest, and with what Docker's short names leave out: "nginx:1" is "docker.io/library/nginx". The
// port of a registry stays.
std::string RepositoryOf(std::string name) {
  name.resize(std::min(name.size(), name.find('@')));
  const size_t last_slash = name.rfind('/');
  const size_t colon = name.find(':', last_slash == std::string::npos ? 0 : last_slash);
  name.resize(std::min(name.size(), colon));
  std::string registry = "docker.io";
  const size_t slash = name.find('/');
  if (slash != std::string::npos && IsRegistry(name.substr(0, slash))) {
    registry = name.substr(0, slash);
    name.erase(0, slash + 1);
  }
  if (registry == "index.docker.io") registry = "docker.io";  // as it was called once
  const bool official = registry == "docker.io" && name.find('/') == std::string::npos;
  return registry + (official ? "/library/" : "/") + name;
}

}  // namespace

ImageVersions VersionsOf(const runtime::v1::Image& image, const std::string& name) {
  const std::string repository = RepositoryOf(name);
  ImageVersions versions;
  for (const std::string& known : image.repo_digests()) {
    const size_t at = known.find('@');
    if (at != std::string::npos && RepositoryOf(known) == repository) versions[known.substr(at + 1)] = known;
  }
  return versions;
}

bool MaySame(const ImageVersions& one, const ImageVersions& other) {
  if (one.empty() || other.empty()) return true;
  return std::any_of(one.begin(), one.end(), [&](const auto& version) { return other.contains(version.first); });
}

}  // namespace heterok8s::cri
