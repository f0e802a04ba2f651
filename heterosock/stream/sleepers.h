// Who sleeps in poll() on a connection's own bell. It is emptied only when nobody does: a bell that is emptied under a
// sleeper that has not looked yet is a wake-up lost. (A reader and a writer, threads and forked processes share it.)
//
// Sleepers are known by their thread ids, because one that was killed or cancelled does not say that it woke. The first
// eight have their places in the slot, the others in a table of all slots that processes related by fork share.
//
// A ring wakes all of them, and one finds the bytes. So it is on Linux: readers that block in tcp_recvmsg() wait
// without WQ_FLAG_EXCLUSIVE (sk_wait_data), and sock_def_readable() wakes every one.
//
// Threading: any; the slot's bell_lock is taken inside.
//
//   const bool poke = EnterBell(index);
//   ... arm, look again, poll() ...
//   LeaveBell(index);
#pragma once

#include <stdint.h>

namespace heterok8s::heterosock {

// Around sleeping in poll() on the own bell. Enter: true when it emptied a bell that epoll sets may have been waiting
// for; the caller then says EpollPoke() once it holds no lock.
bool EnterBell(uint32_t index);
void LeaveBell(uint32_t index);

// Wakes this side's own sleepers, if any, to look again: what they wait for has changed at this end. Without /proc they
// sleep until the peer does something.
void WakeOwn(uint32_t index);
// The same of a connection that is the kernel's from now on. True while other threads sleep on the bell, and were rung.
bool WakeOthers(uint32_t index);
// The direction moved, as this process saw: the sets of others that have the connection look too.
void TellOtherProcesses(uint32_t index);
// Rings the own bell, whoever may sleep on it, epoll sets too. False without /proc. While the channel is mapped.
bool RingOwn(uint32_t index);

// With the receive lock held, before arming: whether this thread may sleep patiently (notify/bell.h). The peer asks for
// it, and nobody but this thread, and `sets` epoll sets of this process, waits for what the connection brings.
bool MayBePatient(uint32_t index, uint32_t sets);

// This thread jumped out of its sleep: it gives back every place that it has, of any slot.
void LeaveAllBells();

}  // namespace heterok8s::heterosock
