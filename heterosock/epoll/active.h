// The list of items that somebody has to look at. But for LockInstance(), with the lock of the instance held.
#pragma once

#include <stdint.h>

namespace heterok8s::heterosock {

struct Instance;

// Wakes every thread that waits in the set, or for it, in the kernel.
void Kick(const Instance& instance);
// Appends the item unless it is there or may not report; `kick`: wakes a thread that waits in the kernel.
void Activate(uint32_t index, bool kick = true);
void Deactivate(uint32_t index);
// Makes the kernel's registration ours, and the item active. Also with the registry lock held.
void Manage(uint32_t index, bool kick = true);
// Takes the lock of an instance; where its last owner went in the middle, the list is made anew. False when this thread
// holds it already.
bool LockInstance(uint32_t number);
// What moved in another process that has it is managed here too, from now on.
void NoteMoves(uint32_t number);
// Items that are patient (notify/bell.h) are looked at again and armed for good, unless something came for them.
void EndPatience(uint32_t number);
// To the end, so that a set larger than `maxevents` is served in turn.
void Rotate(uint32_t index);

}  // namespace heterok8s::heterosock
