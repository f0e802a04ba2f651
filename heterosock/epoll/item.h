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
struct Item;

// epoll_ctl as the kernel has it: 0 or -errno.
int KernelControl(const Instance& instance, int operation, int fd, uint32_t events, uint64_t data);
// What the kernel is asked for once the registration is ours: edge triggered, so that a condition that lasts (writable,
// closed) is told once; we remember it. Of room only who waits for it hears: a socket on TCP has it nearly always, and
// who polls the set would be told that there is something.
uint32_t ManagedEvents(const Item& item);

// One more, or less, of which the kernel alone knows (Instance::foreign).
void CountForeign(Instance& instance, int change);

void RemoveKick(Instance& instance);
// False when the kernel refused, or there is no memory. A bell that nobody can ring any more is left out: the kernel
// reports its end for ever.
bool AddBell(uint32_t index);
// Takes the bell of a slot out of every set.
void ForgetBell(uint32_t slot);
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
