// Files below a root folder, named by somebody else.
//
// Purpose: a path that comes in a message never leaves its root: not by "..", not by a symbolic link on the way.
// Threading: thread-safe. Ownership: holds the root open. Errors: kInvalidArgument for a path that leaves the root,
// else errno with the path.
//
//   HK_ASSIGN_OR_RETURN(ConfinedRoot logs, ConfinedRoot::Open("/var/log/heterok8s/pods"));   // made when missing
//   HK_ASSIGN_OR_RETURN(sys::UniqueFd fd, logs.OpenFile("a_b_uid/c/0.log", O_RDONLY));
#pragma once

#include <fcntl.h>
#include <sys/types.h>

#include <string>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::cri {

// Relative, not empty, no ".", ".." or empty component.
absl::Status CheckRelativePath(const std::string& path);
// The same, and one component only.
absl::Status CheckName(const std::string& name);

class ConfinedRoot {
 public:
  static absl::StatusOr<ConfinedRoot> Open(const std::string& root);

  const std::string& path() const { return path_; }
  // `flags` without O_CLOEXEC, which is always set; `mode` counts with O_CREAT.
  absl::StatusOr<sys::UniqueFd> OpenFile(const std::string& relative, int flags, mode_t mode = 0) const;
  absl::Status MakeFolders(const std::string& relative, mode_t mode) const;
  // With all below it; links are removed, not followed. OK when there is nothing.
  absl::Status Remove(const std::string& relative) const;

 private:
  ConfinedRoot(std::string path, sys::UniqueFd fd) : path_(std::move(path)), fd_(std::move(fd)) {}

  std::string path_;
  sys::UniqueFd fd_;
};

}  // namespace heterok8s::cri
