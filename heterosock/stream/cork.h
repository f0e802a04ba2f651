// TCP_CORK of a connection that sends to shared memory. The kernel, which has nothing to send there, is not told: a
// server that corks each answer (nginx, tcp_nopush) makes two system calls less for it. On the way back to TCP it is
// told what the program has by then.
//
// SendState::corks says what the program has set and what the kernel has. Where several threads set and draw it at once
// the latter may be wrong; so the kernel is always told on the way back when there was a cork at all.
//
// Threading: any. CorkAtSwitch() and CorkAtReturn() with the send lock held.
//
//   if (CorkInRing(slot, fd, on)) return 0;
//   const int result = real.setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on);
//   if (result == 0) NoteCork(slot, on);
#pragma once

#include "heterosock/ofd/slot.h"

namespace heterok8s::heterosock {

// False: it is the kernel's to do.
bool CorkInRing(uint32_t index, int fd, bool on);
// The kernel has done it.
void NoteCork(uint32_t index, bool on);

// Sending is in shared memory from here on. What the kernel has kept for more that would have come, as of MSG_MORE, it
// sends now.
void CorkAtSwitch(uint32_t index, int fd);
// Sending is the kernel's from here on.
void CorkAtReturn(uint32_t index, int fd);

// True when the kernel may not know what the program has set, which is in `on` then.
bool CorkIsOurs(uint32_t index, bool* on);

// What the program has set.
inline bool Corked(const SendState& tx) { return (tx.corks.load(std::memory_order_relaxed) & kCorkOfProgram) != 0; }

}  // namespace heterok8s::heterosock
