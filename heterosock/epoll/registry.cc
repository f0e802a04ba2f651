// Sets as the program makes them, and what epoll_ctl says. What moving a connection does to them is in moves.cc,
// waiting in wait.cc, asking for a set as a whole in polled.cc.
#include "heterosock/epoll/registry.h"

#include "heterosock/epoll/active.h"
#include "heterosock/epoll/guard.h"
#include "heterosock/epoll/item.h"
#include "heterosock/epoll/pool.h"
#include "heterosock/lib/process.h"
#include "heterosock/lib/real.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {
namespace {

uint32_t Find(uint32_t number, uint32_t slot, int fd) {
  for (uint32_t index = Slots::Local(slot).first_item.load(); index != kNone; index = Pool::At(index).next_of_slot) {
    if (Pool::At(index).instance == number && Pool::At(index).registered == fd) return index;
  }
  return kNone;
}

int Failed(int result) {
  errno = -result;
  return -1;
}

int Add(uint32_t number, uint32_t slot, int fd, const epoll_event& event) {
  Instance& instance = Pool::InstanceAt(number);
  LocalChannel& channel = Slots::Local(slot);
  const uint32_t index = Pool::Take();
  bool moved = channel.page != nullptr && Slots::Get(slot).phase.load() == Phase::kArmed;
  const bool fixed = index == kNone || (event.events & EPOLLEXCLUSIVE) != 0;
  // EPOLLEXCLUSIVE registrations cannot be changed later, so the connection stays where it is; unless another thread
  // has armed it since.
  if (!moved && fixed) moved = !StayOnTcp(slot, Reason::kEpoll, fd);
  if (index == kNone || (!moved && fixed)) {
    if (index != kNone) Pool::Give(index);
    if (moved) return -ENOMEM;
    return KernelControl(instance, EPOLL_CTL_ADD, fd, event.events, event.data.u64);
  }
  if (moved && (event.events & EPOLLEXCLUSIVE) != 0 &&
      (event.events & ~(EPOLLEXCLUSIVE | EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET)) != 0) {
    Pool::Give(index);
    return -EINVAL;
  }
  Item& item = Pool::At(index);
  item.instance = number;
  item.slot = slot;
  item.fd = item.registered = fd;
  item.events = event.events;
  item.data = event.data.u64;
  const uint32_t managed = ManagedEvents(item);
  if (moved) instance.Attach();  // before the kernel can report the cookie
  const int result = KernelControl(instance, EPOLL_CTL_ADD, fd, moved ? managed : event.events,
                                   moved ? Pool::Cookie(index, false) : event.data.u64);
  if (result != 0) {
    if (moved) instance.Detach();
    Pool::Give(index);
    return result;
  }
  item.next_of_slot = channel.first_item.load();
  channel.first_item.store(index);
  channel.items.fetch_add(1);
  if (!moved) {
    CountForeign(instance, 1);
    return 0;
  }
  const Guard guard(number);
  item.managed = true;
  item.with_out = (managed & EPOLLOUT) != 0;
  item.changed = true;
  AddBell(index);
  item.edge = true;
  Activate(index);
  return 0;
}

int Modify(uint32_t index, const epoll_event& event) {
  Item& item = Pool::At(index);
  Instance& instance = Pool::InstanceAt(item.instance);
  if (!item.managed) {
    const int result = KernelControl(instance, EPOLL_CTL_MOD, item.fd, event.events, event.data.u64);
    if (result != 0) return result;
  } else if ((event.events | item.events) & EPOLLEXCLUSIVE) {
    return -EINVAL;
  }
  const Guard guard(item.instance);
  item.events = event.events;
  item.data = event.data.u64;
  item.disabled = false;
  if (item.managed) {
    item.edge = true;  // a condition that is already true is told again
    Manage(index);
  }
  return 0;
}

// What concerns us alone, because the kernel's registration stays as it is: most calls of a program that changes its
// mind with each request. 0 or -errno; 1: it needs more than that.
int ControlManaged(uint32_t number, uint32_t slot, int fd, int operation, const epoll_event* event) {
  const PoolLock lock;
  if (!lock) return -EINTR;
  const uint32_t index = Find(number, slot, fd);
  if (index == kNone || !Pool::At(index).managed) return 1;
  const Instance& instance = Pool::InstanceAt(number);
  if (Pool::At(index).parked) {
    if (operation != EPOLL_CTL_ADD) return -ENOENT;
    return Unpark(index, *event) ? 0 : 1;
  }
  if (operation == EPOLL_CTL_MOD) return Modify(index, *event);
  if (operation != EPOLL_CTL_DEL || instance.watched || instance.inherited) return 1;
  Park(index);
  return 0;
}

void RemoveNested(Instance& outer, uint32_t at) {
  const uint32_t last = outer.nested_count.load() - 1;
  outer.nested[at] = outer.nested[last];
  outer.nested_count.store(last);
}

// A set that is closed is in no other one any more; its number will be another set's. With the pool's lock held.
void LeaveOuterSets(uint32_t inner) {
  for (uint32_t number = 1; number < Pool::kInstances; ++number) {
    Instance& outer = Pool::InstanceAt(number);
    if (outer.used.load(std::memory_order_relaxed) == 0 || outer.nested_count.load() == 0) continue;
    const Guard guard(number);
    for (uint32_t i = outer.nested_count.load(); guard && i-- > 0;) {
      if (outer.nested[i].instance == inner) RemoveNested(outer, i);
    }
  }
}

// False: there is no room for one more.
bool Nest(uint32_t number, uint32_t inner, int operation, int fd, const epoll_event* event) {
  EpollWatch(inner);
  const Guard guard(number);
  Instance& instance = Pool::InstanceAt(number);
  uint32_t count = instance.nested_count.load();
  for (uint32_t i = 0; i < count; ++i) {
    if (instance.nested[i].fd != fd) continue;
    if (operation == EPOLL_CTL_DEL) {
      RemoveNested(instance, i);
    } else {
      instance.nested[i].instance = inner;
      instance.nested[i].events = event->events;
      instance.nested[i].data = event->data.u64;
      instance.nested[i].disabled = instance.nested[i].told = false;
    }
    return true;
  }
  if (operation != EPOLL_CTL_ADD) return true;
  if (count == Instance::kMostNested) return false;
  instance.nested[count] = {inner, fd, event->events, event->data.u64, false, false};
  instance.nested_count.store(count + 1);
  return true;
}

// Whoever sleeps in a set hears of an inner one that was added, or changed, and has something that the kernel does not
// know of.
void TellOfNested(uint32_t inner) {
  if (!EpollAttached(inner) || !EpollReady(inner)) return;
  const Guard guard(inner);
  if (guard) Kick(Pool::InstanceAt(inner));
}

}  // namespace

