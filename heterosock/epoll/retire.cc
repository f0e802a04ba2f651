// Sets of a program that gives up system calls: each item goes back to the kernel, as the program registered it.
#include <fcntl.h>

#include "heterosock/epoll/active.h"
#include "heterosock/epoll/guard.h"
#include "heterosock/epoll/item.h"
#include "heterosock/epoll/pool.h"
#include "heterosock/epoll/registry.h"
#include "heterosock/lib/process.h"
#include "heterosock/ofd/slot.h"

namespace heterok8s::heterosock {
namespace {

constexpr uint64_t kLeaveNs = 500'000'000;  // for threads that wait, on a machine with too much to do

bool Done(int result) { return result == 0 || result == -ENOENT || result == -EBADF; }

// A registration is found by descriptor and number (ep_find() in fs/eventpoll.c): where the number was closed the
// socket gets it back for a moment. False when it is another's by now.
bool RestoreClosed(const Item& item, const Instance& instance, uint32_t events) {
  const int number = ~item.registered;
  const long fd = Syscall(SYS_fcntl, item.fd, F_DUPFD_CLOEXEC, number);
  if (fd < 0) return false;
  const bool done = fd == number && Done(KernelControl(instance, EPOLL_CTL_MOD, number, events, item.data));
  Syscall(SYS_close, fd);
  return done;
}

// The kernel looks anew at what is registered, and reports it once more where it is edge-triggered.
bool Restore(const Item& item, const Instance& instance) {
  // One that has fired hears of nothing until it is changed. The kernel adds EPOLLERR and EPOLLHUP by itself.
  const uint32_t events = item.disabled ? item.events & (EPOLLONESHOT | EPOLLET) : item.events;
  if (item.registered < 0) return RestoreClosed(item, instance, events);
  if ((events & EPOLLEXCLUSIVE) == 0) return Done(KernelControl(instance, EPOLL_CTL_MOD, item.fd, events, item.data));
  KernelControl(instance, EPOLL_CTL_DEL, item.fd, 0, 0);
  return Done(KernelControl(instance, EPOLL_CTL_ADD, item.fd, events, item.data));
}

// Another process waits in the set by its own view of it. One that has gone, and none of whose connections are in it,
// does not.
bool Shared(uint32_t number) {
  const Instance& instance = Pool::InstanceAt(number);
  if (!instance.inherited) return false;
  const long parent = Syscall(SYS_getppid);
  bool shared = parent == 0 || parent == static_cast<long>(process.parent);  // 0: in another PID namespace
  for (uint32_t index = 1; !shared && index < Pool::HighWater(); ++index) {
    const Item& item = Pool::At(index);
    shared = item.instance == number && index != instance.kick_item && !Slots::Alone(Slots::Get(item.slot));
  }
  return shared;
}

// What GiveBack() does for an item of this set; the one that kicks is no connection's.
bool Belongs(uint32_t index, uint32_t number) {
  const Instance& instance = Pool::InstanceAt(number);
  return Pool::At(index).instance == number && !(instance.kick > 0 && index == instance.kick_item);
}

// A number that was closed is needed once more, and may be another file's.
bool Restorable(uint32_t number) {
  for (uint32_t index = 1; index < Pool::HighWater(); ++index) {
    const Item& item = Pool::At(index);
    if (!Belongs(index, number) || !item.managed || item.parked || item.registered >= 0) continue;
    if (Syscall(SYS_fcntl, ~item.registered, F_GETFD) >= 0) return false;
  }
  return true;
}

// With the pool's lock held. All or nothing: whoever has seen that the set is the kernel's goes to sleep there.
void GiveBack(uint32_t number) {
  if (!Restorable(number)) return;
  Instance& instance = Pool::InstanceAt(number);
  instance.inherited = false;
  instance.retired.store(true);  // before the first goes: whoever finds none of ours asks for this
  for (uint32_t index = 1; index < Pool::HighWater(); ++index) {
    Item& item = Pool::At(index);
    if (!Belongs(index, number)) continue;
    if (item.managed && !item.parked) {
      const Guard guard(number);
      if (!guard || !Restore(item, instance)) {
        instance.retired.store(false);  // another thread has taken the number since
        return;
      }
      item.managed = false;
      instance.Detach();
      CountForeign(instance, 1);
    }
    Remove(index);
  }
}

// Where the kernel refuses to settle the count, nobody knows: then for as long as there is.
bool Occupied(const Instance& instance, uint32_t mine) {
  return !instance.inside.Settle() || instance.inside.inside() > mine;
}

// Wakes who waits in the set until nobody does but this thread, in a signal handler. A kick is one thread's.
void Empty(uint32_t number, uint64_t until) {
  Instance& instance = Pool::InstanceAt(number);
  const uint32_t mine = thread_state.waits_in == number ? 1 : 0;
  while (instance.retired.load() && Occupied(instance, mine) && Nanoseconds() < until) {
    Kick(instance);
    sched_yield();
  }
}

}  // namespace

bool EpollRetired(uint32_t number) { return Pool::InstanceAt(number).retired.load(); }

int EpollWithoutOurs(epoll_event* events, int n) {
  int kept = 0;
  for (int i = 0; i < n; ++i) {
    bool bell = false, stale = false;
    if (Pool::FromCookie(events[i].data.u64, &bell, &stale) == kNone) events[kept++] = events[i];
  }
  return kept;
}

void EpollRetireAll() {
  const auto for_each = [](auto&& function) {
    for (uint32_t number = 1; number < Pool::kInstances; ++number) {
      if (Pool::InstanceAt(number).used.load() != 0) function(number);
    }
  };
  {
    const PoolGuard guard;
    if (!guard) return;
    for_each([](uint32_t number) {
      if (!Shared(number)) GiveBack(number);
    });
  }
  const uint64_t until = Nanoseconds() + kLeaveNs;
  for_each([until](uint32_t number) { Empty(number, until); });
  const PoolGuard guard;
  for_each([&guard](uint32_t number) {
    Instance& instance = Pool::InstanceAt(number);
    if (!guard || !instance.retired.load() || instance.kick <= 0) return;
    KernelControl(instance, EPOLL_CTL_DEL, instance.kick, 0, 0);  // a child may have it open
    RemoveKick(instance);
  });
}

}  // namespace heterok8s::heterosock
