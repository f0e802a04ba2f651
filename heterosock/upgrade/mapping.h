// The memory of a channel in this process, and whether its bytes were all counted. Private to upgrade/.
//
// Threading: the caller has the agent's lock (Map, CountsAgree, UnmapLocked), and the locks of the slot (Unmap).
// Ownership: Map takes the three descriptors of the pairing, whatever it returns; Unmap closes them.
//
//   if (!Map(channel, pairing)) UnmapLocked(index, false);
#pragma once

#include "heterosock/ofd/slot.h"
#include "heterosock/upgrade/rendezvous.h"

namespace heterok8s::heterosock {

// False when the memory is not what a channel must be: then nothing of it may be used.
bool Map(LocalChannel& channel, const Pairing& pairing);
void Unmap(LocalChannel& channel);
// The same with the locks of the slot, so that nobody looks at it meanwhile. `ended`: the connection is over, and
// sleepers learn it.
void UnmapLocked(uint32_t index, bool ended);

// What the kernel counted must be what passed through us: else somebody else writes or reads (libc's stdio, a child).
bool CountsAgree(Slot& slot, int fd);

}  // namespace heterok8s::heterosock
