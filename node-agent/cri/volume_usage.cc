#include "node-agent/cri/volume_usage.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cstring>
#include <memory>
#include <set>

namespace heterok8s::cri {
namespace {

constexpr uint64_t kBlock = 512;  // stat(2): the unit of st_blocks, whatever the file system's

struct Walk {
  dev_t device = 0;
  int files_left = kMostFiles;
  std::set<ino_t> with_more_names;
  DiskUse use;

  void Add(sys::UniqueFd folder, int folders_left);
};

void Walk::Add(sys::UniqueFd folder, int folders_left) {
  auto close = [](DIR* dir) { closedir(dir); };
  std::unique_ptr<DIR, decltype(close)> dir(fdopendir(folder.get()), close);
  if (dir == nullptr) return;
  const int fd = folder.release();  // the DIR's now
  while (const dirent* entry = readdir(dir.get())) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (files_left-- <= 0) return;
    struct stat info = {};
    if (fstatat(fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 || info.st_dev != device) continue;
    const bool is_folder = S_ISDIR(info.st_mode);
    if (!is_folder && info.st_nlink > 1 && !with_more_names.insert(info.st_ino).second) continue;
    use.bytes += static_cast<uint64_t>(info.st_blocks) * kBlock;
    ++use.inodes;
    if (!is_folder || folders_left == 0) continue;
    Add(sys::UniqueFd(openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)), folders_left - 1);
  }
}

}  // namespace

DiskUse UseOf(sys::UniqueFd folder) {
  struct stat info = {};
  if (!folder.valid() || fstat(folder.get(), &info) != 0) return {};
  Walk walk;
  walk.device = info.st_dev;
  walk.use = {.bytes = static_cast<uint64_t>(info.st_blocks) * kBlock, .inodes = 1};
  walk.Add(std::move(folder), kDeepest);
  return walk.use;
}

}  // namespace heterok8s::cri
