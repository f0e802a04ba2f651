// The way of a connection to shared memory and back, apart from the bytes: when it is offered, mapped, armed, released.
//
//   kTcp --evidence of life, one holder--> kOffered --PAIRED, mapped--> kPaired --nobody inside the kernel--> kArmed
//     ^------- declined for now -------------'                                                (each direction then
//     switches)
//   any but kArmed --a reason to stay--> kNever
//
// Nothing waits. Each step is tried by whichever call on the connection comes next, and left when it is not possible
// then.
//
// Threading: any; callers hold no lock.
#pragma once

#include "heterosock/ofd/slot.h"

namespace heterok8s::heterosock {

// After a call on the connection went through the kernel, or before one would wait.
void Advance(uint32_t index, int fd);

// Cheap test whether Advance() could do anything.
bool WorthAdvancing(const Slot& slot);

// After a receive, when process.agent_is_due: a process that no longer makes or offers connections would not hear that
// its agent was replaced, nor the new one what it holds. Without a lock, as it may fence connections.
void TendAgent();

// Puts the connection on TCP for good, from whatever phase: both directions come back. Bytes that the peer has put into
// shared memory follow over TCP, at once if it waits in any call of ours.
void Fence(uint32_t index, int fd, Reason reason);
// Until the peer has done that, or a moment has passed, which a connection has once.
void Settle(uint32_t index, int fd, uint64_t until_ns);
void FenceAndSettle(uint32_t index, int fd, Reason reason);
// Every connection that an exec would pass on and that is in shared memory. What is on TCP may stay a candidate.
void FenceInheritable(Reason reason);
// In a child of vfork, which gives the connection to the program that it becomes: under another number, or by taking
// its close-on-exec off. That program reads and writes TCP. Nothing elsewhere.
void FenceHandedOn(int fd);
void FenceAll(Reason reason);
// After FenceAll(), where somebody else reads the sockets from now on.
void SettleAll();

// After that, too: what is wholly on TCP again is the kernel's alone, as if it had never been tracked, with the epoll
// sets that it is in. Threads that sleep in calls of ours do so in the kernel's from here on.
void RetireAll();

// The last descriptor of the process is about to be closed.
void Leave(uint32_t index, int fd);
// The last one of all is, and the agent may not have looked at the offer yet: then it would hold the socket, and the
// other end would not hear of the end before it does. So what close() would have the kernel send is sent here.
void EndUnread(uint32_t index, int fd);
// A program was, or is about to be, started that nobody counts, and that may have what this process has: all, or what
// its own exec would pass on. Whoever else holds such a connection sees the mark too.
void MarkSpawned(bool inherited_alone);
// It was closed behind our back.
void LeaveClosed(uint32_t index);
// In a child that nobody saw coming: connections that its parent ended before the child's first call. The kernel alone
// has them now.
void LeaveLost();

// The agent connection of the parent is not the child's.
void UpgradeAfterFork();

}  // namespace heterok8s::heterosock
