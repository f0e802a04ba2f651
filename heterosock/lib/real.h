// libc's own functions, below our wrappers.
//
// Every pointer starts as a stub that looks all of them up and then calls on, so a wrapper works before any constructor
// ran (other libraries' constructors, malloc replacements that read files). Looking up allocates nothing
// (`next_symbol.h`); a function that this libc does not have becomes a raw system call or ENOSYS. Functions with a
// variable part are called with one fixed argument of register width, as libc reads them.
//
// Threading: any. Tests may replace pointers before they start threads.
#pragma once

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#include "heterosock/lib/libc.h"

namespace heterok8s::heterosock {

// name, return type, parameters
#define HETEROSOCK_REAL_FUNCTIONS(X)                                                                                \
  X(socket, int, (int, int, int))                                                                                   \
  X(listen, int, (int, int))                                                                                        \
  X(accept, int, (int, sockaddr*, socklen_t*))                                                                      \
  X(accept4, int, (int, sockaddr*, socklen_t*, int))                                                                \
  X(connect, int, (int, const sockaddr*, socklen_t))                                                                \
  X(shutdown, int, (int, int))                                                                                      \
  X(getsockopt, int, (int, int, int, void*, socklen_t*))                                                            \
  X(setsockopt, int, (int, int, int, const void*, socklen_t))                                                       \
  X(socketpair, int, (int, int, int, int*))                                                                         \
  X(close, int, (int))                                                                                              \
  X(dup, int, (int))                                                                                                \
  X(dup2, int, (int, int))                                                                                          \
  X(dup3, int, (int, int, int))                                                                                     \
  X(fcntl, int, (int, int, long))                                                                                   \
  X(fcntl64, int, (int, int, long))                                                                                 \
  X(ioctl, int, (int, unsigned long, long))                                                                         \
  X(open, int, (const char*, int, long))                                                                            \
  X(open64, int, (const char*, int, long))                                                                          \
  X(openat, int, (int, const char*, int, long))                                                                     \
  X(openat64, int, (int, const char*, int, long))                                                                   \
  X(creat, int, (const char*, mode_t))                                                                              \
  X(creat64, int, (const char*, mode_t))                                                                            \
  X(__open_2, int, (const char*, int))                                                                              \
  X(__open64_2, int, (const char*, int))                                                                            \
  X(__openat_2, int, (int, const char*, int))                                                                       \
  X(__openat64_2, int, (int, const char*, int))                                                                     \
  X(pipe, int, (int*))                                                                                              \
  X(pipe2, int, (int*, int))                                                                                        \
  X(eventfd, int, (unsigned, int))                                                                                  \
  X(timerfd_create, int, (int, int))                                                                                \
  X(signalfd, int, (int, const sigset_t*, int))                                                                     \
  X(inotify_init, int, ())                                                                                          \
  X(inotify_init1, int, (int))                                                                                      \
  X(memfd_create, int, (const char*, unsigned))                                                                     \
  X(read, ssize_t, (int, void*, size_t))                                                                            \
  X(readv, ssize_t, (int, const iovec*, int))                                                                       \
  X(preadv2, ssize_t, (int, const iovec*, int, off_t, int))                                                         \
  X(preadv64v2, ssize_t, (int, const iovec*, int, off_t, int))                                                      \
  X(write, ssize_t, (int, const void*, size_t))                                                                     \
  X(writev, ssize_t, (int, const iovec*, int))                                                                      \
  X(pwritev2, ssize_t, (int, const iovec*, int, off_t, int))                                                        \
  X(pwritev64v2, ssize_t, (int, const iovec*, int, off_t, int))                                                     \
  X(recv, ssize_t, (int, void*, size_t, int))                                                                       \
  X(recvfrom, ssize_t, (int, void*, size_t, int, sockaddr*, socklen_t*))                                            \
  X(recvmsg, ssize_t, (int, msghdr*, int))                                                                          \
  X(recvmmsg, int, (int, mmsghdr*, unsigned, int, timespec*))                                                       \
  X(send, ssize_t, (int, const void*, size_t, int))                                                                 \
  X(sendto, ssize_t, (int, const void*, size_t, int, const sockaddr*, socklen_t))                                   \
  X(sendmsg, ssize_t, (int, const msghdr*, int))                                                                    \
  X(sendmmsg, int, (int, mmsghdr*, unsigned, int))                                                                  \
  X(__read_chk, ssize_t, (int, void*, size_t, size_t))                                                              \
  X(__recv_chk, ssize_t, (int, void*, size_t, size_t, int))                                                         \
  X(__recvfrom_chk, ssize_t, (int, void*, size_t, size_t, int, sockaddr*, socklen_t*))                              \
  X(sendfile, ssize_t, (int, int, off_t*, size_t))                                                                  \
  X(sendfile64, ssize_t, (int, int, off_t*, size_t))                                                                \
  X(splice, ssize_t, (int, off_t*, int, off_t*, size_t, unsigned))                                                  \
  X(poll, int, (pollfd*, nfds_t, int))                                                                              \
  X(ppoll, int, (pollfd*, nfds_t, const timespec*, const sigset_t*))                                                \
  X(__poll_chk, int, (pollfd*, nfds_t, int, size_t))                                                                \
  X(__ppoll_chk, int, (pollfd*, nfds_t, const timespec*, const sigset_t*, size_t))                                  \
  X(select, int, (int, fd_set*, fd_set*, fd_set*, timeval*))                                                        \
  X(pselect, int, (int, fd_set*, fd_set*, fd_set*, const timespec*, const sigset_t*))                               \
  X(epoll_create, int, (int))                                                                                       \
  X(epoll_create1, int, (int))                                                                                      \
  X(epoll_ctl, int, (int, int, int, epoll_event*))                                                                  \
  X(epoll_wait, int, (int, epoll_event*, int, int))                                                                 \
  X(epoll_pwait, int, (int, epoll_event*, int, int, const sigset_t*))                                               \
  X(epoll_pwait2, int, (int, epoll_event*, int, const timespec*, const sigset_t*))                                  \
  X(close_range, int, (unsigned, unsigned, int))                                                                    \
  X(fork, pid_t, ())                                                                                                \
  X(_Fork, pid_t, ())                                                                                               \
  X(daemon, int, (int, int))                                                                                        \
  X(execve, int, (const char*, char* const*, char* const*))                                                         \
  X(execvpe, int, (const char*, char* const*, char* const*))                                                        \
  X(fexecve, int, (int, char* const*, char* const*))                                                                \
  X(execveat, int, (int, const char*, char* const*, char* const*, int))                                             \
  X(posix_spawn_file_actions_init, int, (posix_spawn_file_actions_t*))                                              \
  X(posix_spawn_file_actions_destroy, int, (posix_spawn_file_actions_t*))                                           \
  X(posix_spawn_file_actions_adddup2, int, (posix_spawn_file_actions_t*, int, int))                                 \
  X(posix_spawn, int,                                                                                               \
    (pid_t*, const char*, const posix_spawn_file_actions_t*, const posix_spawnattr_t*, char* const*, char* const*)) \
  X(posix_spawnp, int,                                                                                              \
    (pid_t*, const char*, const posix_spawn_file_actions_t*, const posix_spawnattr_t*, char* const*, char* const*)) \
  X(system, int, (const char*))                                                                                     \
  X(popen, FILE*, (const char*, const char*))                                                                       \
  X(fdopen, FILE*, (int, const char*))                                                                              \
  X(vdprintf, int, (int, const char*, va_list))                                                                     \
  X(sockatmark, int, (int))                                                                                         \
  X(longjmp, void, (void*, int))                                                                                    \
  X(_longjmp, void, (void*, int))                                                                                   \
  X(siglongjmp, void, (void*, int))                                                                                 \
  X(__longjmp_chk, void, (void*, int))                                                                              \
  X(pthread_exit, void, (void*))                                                                                    \
  X(prctl, int, (int, unsigned long, unsigned long, unsigned long, unsigned long))                                  \
  X(syscall, long, (long, long, long, long, long, long, long))

struct Real {
#define HETEROSOCK_DECLARE(name, type, parameters) type(*name) parameters;
  HETEROSOCK_REAL_FUNCTIONS(HETEROSOCK_DECLARE)
#undef HETEROSOCK_DECLARE
};

extern constinit Real real;

// The function of that name behind ours, in whichever library, or null. Not for what may be asked within a malloc.
void* NextFunction(const char* name);

}  // namespace heterok8s::heterosock
