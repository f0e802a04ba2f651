#include "node-agent/cri/volume_usage.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <set>

namespace heterok8s::cri {
namespace {

constexpr uint64_t kBlock = 512;  // stat(2): the unit of st_blocks, whatever the file system's

// After a walk that was too long for an answer: a fifth of a processor at most.
constexpr int kRestsAsLong = 4;

struct Tree {
  const std::atomic<bool>& stop;
  dev_t device = 0;
  int files_left = kMostFiles;
  std::set<ino_t> with_more_names;
  bool too_much = false;
  VolumeUse use;

  void Add(sys::UniqueFd folder, int folders_left);
};

void Tree::Add(sys::UniqueFd folder, int folders_left) {
  auto close = [](DIR* dir) { closedir(dir); };
  std::unique_ptr<DIR, decltype(close)> dir(fdopendir(folder.get()), close);
  if (dir == nullptr) return;
  const int fd = folder.release();  // the DIR's now
  while (const dirent* entry = readdir(dir.get())) {
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (files_left-- <= 0) too_much = true;
    if (stop || too_much) return;
    struct stat info = {};
    if (fstatat(fd, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0 || info.st_dev != device) continue;
    const bool is_folder = S_ISDIR(info.st_mode);
    if (!is_folder && info.st_nlink > 1 && !with_more_names.insert(info.st_ino).second) continue;
    use.bytes += static_cast<uint64_t>(info.st_blocks) * kBlock;
    ++use.inodes;
    if (!is_folder) continue;
    if (folders_left == 0) too_much = true;
    if (too_much) return;
    Add(sys::UniqueFd(openat(fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)), folders_left - 1);
  }
}

}  // namespace

VolumeUse UseOf(sys::UniqueFd folder, const std::atomic<bool>& stop) {
  struct stat info = {};
  struct statvfs around = {};
  if (!folder.valid() || fstat(folder.get(), &info) != 0 || fstatvfs(folder.get(), &around) != 0) return {};
  Tree tree{.stop = stop, .device = info.st_dev};
  tree.use = {.bytes = static_cast<uint64_t>(info.st_blocks) * kBlock, .inodes = 1};
  tree.Add(std::move(folder), kDeepest);
  if (!tree.too_much) return tree.use;
  return {.bytes = std::max<uint64_t>(tree.use.bytes, (around.f_blocks - around.f_bfree) * around.f_frsize),
          .inodes = std::max<uint64_t>(tree.use.inodes, around.f_files - around.f_ffree)};
}

VolumeWalk::~VolumeWalk() {
  stop_ = true;
  if (thread_.joinable()) thread_.join();
}

v1::UsedByVolumesReply VolumeWalk::Figures(Walk walk, std::chrono::milliseconds patience) {
  using Clock = std::chrono::steady_clock;
  std::unique_lock lock(mutex_);
  if (!walking_ && Clock::now() >= rest_until_) {
    if (thread_.joinable()) thread_.join();  // it has ended: the last that it does with the lock is to say so
    thread_ = std::thread([this, walk = std::move(walk)] {
      const Clock::time_point begun = Clock::now();
      v1::UsedByVolumesReply found = walk(stop_);
      std::lock_guard done(mutex_);
      if (!stop_) last_ = std::move(found);
      if (somebody_left_) rest_until_ = Clock::now() + kRestsAsLong * (Clock::now() - begun);
      walking_ = false;
      ended_.notify_all();
    });
    walking_ = true;  // only now: a thread that could not be had throws
    somebody_left_ = false;
  }
  if (!ended_.wait_for(lock, patience, [this] { return !walking_; })) somebody_left_ = true;
  return last_;
}

}  // namespace heterok8s::cri
