// Epoll sets with connections in shared memory.
//
// The program's own epoll descriptor stays what it is. A connection that is on TCP is registered as the program said.
// When a channel is armed its bell joins the set (edge triggered, marked with a private cookie); when a direction
// moves, the TCP socket's registration is replaced by an edge-triggered one with a cookie too, because the idle TCP
// socket would be writable for ever. From then on readiness is computed here: an *item* is active while somebody has to
// look at it, and armed when the peer rings for it. Idle connections are armed and cost nothing; busy ones are polled
// without a system call. (The kernel's NAPI does the same with interrupts.)
//
// Threading: each instance has a lock; the list of a slot's items has one for the process. Slot locks are taken inside
// these, so callers hold none. Memory: fixed pools of this process; when they are exhausted the connection stays on
// TCP. fork: the child works on its copy of the registrations and never removes anything from a set it shares with its
// parent.
#pragma once

#include <stdint.h>
#include <sys/epoll.h>

#include "heterosock/ofd/fd_table.h"

namespace heterok8s::heterosock {

// epoll_create: a number for the new instance, or nothing when the pool is empty (its connections then stay on TCP).
void EpollCreated(int epfd);
void EpollCopied(uint32_t number);  // dup
void EpollClosed(uint32_t number, int epfd);
int EpollControl(uint32_t number, int epfd, int operation, int fd, epoll_event* event);
// Like epoll_pwait2; *timeout_ns < 0 waits for ever. Returns as libc does; or kEpollRetired, and in *timeout_ns what is
// left of it.
inline constexpr int kEpollRetired = -2;
int EpollWait(uint32_t number, int epfd, epoll_event* events, int max, int64_t* timeout_ns, const sigset_t* mask);

// A signal handler jumped out of this thread's wait.
void EpollLeaveWait();

// After a plain wait that returned n > 0 events: the kernel has disabled what was for one report.
void EpollReported(uint32_t number, const epoll_event* events, int n);
// After a plain wait that returned n > 0 events, should connections have moved meanwhile: takes our cookies out. 0:
// wait on.
int EpollAdopt(uint32_t number, int epfd, epoll_event* events, int n, int max);

// The program gives up system calls: every set is the kernel's again, with the registrations that the program made, and
// nobody waits in one by calls of ours. Not those that another process has too (EpollRetired() is false then), and not
// in a signal handler that interrupted a change of one.
void EpollRetireAll();
bool EpollRetired(uint32_t number);
// After a plain wait in a retired set that returned n > 0 events: those of ours are left out, and come again when they
// are the program's.
int EpollWithoutOurs(epoll_event* events, int n);

// A channel was armed / a direction moved / the process closes its last descriptor of the slot / one of several.
// Attach: false when some registration cannot be kept up outside the kernel; the connection must not arm then.
bool EpollAttach(uint32_t slot);
void EpollConvert(uint32_t slot);
void EpollShut(uint32_t slot);               // the program has called shutdown(): an edge, whatever comes of it
void EpollPoke(uint32_t slot);               // its bell was emptied by somebody else: every set looks again
void EpollForget(uint32_t slot, bool last);  // last: the socket is still open, and in no other process
void EpollForgetBell(uint32_t slot);         // the channel goes, the registrations stay
void EpollMoveFd(uint32_t slot, int closing, int other);

// For poll() on an epoll descriptor and for nested sets.
bool EpollAttached(uint32_t number);
bool EpollWatch(uint32_t number);  // others than who waits in it will ask for it. False: not now, in a signal handler
bool EpollReady(uint32_t number);  // something is ready that the kernel does not know of; arms what is not
// Of a set that the kernel calls readable: it does for a bell that was rung, whatever for. Takes such rings; true when
// there were any, and then both have to be asked again.
bool EpollTakeRings(uint32_t number);

void EpollAfterFork();

}  // namespace heterok8s::heterosock
