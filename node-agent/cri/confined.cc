#include "node-agent/cri/confined.h"

#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cerrno>
#include <filesystem>

namespace heterok8s::cri {

namespace fs = std::filesystem;

absl::Status CheckRelativePath(const std::string& path) {
  size_t start = 0;
  while (true) {
    size_t end = path.find('/', start);
    std::string part = path.substr(start, end == std::string::npos ? end : end - start);
    if (part.empty() || part == "." || part == ".." || part.find('\0') != std::string::npos || part.size() > 255) {
      return absl::InvalidArgumentError(fmt::format("path '{}' is not plainly below its folder", path));
    }
    if (end == std::string::npos) return absl::OkStatus();
    start = end + 1;
  }
}

absl::Status CheckName(const std::string& name) {
  HK_RETURN_IF_ERROR(CheckRelativePath(name));
  if (name.find('/') != std::string::npos) return absl::InvalidArgumentError(fmt::format("'{}' is not one name", name));
  return absl::OkStatus();
}

absl::StatusOr<ConfinedRoot> ConfinedRoot::Open(const std::string& root) {
  std::error_code error;
  fs::create_directories(root, error);
  if (error) return ErrnoToStatus(error.value(), fmt::format("make folder '{}'", root));
  sys::UniqueFd fd(open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("open folder '{}'", root));
  return ConfinedRoot(fs::path(root).lexically_normal(), std::move(fd));
}

absl::StatusOr<sys::UniqueFd> ConfinedRoot::OpenFile(const std::string& relative, int flags, mode_t mode) const {
  HK_RETURN_IF_ERROR(CheckRelativePath(relative));
  open_how how = {};
  how.flags = static_cast<uint64_t>(flags) | O_CLOEXEC;
  if ((flags & O_CREAT) != 0) how.mode = mode;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  sys::UniqueFd fd(static_cast<int>(syscall(SYS_openat2, fd_.get(), relative.c_str(), &how, sizeof how)));
  if (fd.valid()) return fd;
  if (errno == ELOOP || errno == EXDEV) {
    return absl::InvalidArgumentError(fmt::format("path '{}' leads out of '{}' or over a link", relative, path_));
  }
  return ErrnoToStatus(errno, fmt::format("open '{}' in '{}'", relative, path_));
}

absl::Status ConfinedRoot::MakeFolders(const std::string& relative, mode_t mode) const {
  HK_RETURN_IF_ERROR(CheckRelativePath(relative));
  sys::UniqueFd parent;
  for (size_t end = 0; end != std::string::npos;) {
    size_t start = end == 0 ? 0 : end + 1;
    end = relative.find('/', start);
    std::string part = relative.substr(start, end == std::string::npos ? end : end - start);
    int at = parent.valid() ? parent.get() : fd_.get();
    if (mkdirat(at, part.c_str(), mode) != 0 && errno != EEXIST) {
      return ErrnoToStatus(errno, fmt::format("make folder '{}' in '{}'", relative, path_));
    }
    HK_ASSIGN_OR_RETURN(parent, OpenFile(relative.substr(0, end), O_PATH | O_DIRECTORY));
  }
  return absl::OkStatus();
}

absl::Status ConfinedRoot::Remove(const std::string& relative) const {
  HK_RETURN_IF_ERROR(CheckRelativePath(relative));
  size_t slash = relative.rfind('/');
  if (slash != std::string::npos) {
    auto parent = OpenFile(relative.substr(0, slash), O_PATH | O_DIRECTORY);
    if (parent.status().code() == absl::StatusCode::kNotFound) return absl::OkStatus();
    HK_RETURN_IF_ERROR(parent.status());
  }
  std::error_code error;
  fs::remove_all(fs::path(path_) / relative, error);  // openat and unlinkat inside: a link is removed as a link
  if (error) return ErrnoToStatus(error.value(), fmt::format("remove '{}' in '{}'", relative, path_));
  return absl::OkStatus();
}

}  // namespace heterok8s::cri
