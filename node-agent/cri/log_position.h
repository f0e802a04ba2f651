// Where a mirrored log stands in the DPU's log, as it is kept on disk beside others of its kind.
//
// Threading: pure functions. Errors: bytes that are no position are none: the log is then read from its start, some
// lines twice and none lost.
//
//   std::optional<SavedPosition> saved = ParsePosition(bytes);
//   int64_t base = BaseOf(saved, inode, size, size_of_the_file_that_has_saved_inode);
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace heterok8s::cri {

struct SavedPosition {
  int64_t base =
      0;  // offset in the DPU's log of the first byte of the host's file; negative: what is before is another's
  uint64_t inode = 0;  // of the host's file
};
std::optional<SavedPosition> ParsePosition(const std::string& bytes);
std::string PositionBytes(const SavedPosition& position);

// The base of the file that is there now, which has `size` bytes. `former_size`: of the file that has the saved inode,
// where that is another one; 0 when it is gone.
int64_t BaseOf(const std::optional<SavedPosition>& saved, uint64_t inode, int64_t size, int64_t former_size);

}  // namespace heterok8s::cri
