// The memory of a channel in this process, and whether its bytes were all counted. Private to upgrade/.
//
// Threading: the caller has the agent's lock (Map, CountsAgree), or both locks of the slot (Unmap). Ownership: Map
// takes the three descriptors of the pairing, whatever it returns; Unmap closes them.
//
//   if (!Map(channel, pairing)) Unmap(channel);
#pragma once

#include "heterosock/ofd/slot.h"
#include "heterosock/upgrade/rendezvous.h"

namespace heterok8s::heterosock {

// False when the memory is not what a channel must be: then nothing of it may be used.
bool Map(LocalChannel& channel, const Pairing& pairing);
void Unmap(LocalChannel& channel);

// What the kernel counted must be what passed through us: else somebody else writes or reads (libc's stdio, a child).
bool CountsAgree(Slot& slot, int fd);

}  // namespace heterok8s::heterosock
