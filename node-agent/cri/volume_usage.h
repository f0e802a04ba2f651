// How much of the disk folders hold that Pods write to.
//
// Purpose: what `du` says, of a folder whose owner may be hostile: no link is followed, nothing on another file system
// counts, a file with several names counts once. A folder with more than kMostFiles files, or with folders below
// kDeepest others, counts as all that its file system holds: nobody hides what it wrote by making it long to count.
// VolumeWalk is who has the time: a walk goes on behind an answer that does not wait for it, there is one at a time,
// and after a long one it rests, so that no Pod can keep a processor busy with its files. Threading: UseOf any,
// VolumeWalk thread-safe. Ownership: VolumeWalk owns its thread; the destructor ends the walk and waits for it. Errors:
// what cannot be read, or goes while it is read, counts as nothing.
//
//   VolumeUse use = UseOf(folder_fd, stop);
//   v1::UsedByVolumesReply all = walk.Figures([this](const auto& stop) { return WalkAll(stop); }, kPatience);
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>

#include "common/sys/unique_fd.h"
#include "proto/heterok8s/v1/runtime.pb.h"

namespace heterok8s::cri {

inline constexpr int kMostFiles = 1000000;  // about two seconds, when the kernel knows them all
inline constexpr int kDeepest = 256;        // a descriptor each while they are read

struct VolumeUse {
  uint64_t bytes = 0, inodes = 0;
};
// `folder` is open for reading. Ends early when `stop` becomes true.
VolumeUse UseOf(sys::UniqueFd folder, const std::atomic<bool>& stop);

class VolumeWalk {
 public:
  using Walk = std::function<v1::UsedByVolumesReply(const std::atomic<bool>& stop)>;

  VolumeWalk() = default;
  VolumeWalk(const VolumeWalk&) = delete;
  ~VolumeWalk();

  // What a walk that begins now finds; when that, or one that is still going on, takes longer than `patience`, the
  // figures of the last one that was finished. `walk` is called on a thread of its own and may outlast the call.
  v1::UsedByVolumesReply Figures(Walk walk, std::chrono::milliseconds patience);

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  std::atomic<bool> stop_{false};
  bool walking_ = false, somebody_left_ = false;  // all below, and these, are guarded by mutex_
  std::chrono::steady_clock::time_point rest_until_;
  v1::UsedByVolumesReply last_;
  std::thread thread_;
};

}  // namespace heterok8s::cri
