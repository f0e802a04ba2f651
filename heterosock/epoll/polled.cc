// Sets that are asked as a whole: by poll() and select() on their descriptor, and by sets that they are in.
#include "heterosock/epoll/guard.h"
#include "heterosock/epoll/item.h"
#include "heterosock/epoll/look.h"
#include "heterosock/epoll/pool.h"
#include "heterosock/epoll/registry.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {

namespace {

constexpr int kMostDeep = 5;  // sets within sets (kernel: EP_MAX_NESTS)

// The bell of a slot has been rung: whoever has it in a set looks at the connection next time. Who sleeps would find
// the bell empty, and is kicked; but not those who only ask for set `number`, which the caller does. With the pool's
// lock held.
void TakeRing(uint32_t slot, uint32_t number) {
  const uint32_t first = Slots::Local(slot).first_item.load();
  EnterBell(slot);
  LeaveBell(slot);
  if (PeerWaits(slot)) ServePeer(slot, Pool::At(first).fd);
  for (uint32_t index = first; index != kNone; index = Pool::At(index).next_of_slot) {
    const Guard instance_guard(Pool::At(index).instance);
    const Instance& instance = Pool::InstanceAt(Pool::At(index).instance);
    const bool sleeps = Pool::At(index).instance != number || instance.blocked > 0 || instance.WaitsPlain();
    if (instance_guard) Manage(index, sleeps);
  }
}

bool Attached(uint32_t number, int deep) {
  const Instance& instance = Pool::InstanceAt(number);
  bool attached = instance.attached.load(std::memory_order_relaxed) != 0;
  for (uint32_t i = 0; !attached && deep > 0 && i < instance.nested_count.load(std::memory_order_relaxed); ++i)
    attached = Attached(instance.nested[i].instance, deep - 1);
  return attached;
}

// Arms everything that is not ready, so it looks at all.
bool Ready(uint32_t number, int deep) {
  Instance& instance = Pool::InstanceAt(number);
  if (!EpollWatch(number) || !LockInstance(number)) return false;
  bool ready = false;
  for (uint32_t index = instance.first; index != kNone; index = Pool::At(index).next) {
    Item copy = Pool::At(index);
    ArmBell(copy.slot, static_cast<short>(copy.events | POLLIN));
    if (Look(copy) != 0) ready = true;
  }
  instance.lock.Release();
  for (uint32_t i = 0; deep > 0 && i < instance.nested_count.load(std::memory_order_relaxed); ++i) {
    const Instance::Nested& nested = instance.nested[i];
    if ((nested.events & EPOLLIN) != 0 && !nested.disabled && Attached(nested.instance, deep - 1) &&
        Ready(nested.instance, deep - 1) && !((nested.events & EPOLLET) != 0 && nested.told))
      ready = true;
  }
  return ready;
}

}  // namespace

bool EpollAttached(uint32_t number) { return Attached(number, kMostDeep); }
bool EpollReady(uint32_t number) { return Ready(number, kMostDeep); }

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

namespace {

// With the pool's lock held.
bool TakeRings(uint32_t number, int deep) {
  constexpr nfds_t kAtOnce = 64;
  Instance& instance = Pool::InstanceAt(number);
  bool any = false;
  for (uint32_t i = 0; deep > 0 && i < instance.nested_count.load(std::memory_order_relaxed); ++i)
    any = TakeRings(instance.nested[i].instance, deep - 1) || any;
  if (instance.kick > 0) {
    const Guard instance_guard(number);
    uint64_t kicks = 0;
    // A thread that waits in the set is told of it once, and would not be when it were gone.
    if (instance_guard && instance.blocked == 0 && !instance.WaitsPlain())
      any = Syscall(SYS_read, instance.kick, reinterpret_cast<long>(&kicks), sizeof kicks) > 0 || any;
  }
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
      TakeRing(slots[i], number);
      if ((bells[i].revents & POLLIN) != 0) continue;
      Slots::Local(slots[i]).bell_dead = true;
      ForgetBell(slots[i]);
    }
  }
  return any;
}

}  // namespace

bool EpollTakeRings(uint32_t number) {
  const PoolGuard guard;
  return guard && TakeRings(number, kMostDeep);
}

}  // namespace heterok8s::heterosock
