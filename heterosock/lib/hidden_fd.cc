#include "heterosock/lib/hidden_fd.h"

#include <fcntl.h>
#include <sys/resource.h>

#include "heterosock/lib/machine.h"
#include "heterosock/ofd/fd_table.h"

namespace heterok8s::heterosock {
namespace {

constexpr rlim_t kMostHidden = 1 << 16;  // numbers kept for us above the program's own

int MoveAbove(int fd, const rlimit& limit) {
  const rlim_t table = FdTable::kSize;
  const rlim_t hard = limit.rlim_max < table ? limit.rlim_max : table;
  const rlim_t soft = limit.rlim_cur < hard ? limit.rlim_cur : hard;
  if (hard > soft + 64) {
    // The kernel grows a process's descriptor array to the highest number: stay near the soft limit.
    const rlimit raised = {hard < soft + kMostHidden ? hard : soft + kMostHidden, limit.rlim_max};
    if (Syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, reinterpret_cast<long>(&raised), 0) == 0) {
      const long moved = Syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, static_cast<long>(soft));
      Syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, reinterpret_cast<long>(&limit), 0);
      return static_cast<int>(moved);  // when all are taken, those below are the program's all the same
    }
  }
  // None above: the highest quarter, so that small numbers come out as the program expects.
  const rlim_t from = soft > kMostHidden ? kMostHidden - kMostHidden / 4 : soft - soft / 4;
  return static_cast<int>(Syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, static_cast<long>(from)));
}

}  // namespace

int HideFd(int fd) {
  if (fd < 0) return -1;
  rlimit limit = {};
  int hidden = -1;
  if (Syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, 0, reinterpret_cast<long>(&limit)) == 0) hidden = MoveAbove(fd, limit);
  Syscall(SYS_close, fd);
  if (hidden < 0) return -1;
  if (static_cast<unsigned>(hidden) >= FdTable::kSize) {
    Syscall(SYS_close, hidden);
    return -1;
  }
  FdTable::Set(hidden, FdWord(FdWord::kHidden, 0));
  return hidden;
}

void CloseHidden(int fd) {
  if (fd <= 0) return;  // neither a failure nor "none" is a descriptor
  FdTable::Take(fd);
  Syscall(SYS_close, fd);
}

}  // namespace heterok8s::heterosock
