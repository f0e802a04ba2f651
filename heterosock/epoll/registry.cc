// Registrations: what epoll_ctl says, and what arming and moving a connection do to it. Waiting is in wait.cc.
#include "heterosock/epoll/registry.h"

#include <string.h>
#include <sys/eventfd.h>

#include "heterosock/epoll/active.h"
#include "heterosock/epoll/pool.h"
#include "heterosock/lib/hidden_fd.h"
#include "heterosock/lib/process.h"
#include "heterosock/lib/quiet.h"
#include "heterosock/lib/real.h"
#include "heterosock/lib/trace.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {
namespace {

// The pool's lock, with signals blocked: a registration that is half done cannot be put right.
class PoolGuard {
 public:
  PoolGuard() : held_(Pool::Lock().Acquire()) {}
  ~PoolGuard() {
    if (held_) Pool::Lock().Release();
  }
  explicit operator bool() const { return held_; }

 private:
  const SignalsBlocked quiet_;
  bool held_;
};

class Guard {
 public:
  explicit Guard(uint32_t instance) : lock_(Pool::InstanceAt(instance).lock), held_(LockInstance(instance)) {}
  ~Guard() {
    if (held_) lock_.Release();
  }
  // False in a signal handler that interrupted us: then nothing may be touched.
  explicit operator bool() const { return held_; }

 private:
  SharedLock& lock_;
  bool held_;
};

uint32_t Find(uint32_t number, uint32_t slot, int fd) {
  for (uint32_t index = Slots::Local(slot).first_item.load(); index != kNone; index = Pool::At(index).next_of_slot) {
    if (Pool::At(index).instance == number && Pool::At(index).registered == fd) return index;
  }
  return kNone;
}

int KernelControl(const Instance& instance, int operation, int fd, uint32_t events, uint64_t data) {
  epoll_event event = {};
  event.events = events;
  event.data.u64 = data;
  return static_cast<int>(Syscall(SYS_epoll_ctl, instance.epfd, operation, fd, reinterpret_cast<long>(&event)));
}

// Edge triggered, so that a condition that lasts (writable, closed) is told once; we remember it.
uint32_t ManagedEvents(uint32_t slot) {
  const bool with_out = Slots::Get(slot).tx.mode.load(std::memory_order_relaxed) != Mode::kRing;
  return EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET | (with_out ? EPOLLOUT : 0u);
}

// With the registry lock held. A child makes a kick of its own: its parent's would wake the parent.
bool AddKick(Instance& instance, uint32_t number) {
  if (instance.kick > 0) return true;
  const uint32_t index = Pool::Take();
  if (index == kNone) return false;
  const int kick = HideFd(static_cast<int>(Syscall(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK)));
  Pool::At(index).instance = number;
  if (kick < 0 || KernelControl(instance, EPOLL_CTL_ADD, kick, EPOLLIN | EPOLLET, Pool::Cookie(index, true)) != 0) {
    CloseHidden(kick);
    Pool::Give(index);
    return false;
  }
  instance.kick = kick;
  instance.kick_item = index;
  return true;
}

void RemoveKick(Instance& instance) {
  if (instance.kick <= 0) return;
  CloseHidden(instance.kick);
  Pool::Give(instance.kick_item);
  instance.kick = 0;
  instance.kick_item = kNone;
}

bool AddBell(uint32_t index) {
  Item& item = Pool::At(index);
  Instance& instance = Pool::InstanceAt(item.instance);
  if (!AddKick(instance, item.instance)) return false;
  // An old ring would look like news.
  EnterBell(item.slot);
  LeaveBell(item.slot);
  const int result = KernelControl(instance, EPOLL_CTL_ADD, Slots::Local(item.slot).own_bell, EPOLLIN | EPOLLET,
                                   Pool::Cookie(index, true));
  if (result == -EEXIST) return true;  // another descriptor of the same socket is in this set
  if (result != 0) return false;
  item.has_bell = true;
  instance.attached.fetch_add(1);
  return true;
}

void RemoveBell(uint32_t index) {
  Item& item = Pool::At(index);
  if (!item.has_bell) return;
  Instance& instance = Pool::InstanceAt(item.instance);
  item.has_bell = false;
  instance.attached.fetch_sub(1);
  if (instance.inherited) return;
  KernelControl(instance, EPOLL_CTL_DEL, Slots::Local(item.slot).own_bell, 0, 0);
  for (uint32_t other = Slots::Local(item.slot).first_item.load(); other != kNone;
       other = Pool::At(other).next_of_slot) {
    if (other != index && Pool::At(other).instance == item.instance && AddBell(other)) break;
  }
}

// An edge-triggered item was the kernel's until now: what is here was told, unless it was about to be. The kernel says
// only of the set as a whole whether something is; then this item may be reported once more. What comes after these
// looks differs from them.
void NoteWhatWasTold(Item& item, const Instance& instance) {
  item.seen_tcp = ArrivedOverTcp(item.slot, item.fd);
  item.seen_ends = static_cast<uint16_t>(PollNow(item.fd, POLLRDHUP)) & kEnds;
  item.edge = (item.events & EPOLLET) == 0 || PollNow(instance.epfd, POLLIN) != 0;
}

}  // namespace

