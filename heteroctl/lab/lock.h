// One process at a time works on a lab.
//
// Threading: between processes, by flock(); an object belongs to one thread. Ownership: holds the file's descriptor,
// and with it the lock, while it lives; the kernel frees the lock of a process that died.
// Errors: errno with the path; kDeadlineExceeded when another process has it for longer than `deadline`.
//
//   HK_ASSIGN_OR_RETURN(LabLock lock, LabLock::Take(layout, std::chrono::seconds(60)));
#pragma once

#include <chrono>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"
#include "heteroctl/lab/layout.h"

namespace heterok8s::lab {

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
