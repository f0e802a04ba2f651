#include "common/sys/remove_tree.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string_view>
#include <vector>

#include "common/sys/unique_fd.h"

namespace heterok8s::sys {
namespace {

struct CloseDir {
  void operator()(DIR* dir) const { closedir(dir); }
};

int OpenFolder(int parent, const std::string& name) {
  open_how how = {};
  how.flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  return static_cast<int>(syscall(SYS_openat2, parent, name.c_str(), &how, sizeof how));
}

// One removal. Folders are not descended into but moved up into the top one, so that depth costs neither descriptors
// nor stack. The kernel refuses to move a mount point (EBUSY): what is mounted in the tree is not entered.
class Removal {
 public:
  explicit Removal(UniqueFd top) : top_(std::move(top)) {}

  // 0 or errno.
  int Run() {
    if (int error = Empty(top_.get()); error != 0) return error;
    while (!folders_.empty()) {
      const std::string name = std::move(folders_.back());
      folders_.pop_back();
      UniqueFd folder(OpenFolder(top_.get(), name));
      if (!folder.valid() && errno == ENOENT) continue;
      if (!folder.valid()) return errno;
      if (int error = Empty(folder.get()); error != 0) return error;
      if (unlinkat(top_.get(), name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT) return errno;
    }
    return 0;
  }

 private:
  int Empty(int folder) {
    UniqueFd own(openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));  // closedir() closes what it reads
    if (!own.valid()) return errno;
    std::unique_ptr<DIR, CloseDir> entries(fdopendir(own.get()));
    if (entries == nullptr) return errno;
    (void)own.release();
    while (true) {
      errno = 0;
      const dirent* entry = readdir(entries.get());
      if (entry == nullptr) return errno;
      const std::string_view name = entry->d_name;
      if (name == "." || name == "..") continue;
      // For a folder Linux says EISDIR; a link is removed as a link.
      if (unlinkat(folder, entry->d_name, 0) == 0 || errno == ENOENT) continue;
      if (errno != EISDIR) return errno;
      if (int error = folder == top_.get() ? Note(entry->d_name) : MoveUp(folder, entry->d_name); error != 0)
        return error;
    }
  }

  int Note(const char* name) {
    folders_.emplace_back(name);
    return 0;
  }

  int MoveUp(int folder, const char* name) {
    while (true) {
      const std::string fresh = fmt::format("removed-{}", ++moved_);
      if (renameat2(folder, name, top_.get(), fresh.c_str(), RENAME_NOREPLACE) == 0) return Note(fresh.c_str());
      if (errno == ENOENT) return 0;
      if (errno != EEXIST) return errno;  // the tree may hold a name of ours: the next number is tried
    }
  }

  UniqueFd top_;
  std::vector<std::string> folders_;  // in the top folder, still to be emptied
  uint64_t moved_ = 0;
};

}  // namespace

absl::Status RemoveTree(const std::string& parent, const std::string& name) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos) {
    return absl::InvalidArgumentError(fmt::format("remove in '{}': '{}' is not one name", parent, name));
  }
  UniqueFd parent_fd(open(parent.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!parent_fd.valid() && errno == ENOENT) return absl::OkStatus();
  if (!parent_fd.valid()) return ErrnoToStatus(errno, fmt::format("open folder '{}'", parent));
  UniqueFd top(OpenFolder(parent_fd.get(), name));
  if (!top.valid() && errno == ENOENT) return absl::OkStatus();
  if (!top.valid() && (errno == ELOOP || errno == ENOTDIR || errno == EXDEV)) {
    return absl::InvalidArgumentError(fmt::format("'{}/{}' is a link, a file or a mount, not a folder", parent, name));
  }
  if (!top.valid()) return ErrnoToStatus(errno, fmt::format("open '{}/{}'", parent, name));
  // No name of the tree in the message: they are a stranger's, and messages reach terminals.
  if (int error = Removal(std::move(top)).Run(); error != 0) {
    return ErrnoToStatus(error, fmt::format("empty '{}/{}'", parent, name));
  }
  if (unlinkat(parent_fd.get(), name.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT) {
    return ErrnoToStatus(errno, fmt::format("remove '{}/{}'", parent, name));
  }
  return absl::OkStatus();
}

}  // namespace heterok8s::sys
