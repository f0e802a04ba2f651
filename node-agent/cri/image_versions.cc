#include "node-agent/cri/image_versions.h"

#include <algorithm>

namespace heterok8s::cri {
namespace {

// Without the tag; the port of a registry stays.
std::string RepositoryOf(std::string name) {
  name.resize(std::min(name.size(), name.find('@')));
  const size_t slash = name.rfind('/');
  const size_t colon = name.find(':', slash == std::string::npos ? 0 : slash);
  name.resize(std::min(name.size(), colon));
  return name;
}

}  // namespace

ImageVersions VersionsOf(const runtime::v1::Image& image, const std::string& name) {
  const std::string repository = RepositoryOf(name);
  ImageVersions versions;
  for (const std::string& known : image.repo_digests()) {
    const size_t at = known.find('@');
    const std::string of = known.substr(0, at);
    if (at == std::string::npos || (of != repository && !of.ends_with("/" + repository))) continue;
    // Runtimes write out what Docker leaves out. Another registry's copy is as good a version, but not where to pull
    // it.
    const bool own = of == repository || of == "docker.io/" + repository || of == "docker.io/library/" + repository;
    std::string& version = versions[known.substr(at + 1)];
    if (own || version.empty()) version = known;
  }
  return versions;
}

bool MaySame(const ImageVersions& one, const ImageVersions& other) {
  if (one.empty() || other.empty()) return true;
  return std::any_of(one.begin(), one.end(), [&](const auto& version) { return other.contains(version.first); });
}

}  // namespace heterok8s::cri
