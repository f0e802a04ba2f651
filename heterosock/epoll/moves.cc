// What arming, moving, forking and closing a connection do to the sets that it is in.
#include "heterosock/epoll/active.h"
#include "heterosock/epoll/guard.h"
#include "heterosock/epoll/item.h"
#include "heterosock/epoll/pool.h"
#include "heterosock/epoll/registry.h"
#include "heterosock/ofd/slot.h"

namespace heterok8s::heterosock {

bool EpollAttach(uint32_t slot) {
  const PoolGuard guard;
  if (!guard) return false;
  bool all = true;
  for (uint32_t index = Slots::Local(slot).first_item.load(); index != kNone; index = Pool::At(index).next_of_slot) {
    if (!Pool::At(index).has_bell) all = AddBell(index) && all;
  }
  return all;
}

void EpollConvert(uint32_t slot) {
  if (Slots::Local(slot).items.load() == 0) return;
  const PoolGuard guard;
  if (!guard) return;
  const bool was_full = Slots::Get(slot).tx.full.load(std::memory_order_relaxed) != 0;
  for (uint32_t index = Slots::Local(slot).first_item.load(); index != kNone; index = Pool::At(index).next_of_slot) {
    // That a direction moved is no edge. The kernel's registration does until there is something to report: then the
    // bell is rung, or a sender has found no room.
    if (!Pool::At(index).managed && (Pool::At(index).events & EPOLLET) != 0 && !was_full) continue;
    const Guard instance_guard(Pool::At(index).instance);
    if (instance_guard) Manage(index);
  }
}

void NoteMoves(uint32_t number) {
  const PoolGuard guard;
  if (!guard) return;
  Pool::InstanceAt(number).moves = Slots::TheCrowd().moves.load();
  for (uint32_t index = 1; index < Pool::HighWater(); ++index) {
    const Item& item = Pool::At(index);
    if (item.instance != number || item.managed || !item.has_bell) continue;
    const Guard instance_guard(number);
    if (instance_guard && Slots::Get(item.slot).rx.mode.load() != Mode::kTcp) Manage(index, false);
  }
}

void EpollShut(uint32_t slot) {
  if (Slots::Local(slot).items.load() == 0) return;
  const PoolGuard guard;
  for (uint32_t index = Slots::Local(slot).first_item.load(); guard && index != kNone;
       index = Pool::At(index).next_of_slot) {
    Item& item = Pool::At(index);
    const Guard instance_guard(item.instance);
    if (!instance_guard || !item.managed) continue;
    item.edge = true;
    Manage(index);
    // The kernel, which knows of no more than is on TCP, says so as well: a socket that was shut has something to say.
    item.changed = item.changed || item.with_out;
  }
}

void EpollPoke(uint32_t slot) {
  const PoolGuard guard;
  for (uint32_t index = Slots::Local(slot).first_item.load(); guard && index != kNone;
       index = Pool::At(index).next_of_slot) {
    const Guard instance_guard(Pool::At(index).instance);
    if (instance_guard) Manage(index);
  }
}

void EpollForgetBell(uint32_t slot) {
  const PoolGuard guard;
  if (guard) ForgetBell(slot);
}

void EpollForget(uint32_t slot, bool last) {
  LocalChannel& channel = Slots::Local(slot);
  if (channel.items.load() == 0) return;
  // The agent may hold a socket that was offered for a moment longer, and with it the kernel's registrations.
  const bool offered = Slots::Get(slot).phase.load() != Phase::kTcp;
  const PoolGuard guard;
  while (guard && channel.first_item.load() != kNone) {
    const uint32_t index = channel.first_item.load();
    const Item& item = Pool::At(index);
    const Instance& instance = Pool::InstanceAt(item.instance);
    if (last && offered && !item.parked && item.registered >= 0 && !instance.inherited)
      KernelControl(instance, EPOLL_CTL_DEL, item.fd, 0, 0);
    Remove(index);
  }
}

void EpollMoveFd(uint32_t slot, int closing, int other) {
  if (Slots::Local(slot).items.load() == 0) return;
  const PoolGuard guard;
  for (uint32_t index = Slots::Local(slot).first_item.load(), next = kNone; guard && index != kNone; index = next) {
    next = Pool::At(index).next_of_slot;
    if (Pool::At(index).parked && Pool::At(index).registered == closing) {
      Remove(index);
      continue;
    }
    if (Pool::At(index).registered == closing) Pool::At(index).registered = ~closing;
    if (Pool::At(index).fd == closing) Pool::At(index).fd = other;
  }
}

void EpollAfterFork() {
  Pool::Lock().Reset();
  for (uint32_t number = 1; number < Pool::kInstances; ++number) {
    Instance& instance = Pool::InstanceAt(number);
    if (instance.used.load() == 0) {
      if (number > 64) break;  // they are handed out from below
      continue;
    }
    instance.lock.Reset();
    instance.inherited = true;
    instance.blocked = 0;
    instance.plain.Reset();
    instance.inside.Reset();
    instance.unsettled = false;
  }
}

}  // namespace heterok8s::heterosock
