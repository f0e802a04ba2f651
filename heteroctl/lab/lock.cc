#include "heteroctl/lab/lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

namespace heterok8s::lab {
namespace {

// The holder may have removed the file while we waited for it; then our lock is on a file that nobody will meet.
bool IsStillAt(int fd, const std::string& path) {
  struct stat ours {
  }, there{};
  return fstat(fd, &ours) == 0 && stat(path.c_str(), &there) == 0 && ours.st_ino == there.st_ino &&
         ours.st_dev == there.st_dev;
}

}  // namespace

absl::StatusOr<LabLock> LabLock::Take(const Layout& layout, std::chrono::milliseconds deadline) {
  const std::string path = layout.Lock();
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (true) {
    mkdir(kRunRoot, 0755);  // the last lab that goes removes it
    sys::UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!fd.valid() && errno != ENOENT) return ErrnoToStatus(errno, fmt::format("open '{}'", path));
    if (fd.valid() && flock(fd.get(), LOCK_EX | LOCK_NB) == 0 && IsStillAt(fd.get(), path)) {
      return LabLock(std::move(fd), path);
    }
    if (std::chrono::steady_clock::now() > end) {
      return absl::DeadlineExceededError(fmt::format("another heteroctl is busy with lab '{}'", layout.name));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

void LabLock::ReleaseAndRemove() {
  unlink(path_.c_str());
  fd_.reset();
}

}  // namespace heterok8s::lab
