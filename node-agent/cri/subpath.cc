#include "node-agent/cri/subpath.h"

#include <sstream>
#include <vector>

namespace heterok8s::cri {
namespace {

struct Mounted {
  std::string device, root, path;
};

// Space, tab, newline and backslash are written as three octal digits.
std::string Unescape(const std::string& text) {
  std::string plain;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      plain += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      plain += text[i];
    }
  }
  return plain;
}

std::vector<Mounted> Parse(const std::string& mountinfo) {
  std::vector<Mounted> mounts;
  std::istringstream lines(mountinfo);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::string id, parent;
    Mounted mounted;
    if (fields >> id >> parent >> mounted.device >> mounted.root >> mounted.path) {
      mounted.root = Unescape(mounted.root);
      mounted.path = Unescape(mounted.path);
      mounts.push_back(std::move(mounted));
    }
  }
  return mounts;
}

// "…/volumes/kubernetes.io~configmap/NAME/…"
std::optional<std::string> KindIn(const std::string& path) {
  constexpr std::string_view kMark = "/volumes/kubernetes.io~";
  size_t at = path.find(kMark);
  if (at == std::string::npos) return std::nullopt;
  size_t end = path.find('/', at + kMark.size());
  if (end == std::string::npos) return std::nullopt;
  return path.substr(at + kMark.size(), end - at - kMark.size());
}

}  // namespace

std::optional<std::string> SubPathKind(const std::string& mountinfo, const std::string& host_path) {
  const std::vector<Mounted> mounts = Parse(mountinfo);
  const Mounted* of_path = nullptr;
  for (const Mounted& mounted : mounts) {
    if (mounted.path == host_path) of_path = &mounted;
  }
  if (of_path == nullptr) return std::nullopt;
  if (auto kind = KindIn(of_path->root)) return kind;
  // A volume that is a file system of its own: Secrets and tokens are each a tmpfs. Its own mount tells.
  for (const Mounted& mounted : mounts) {
    if (mounted.device != of_path->device || mounted.root != "/") continue;
    if (auto kind = KindIn(mounted.path)) return kind;
  }
  return std::nullopt;
}

}  // namespace heterok8s::cri
