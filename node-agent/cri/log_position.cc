#include "node-agent/cri/log_position.h"

#include "node-agent/cri/state.pb.h"

namespace heterok8s::cri {
namespace {

// No file is longer (off_t of ext4 and xfs); sums of two cannot overflow.
constexpr int64_t kMost = int64_t{1} << 60;

}  // namespace

std::optional<SavedPosition> ParsePosition(const std::string& bytes) {
  state::LogPosition position;
  if (!position.ParseFromString(bytes)) return std::nullopt;
  if (position.inode() == 0 || position.base() > kMost || position.base() < -kMost) return std::nullopt;
  return SavedPosition{.base = position.base(), .inode = position.inode()};
}

std::string PositionBytes(const SavedPosition& position) {
  state::LogPosition message;
  message.set_base(position.base);
  message.set_inode(position.inode);
  return message.SerializeAsString();
}

int64_t BaseOf(const std::optional<SavedPosition>& saved, uint64_t inode, int64_t size, int64_t former_size) {
  // Seen for the first time. What is in the file already is of a former container of this name and attempt.
  if (!saved.has_value()) return -size;
  if (saved->inode == inode) return saved->base;
  // Rotated behind our back: the new file begins where the old one ends.
  return saved->base + former_size - size;
}

}  // namespace heterok8s::cri
