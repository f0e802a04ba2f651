#include "heterosock/upgrade/unseen.h"

#include <errno.h>
#include <sys/epoll.h>

#include "heterosock/lib/machine.h"
#include "heterosock/ofd/fd_table.h"

namespace heterok8s::heterosock {
namespace {

// New files get the lowest free number (open(2)), so beyond so many closed ones in a row there is hardly an open one.
constexpr int kGap = 128;

int found = -1;

enum class What { kClosed, kOther, kSet };

// A set does not have the stranger and says so; what is none refuses before it looks (do_epoll_ctl() in
// fs/eventpoll.c). Nothing of the file itself is asked: it may be on a server that does not answer.
What Look(int fd, int stranger) {
  const long answer = Syscall(SYS_epoll_ctl, fd, EPOLL_CTL_DEL, stranger);
  return answer == -EBADF ? What::kClosed : answer == -ENOENT ? What::kSet : What::kOther;
}

}  // namespace

bool HasUnseenSet(int stranger) {
  int closed = 0;
  for (int fd = 0; (fd <= FdTable::High() || closed < kGap) && fd < static_cast<int>(FdTable::kSize); ++fd) {
    const What what = FdTable::Get(fd).raw() != 0 ? What::kOther : Look(fd, stranger);
    closed = what == What::kClosed ? closed + 1 : 0;
    if (what != What::kSet) continue;
    found = fd;
    return true;
  }
  found = -1;
  return false;
}

bool UnseenSetStays(int stranger) {
  return found >= 0 && FdTable::Get(found).raw() == 0 && Look(found, stranger) == What::kSet;
}

}  // namespace heterok8s::heterosock
