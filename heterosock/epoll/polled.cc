// Sets that are asked as a whole: by poll() and select() on their descriptor, and by sets that they are in.
#include "heterosock/epoll/guard.h"
#include "heterosock/epoll/item.h"
#include "heterosock/epoll/look.h"
#include "heterosock/epoll/pool.h"
#include "heterosock/epoll/registry.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {

namespace {

// The bell of a slot has been rung: whoever has it in a set looks at the connection next time. With the pool's lock
// held.
void TakeRing(uint32_t slot) {
  const uint32_t first = Slots::Local(slot).first_item.load();
  EnterBell(slot);
  LeaveBell(slot);
  ServePeer(slot, Pool::At(first).fd);
  for (uint32_t index = first; index != kNone; index = Pool::At(index).next_of_slot) {
    const Guard instance_guard(Pool::At(index).instance);
    if (instance_guard) Manage(index);
  }
}

}  // namespace

bool EpollAttached(uint32_t number) {
  const Instance& instance = Pool::InstanceAt(number);
  if (instance.attached.load(std::memory_order_relaxed) != 0) return true;
  for (uint32_t i = 0; i < instance.nested_count.load(std::memory_order_relaxed); ++i) {
    if (Pool::InstanceAt(instance.nested[i].instance).attached.load(std::memory_order_relaxed) != 0) return true;
  }
  return false;
}

bool EpollWatch(uint32_t number) {
  Instance& instance = Pool::InstanceAt(number);
  if (instance.watched) return true;
  const PoolGuard guard;
  if (!guard) return false;
  instance.watched = true;
  RemoveParked(number, kEverySlot);
  const Guard instance_guard(number);
  if (instance_guard) EndPatience(number);
  return true;
}

bool EpollReady(uint32_t number) {
  Instance& instance = Pool::InstanceAt(number);
  if (!EpollWatch(number) || !LockInstance(number)) return false;
  bool ready = false;
  for (uint32_t index = instance.first; index != kNone; index = Pool::At(index).next) {
    Item copy = Pool::At(index);
    ArmBell(copy.slot, static_cast<short>(copy.events | POLLIN));
    if (Look(copy) != 0) ready = true;
  }
  instance.lock.Release();
  return ready;
}

bool EpollTakeRings(uint32_t number) {
  constexpr nfds_t kAtOnce = 64;
  const PoolGuard guard;
  if (!guard) return false;
  bool any = false;
  for (uint32_t index = 1; index < Pool::HighWater();) {
    pollfd bells[kAtOnce];
    uint32_t slots[kAtOnce];
    nfds_t n = 0;
    for (; index < Pool::HighWater() && n < kAtOnce; ++index) {
      const Item& item = Pool::At(index);
      if (item.instance != number || !item.has_bell) continue;
      bells[n] = {Slots::Local(item.slot).own_bell, POLLIN, 0};
      slots[n++] = item.slot;
    }
    const timespec now = {};
    if (n == 0 || Syscall(SYS_ppoll, reinterpret_cast<long>(bells), static_cast<long>(n), reinterpret_cast<long>(&now),
                          0, 8) <= 0)
      continue;
    for (nfds_t i = 0; i < n; ++i) {
      if (bells[i].revents == 0) continue;
      any = true;
      TakeRing(slots[i]);
      if ((bells[i].revents & POLLIN) != 0) continue;
      Slots::Local(slots[i]).bell_dead = true;
      ForgetBell(slots[i]);
    }
  }
  return any;
}

}  // namespace heterok8s::heterosock
