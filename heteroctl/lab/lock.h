// One process at a time works on a lab.
#pragma once

#include <chrono>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"
#include "heteroctl/lab/layout.h"

namespace heterok8s::lab {

// Holds the lab's lock while it lives. kDeadlineExceeded when another process has it for longer than `deadline`.
class LabLock {
 public:
  static absl::StatusOr<LabLock> Take(const Layout& layout, std::chrono::milliseconds deadline);
  // Removes the lock file as well: the lab is gone.
  void ReleaseAndRemove();

 private:
  LabLock(sys::UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  sys::UniqueFd fd_;
  std::string path_;
};

}  // namespace heterok8s::lab