void Manage(uint32_t index) {
  Item& item = Pool::At(index);
  Instance& instance = Pool::InstanceAt(item.instance);
  const uint32_t events = ManagedEvents(item.slot);
  const bool with_out = (events & EPOLLOUT) != 0;
  if ((!item.managed || item.with_out != with_out) && item.registered >= 0) {
    if (!item.managed) NoteWhatWasTold(item, instance);
    if (KernelControl(instance, EPOLL_CTL_MOD, item.fd, events, Pool::Cookie(index, false)) != 0) return;
    item.changed = true;
    if (!item.managed) {
      instance.attached.fetch_add(1);
      item.moved_now = true;
    }
    item.managed = true;
    item.with_out = with_out;
  }
  Activate(index);
}

namespace {

// With the registry lock held.
void Remove(uint32_t index) {
  Item& item = Pool::At(index);
  const Guard guard(item.instance);
  Instance& instance = Pool::InstanceAt(item.instance);
  RemoveBell(index);
  Deactivate(index);
  if (item.managed) instance.attached.fetch_sub(1);
  LocalChannel& channel = Slots::Local(item.slot);
  uint32_t link = channel.first_item.load();
  if (link == index) {
    channel.first_item.store(item.next_of_slot);
  } else {
    while (link != kNone && Pool::At(link).next_of_slot != index) link = Pool::At(link).next_of_slot;
    if (link != kNone) Pool::At(link).next_of_slot = item.next_of_slot;
  }
  channel.items.fetch_sub(1);
  Pool::Give(index);
}

int Failed(int result) {
  errno = -result;
  return -1;
}

int Add(uint32_t number, uint32_t slot, int fd, const epoll_event& event) {
  Instance& instance = Pool::InstanceAt(number);
  LocalChannel& channel = Slots::Local(slot);
  const uint32_t index = Pool::Take();
  const bool moved = channel.page != nullptr && Slots::Get(slot).phase.load() == Phase::kArmed;
  if (index == kNone || (!moved && (event.events & EPOLLEXCLUSIVE) != 0)) {
    // EPOLLEXCLUSIVE registrations cannot be changed later, so the connection stays where it is.
    if (index != kNone) Pool::Give(index);
    if (moved) return -ENOMEM;
    StayOnTcp(Slots::Get(slot), Reason::kEpoll);
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
  const int result = KernelControl(instance, EPOLL_CTL_ADD, fd, moved ? ManagedEvents(slot) : event.events,
                                   moved ? Pool::Cookie(index, false) : event.data.u64);
  if (result != 0) {
    Pool::Give(index);
    return result;
  }
  item.next_of_slot = channel.first_item.load();
  channel.first_item.store(index);
  channel.items.fetch_add(1);
  if (!moved) return 0;
  const Guard guard(number);
  item.managed = true;
  item.with_out = (ManagedEvents(slot) & EPOLLOUT) != 0;
  item.changed = true;
  instance.attached.fetch_add(1);
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
    Activate(index);
  }
  return 0;
}

void Nest(uint32_t number, uint32_t inner, int operation, int fd, const epoll_event* event) {
  const Guard guard(number);
  Instance& instance = Pool::InstanceAt(number);
  uint32_t count = instance.nested_count.load();
  for (uint32_t i = 0; i < count; ++i) {
    if (instance.nested[i].fd != fd) continue;
    if (operation == EPOLL_CTL_DEL) {
      instance.nested[i] = instance.nested[count - 1];
      instance.nested_count.store(count - 1);
    } else {
      instance.nested[i].events = event->events;
      instance.nested[i].data = event->data.u64;
    }
    return;
  }
  if (operation != EPOLL_CTL_ADD) return;
  if (count == Instance::kMostNested) {
    DisableProcess(Reason::kEpoll);
    return;
  }
  instance.nested[count] = {inner, fd, event->events, event->data.u64};
  instance.nested_count.store(count + 1);
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
    instance.inherited = false;
    instance.kernel_looked = 0;
    instance.foreign.store(0);
    instance.plain.store(0);
    instance.lock.Reset();
    instance.descriptors.store(1);
    FdTable::Set(epfd, FdWord(FdWord::kEpoll, number));
    return;
  }
}

