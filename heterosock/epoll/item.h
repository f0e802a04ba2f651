// What the kernel's set has of an item: its registration, its bell, and the set's kick. Private to epoll/.
//
// Threading: with the pool's lock held. Ownership: Remove() gives the item back to the pool.
//
//   if (!AddBell(index)) ...   // the connection must not arm
#pragma once

#include <stdint.h>
#include <sys/epoll.h>

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

// Many programs take a descriptor out of a set and put it back with other events, for each request. Of a connection
// that is ours no system call is needed for that: Park() leaves the kernel's registration, Unpark() goes on with it.
// Removed for good it is when the kernel reports something of it meanwhile, or the descriptor is closed.
void Park(uint32_t index);
// False: not possible with these events, or the direction moved meanwhile; then it has to be removed and added.
bool Unpark(uint32_t index, const epoll_event& event);
// Every item of the slot that is parked in this instance, of the instance when slot is kEverySlot.
inline constexpr uint32_t kEverySlot = ~uint32_t{0};
void RemoveParked(uint32_t number, uint32_t slot);

}  // namespace heterok8s::heterosock
