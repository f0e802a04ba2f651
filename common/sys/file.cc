#include "common/sys/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <vector>

#include "common/sys/unique_fd.h"

namespace heterok8s::sys {
namespace {

constexpr std::string_view kRandom = "XXXXXX";  // mkostemp's

absl::Status WriteAll(int fd, std::string_view text, const std::string& path) {
  while (!text.empty()) {
    ssize_t n = write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoToStatus(errno, fmt::format("write '{}'", path));
    text.remove_prefix(static_cast<size_t>(n));
  }
  return absl::OkStatus();
}

std::string SysctlPath(std::string_view name) {
  std::string path = "/proc/sys/";
  path += name;
  if (name.find('/') == std::string_view::npos) std::replace(path.begin() + 10, path.end(), '.', '/');
  return path;
}

}  // namespace

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("open '{}'", path));
  std::string text;
  char buffer[16384];
  while (true) {
    ssize_t n = read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoToStatus(errno, fmt::format("read '{}'", path));
    if (n == 0) return text;
    if (text.size() + static_cast<size_t>(n) > max_bytes) {
      return absl::ResourceExhaustedError(fmt::format("'{}' is longer than {} bytes", path, max_bytes));
    }
    text.append(buffer, static_cast<size_t>(n));
  }
}

absl::Status WriteFileAtomic(const std::string& path, std::string_view text, mode_t mode) {
  std::string temporary = fmt::format("{}.{}", path, kRandom);
  UniqueFd fd(mkostemp(temporary.data(), O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("make a temporary file for '{}'", path));
  absl::Status written = WriteAll(fd.get(), text, temporary);
  if (written.ok() && (fchmod(fd.get(), mode) != 0 || fsync(fd.get()) != 0)) {
    written = ErrnoToStatus(errno, fmt::format("sync '{}'", temporary));
  }
  if (written.ok() && rename(temporary.c_str(), path.c_str()) != 0) {
    written = ErrnoToStatus(errno, fmt::format("rename to '{}'", path));
  }
  if (!written.ok()) {
    unlink(temporary.c_str());
    return written;
  }
  std::string folder = std::filesystem::path(path).parent_path();
  UniqueFd folder_fd(open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder_fd.valid() || fsync(folder_fd.get()) != 0) return ErrnoToStatus(errno, fmt::format("sync '{}'", folder));
  return absl::OkStatus();
}

void RemoveUnfinished(const std::string& path) {
  const std::filesystem::path whole(path);
  const std::string prefix = whole.filename().string() + ".";
  std::error_code error;
  std::vector<std::filesystem::path> unfinished;
  for (const auto& entry : std::filesystem::directory_iterator(whole.parent_path(), error)) {
    const std::string name = entry.path().filename();
    if (name.size() == prefix.size() + kRandom.size() && name.starts_with(prefix)) unfinished.push_back(entry.path());
  }
  for (const auto& file : unfinished) unlink(file.c_str());
}

absl::Status SetSysctl(std::string_view name, std::string_view value) {
  const std::string path = SysctlPath(name);
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("open '{}'", path));
  return Annotate(WriteAll(fd.get(), value, path), fmt::format("set {}={}", name, value));
}

absl::Status EnsureSysctl(std::string_view name, std::string_view value) {
  absl::StatusOr<std::string> now = ReadFile(SysctlPath(name));
  if (now.ok() && *now == fmt::format("{}\n", value)) return absl::OkStatus();
  return SetSysctl(name, value);
}

}  // namespace heterok8s::sys