void EpollPlainWait(uint32_t number, int change) {
  Pool::InstanceAt(number).plain.fetch_add(static_cast<uint32_t>(change));
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
  RemoveKick(instance);
  for (uint32_t index = 1; index < Pool::HighWater(); ++index) {
    if (Pool::At(index).instance == number) Remove(index);
  }
  instance.used.store(0, std::memory_order_release);
}

int EpollControl(uint32_t number, int epfd, int operation, int fd, epoll_event* event) {
  const FdWord word = FdTable::Get(fd);
  if (word.kind() == FdWord::kEpoll && event != nullptr) {
    const int result = real.epoll_ctl(epfd, operation, fd, event);
    if (result == 0) Nest(number, word.index(), operation, fd, event);
    return result;
  }
  if (word.kind() != FdWord::kStream || (operation != EPOLL_CTL_DEL && event == nullptr)) {
    const int result = real.epoll_ctl(epfd, operation, fd, event);
    std::atomic<uint32_t>& foreign = Pool::InstanceAt(number).foreign;
    if (result == 0 && operation == EPOLL_CTL_ADD) foreign.fetch_add(1);
    if (result == 0 && operation == EPOLL_CTL_DEL && foreign.load() > 0) foreign.fetch_sub(1);
    return result;
  }
  const PoolGuard guard;
  if (!guard) return Failed(-EINTR);
  const uint32_t slot = word.index();
  const uint32_t index = Find(number, slot, fd);
  int result = 0;
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
  for (uint32_t index = Slots::Local(slot).first_item.load(); guard && index != kNone;
       index = Pool::At(index).next_of_slot) {
    Item& item = Pool::At(index);
    if (!item.has_bell) continue;
    item.has_bell = false;
    Instance& instance = Pool::InstanceAt(item.instance);
    instance.attached.fetch_sub(1);
    if (!instance.inherited) KernelControl(instance, EPOLL_CTL_DEL, Slots::Local(slot).own_bell, 0, 0);
  }
}

void EpollForget(uint32_t slot) {
  if (Slots::Local(slot).items.load() == 0) return;
  const PoolGuard guard;
  while (guard && Slots::Local(slot).first_item.load() != kNone) Remove(Slots::Local(slot).first_item.load());
}

void EpollMoveFd(uint32_t slot, int closing, int other) {
  if (Slots::Local(slot).items.load() == 0) return;
  const PoolGuard guard;
  for (uint32_t index = Slots::Local(slot).first_item.load(); guard && index != kNone;
       index = Pool::At(index).next_of_slot) {
    if (Pool::At(index).registered == closing) Pool::At(index).registered = -1;
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
    instance.plain.store(0);
  }
}

}  // namespace heterok8s::heterosock
