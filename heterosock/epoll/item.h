// What the kernel's set has of an item: its registration, its bell, and the set's kick. Private to epoll/.
//
// Threading: with the pool's lock held. Ownership: Remove() gives the item back to the pool.
//
//   if (!AddBell(index)) ...   // the connection must not arm
#pragma once

#include <stdint.h>

namespace heterok8s::heterosock {

struct Instance;

// epoll_ctl as the kernel has it: 0 or -errno.
int KernelControl(const Instance& instance, int operation, int fd, uint32_t events, uint64_t data);
// What the kernel is asked for once the registration is ours: edge triggered, so that a condition that lasts (writable,
// closed) is told once; we remember it.
uint32_t ManagedEvents(uint32_t slot);

void RemoveKick(Instance& instance);
// False when the kernel refused, or there is no memory.
bool AddBell(uint32_t index);
void Remove(uint32_t index);

}  // namespace heterok8s::heterosock
