// How much of the disk a folder holds that a Pod writes to.
//
// Purpose: what `du` says, of a folder whose owner may be hostile: no link is followed, nothing on another file system
// counts, a file with several names counts once. Of a folder with more than kMostFiles files, or below kDeepest
// folders, only so much is counted: nobody makes the agent walk for long. Threading: any. Errors: what cannot be read,
// or goes while it is read, counts as nothing.
//
//   DiskUse use = UseOf(folder_fd);
#pragma once

#include <cstdint>

#include "common/sys/unique_fd.h"

namespace heterok8s::cri {

inline constexpr int kMostFiles = 20000;  // about 40 ms
inline constexpr int kDeepest = 64;       // a descriptor each while they are read

struct DiskUse {
  uint64_t bytes = 0, inodes = 0;
};
// `folder` is open for reading.
DiskUse UseOf(sys::UniqueFd folder);

}  // namespace heterok8s::cri
