// A log file as it grows, from an offset.
//
// Purpose: the sending end of TailLog. Wakes up by inotify, never by time.
// Threading: one thread. Ownership: borrows `root`. Errors: kOutOfRange when the file is shorter than the offset (its
// end was cut off), kInvalidArgument for a path that leaves the root.
//
//   LogTail tail(root, "a_b_uid/c/0.log", 4096, /*follow=*/true);
//   HK_ASSIGN_OR_RETURN(LogTail::Piece piece, tail.Next(std::chrono::milliseconds(200)));
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "node-agent/cri/confined.h"

namespace heterok8s::cri {

class LogTail {
 public:
  LogTail(const ConfinedRoot& root, std::string path, uint64_t offset, bool follow)
      : root_(root), path_(std::move(path)), offset_(offset), follow_(follow) {}

  struct Piece {
    enum class Kind { kData, kNothingYet, kEnd } kind;
    uint64_t offset = 0;  // of data's first byte: beyond the asked one when what was asked has been released
    std::string data;
  };
  // kNothingYet after `wait`. kEnd when nobody writes the file any more and all was read; without `follow` at its end.
  absl::StatusOr<Piece> Next(std::chrono::milliseconds wait);

 private:
  absl::StatusOr<bool> OpenNow();
  absl::Status CheckSize() const;  // that it is as long as what was read of it
  absl::Status Watch();
  bool HasWriter() const;
  absl::Status Wait(std::chrono::milliseconds wait);

  const ConfinedRoot& root_;
  std::string path_;
  uint64_t offset_;
  bool follow_;
  bool closed_seen_ = false;
  int writerless_looks_ = 0;
  sys::UniqueFd file_;
  sys::UniqueFd inotify_;
};

// Gives the disk space of the first `offset` bytes back; the file's length and all offsets stay.
absl::Status ReleaseLog(const ConfinedRoot& root, const std::string& path, uint64_t offset);

}  // namespace heterok8s::cri
