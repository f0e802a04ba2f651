#include "heterosock/epoll/active.h"

#include "heterosock/epoll/pool.h"
#include "heterosock/lib/machine.h"
#include "heterosock/ofd/slot.h"

namespace heterok8s::heterosock {

void Activate(uint32_t index, bool kick) {
  Item& item = Pool::At(index);
  if (item.disabled || item.parked) return;
  Instance& instance = Pool::InstanceAt(item.instance);
  item.misses = 0;
  item.patient = false;
  if (!item.active) {
    item.active = true;
    item.previous = instance.last;
    item.next = kNone;
    (instance.last == kNone ? instance.first : Pool::At(instance.last).next) = index;
    instance.last = index;
    ++instance.active;
  }
  if (kick && (instance.blocked > 0 || instance.WaitsPlain() || instance.watched)) Kick(instance);
}

void Kick(const Instance& instance) {
  if (instance.kick <= 0) return;
  // Registered edge triggered: every write is an event, and nobody has to read but who asks for the set as a whole.
  const uint64_t one = 1;
  Syscall(SYS_write, instance.kick, reinterpret_cast<long>(&one), sizeof one);
}

void Deactivate(uint32_t index) {
  Item& item = Pool::At(index);
  if (!item.active) return;
  Instance& instance = Pool::InstanceAt(item.instance);
  (item.previous == kNone ? instance.first : Pool::At(item.previous).next) = item.next;
  (item.next == kNone ? instance.last : Pool::At(item.next).previous) = item.previous;
  item.active = false;
  item.previous = item.next = kNone;
  --instance.active;
}

void EndPatience(uint32_t number) {
  Instance& instance = Pool::InstanceAt(number);
  if (instance.patient_until.load(std::memory_order_relaxed) == 0) [[likely]]
    return;
  instance.patient_until.store(0, std::memory_order_relaxed);
  for (uint32_t index = 1; index < Pool::HighWater(); ++index) {
    Item& item = Pool::At(index);
    if (item.instance != number || !item.patient) continue;
    item.impatient = true;
    Activate(index);
  }
}

void Rotate(uint32_t index) {
  Item& item = Pool::At(index);
  if (item.next == kNone || !item.active) return;
  const uint8_t misses = item.misses;
  Deactivate(index);
  Instance& instance = Pool::InstanceAt(item.instance);
  item.active = true;
  item.misses = misses;
  item.previous = instance.last;
  (instance.last == kNone ? instance.first : Pool::At(instance.last).next) = index;
  instance.last = index;
  ++instance.active;
}

void Relink(uint32_t number) {
  Instance& instance = Pool::InstanceAt(number);
  instance.lock.Repaired();
  instance.first = instance.last = kNone;
  instance.active = 0;
  for (uint32_t index = 1; index < Pool::HighWater(); ++index) {
    Item& item = Pool::At(index);
    if (item.instance != number || !(item.active || item.managed)) continue;
    item.active = false;
    item.previous = item.next = kNone;
    Activate(index);
  }
}

bool LockInstance(uint32_t number) {
  Instance& instance = Pool::InstanceAt(number);
  if (!instance.lock.Acquire()) return false;
  if (instance.lock.Left()) [[unlikely]]
    Relink(number);
  return true;
}

}  // namespace heterok8s::heterosock
