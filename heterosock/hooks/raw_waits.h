// The waits of syscall(2), by what libc has for them. They differ in what the kernel says of time: it writes what is
// left into the program's timeout, which libc keeps from it (poll(2), select(2): "C library/kernel differences"). What
// is the kernel's alone is waited for by the number that the program gave.
//
// Threading: any. Each answers as syscall() does: -1 and errno.
//
//   case SYS_ppoll:
//     return PpollByNumber(fds, count, timeout, mask, mask_bytes);
#pragma once

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>

namespace heterok8s::heterosock {

// poll.cc: nothing of ours is waited for.
bool PollIsKernels(pollfd* fds, nfds_t count);
bool SelectIsKernels(int nfds, const fd_set* in, const fd_set* out, const fd_set* except);

long PpollByNumber(pollfd* fds, nfds_t count, timespec* timeout, const sigset_t* mask, size_t mask_bytes);

// What pselect6 has as its sixth argument, as a system call has no seventh.
struct MaskAndSize {
  const sigset_t* mask;
  size_t bytes;
};
long Pselect6ByNumber(int nfds, fd_set* in, fd_set* out, fd_set* except, timespec* timeout, const MaskAndSize* mask);

long EpollPwait2ByNumber(int epfd, epoll_event* events, int max, const timespec* timeout, const sigset_t* mask,
                         size_t mask_bytes);

}  // namespace heterok8s::heterosock