void EpollCreated(int epfd) {
  for (uint32_t number = 1; number < Pool::kInstances; ++number) {
    Instance& instance = Pool::InstanceAt(number);
    uint32_t free = 0;
    if (instance.used.load(std::memory_order_relaxed) != 0 || !instance.used.compare_exchange_strong(free, 1)) continue;
    instance.epfd = epfd;
    instance.first = instance.last = kNone;
    instance.active = instance.blocked = 0;
    instance.attached.store(0);
    instance.nested_count.store(0);
    instance.kick = 0;
    instance.inherited = instance.watched = false;
    instance.kernel_looked = 0;
    instance.moves = 0;
    instance.patient_until.store(0);
    instance.foreign.store(0);
    instance.plain.Reset();
    instance.inside.Reset();
    instance.unsettled = false;
    instance.retired.store(false);
    instance.lock.Reset();
    instance.descriptors.store(1);
    FdTable::Set(epfd, FdWord(FdWord::kEpoll, number));
    return;
  }
}

void EpollReported(uint32_t number, const epoll_event* events, int n) {
  Instance& instance = Pool::InstanceAt(number);
  for (uint32_t i = 0; i < instance.nested_count.load(); ++i) {
    Instance::Nested& nested = instance.nested[i];
    for (int k = 0; k < n && (nested.events & EPOLLONESHOT) != 0; ++k)
      nested.disabled = nested.disabled || events[k].data.u64 == nested.data;
  }
}

void EpollCopied(uint32_t number) { Pool::InstanceAt(number).descriptors.fetch_add(1); }

void EpollClosed(uint32_t number, int epfd) {
  Instance& instance = Pool::InstanceAt(number);
  if (instance.descriptors.fetch_sub(1) != 1) {
    // Another descriptor of the same set is open.
    for (int fd = 0; instance.epfd == epfd && fd < static_cast<int>(FdTable::kSize) && fd <= epfd + 65536; ++fd) {
      const FdWord word = FdTable::Get(fd);
      if (word.kind() == FdWord::kEpoll && word.index() == number) instance.epfd = fd;
    }
    return;
  }
  const PoolGuard guard;
  instance.inherited = true;  // the set goes as a whole: nothing to remove from it
  LeaveOuterSets(number);
  RemoveKick(instance);
  for (uint32_t index = 1; index < Pool::HighWater(); ++index) {
    if (Pool::At(index).instance == number) Remove(index);
  }
  instance.used.store(0, std::memory_order_release);
}

int EpollControl(uint32_t number, int epfd, int operation, int fd, epoll_event* event) {
  if (EpollRetired(number)) return real.epoll_ctl(epfd, operation, fd, event);
  const FdWord word = FdTable::Get(fd);
  if (word.kind() == FdWord::kEpoll && (operation == EPOLL_CTL_DEL || event != nullptr)) {
    const int result = real.epoll_ctl(epfd, operation, fd, event);
    // Fencing takes the pool's lock and waits, so not under the set's.
    if (result == 0 && !Nest(number, word.index(), operation, fd, event)) DisableProcess(Reason::kEpoll);
    if (result == 0 && operation != EPOLL_CTL_DEL) TellOfNested(word.index());
    return result;
  }
  if (word.kind() != FdWord::kStream || (operation != EPOLL_CTL_DEL && event == nullptr)) {
    const int result = real.epoll_ctl(epfd, operation, fd, event);
    if (result == 0 && operation == EPOLL_CTL_ADD) CountForeign(Pool::InstanceAt(number), 1);
    if (result == 0 && operation == EPOLL_CTL_DEL) CountForeign(Pool::InstanceAt(number), -1);
    return result;
  }
  const uint32_t slot = word.index();
  int result = ControlManaged(number, slot, fd, operation, event);
  if (result <= 0) return result == 0 ? 0 : Failed(result);
  const PoolGuard guard;
  if (!guard) return Failed(-EINTR);
  uint32_t index = Find(number, slot, fd);
  if (index != kNone && Pool::At(index).parked) {
    Remove(index);
    index = kNone;
  }
  if (operation == EPOLL_CTL_ADD && index == kNone) {
    result = Add(number, slot, fd, *event);
  } else if (operation == EPOLL_CTL_MOD && index != kNone) {
    result = Modify(index, *event);
  } else {
    result = real.epoll_ctl(epfd, operation, fd, event) == 0 ? 0 : -errno;
    if (operation == EPOLL_CTL_DEL && index != kNone) Remove(index);
  }
  return result == 0 ? 0 : Failed(result);
}

}  // namespace heterok8s::heterosock
