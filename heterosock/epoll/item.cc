#include "heterosock/epoll/item.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "heterosock/epoll/active.h"
#include "heterosock/epoll/guard.h"
#include "heterosock/epoll/pool.h"
#include "heterosock/lib/hidden_fd.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {

int KernelControl(const Instance& instance, int operation, int fd, uint32_t events, uint64_t data) {
  epoll_event event = {};
  event.events = events;
  event.data.u64 = data;
  return static_cast<int>(Syscall(SYS_epoll_ctl, instance.epfd, operation, fd, reinterpret_cast<long>(&event)));
}

uint32_t ManagedEvents(const Item& item) {
  const bool on_tcp = Slots::Get(item.slot).tx.mode.load(std::memory_order_relaxed) != Mode::kRing;
  return EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET | (on_tcp ? item.events & EPOLLOUT : 0u);
}

namespace {

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

}  // namespace

void CountForeign(Instance& instance, int change) {
  if (change > 0) {
    instance.foreign.fetch_add(1);
    return;
  }
  uint32_t count = instance.foreign.load();
  while (count > 0 && !instance.foreign.compare_exchange_weak(count, count - 1)) {
  }
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
  if (Slots::Local(item.slot).bell_dead) return true;
  // An old ring would look like news; to other sets it may be.
  const bool emptied = EnterBell(item.slot);
  LeaveBell(item.slot);
  for (uint32_t other = Slots::Local(item.slot).first_item.load(); emptied && other != kNone;
       other = Pool::At(other).next_of_slot) {
    if (Pool::At(other).instance == item.instance) continue;
    const Guard guard(Pool::At(other).instance);
    if (guard) Manage(other);
  }
  instance.Attach();  // before the kernel can report the cookie
  const int result = KernelControl(instance, EPOLL_CTL_ADD, Slots::Local(item.slot).own_bell, EPOLLIN | EPOLLET,
                                   Pool::Cookie(index, true));
  if (result != 0) {
    instance.Detach();
    return result == -EEXIST;  // another descriptor of the same socket is in this set
  }
  item.has_bell = true;
  return true;
}

void ForgetBell(uint32_t slot) {
  for (uint32_t index = Slots::Local(slot).first_item.load(); index != kNone; index = Pool::At(index).next_of_slot) {
    Item& item = Pool::At(index);
    if (!item.has_bell) continue;
    item.has_bell = false;
    Instance& instance = Pool::InstanceAt(item.instance);
    instance.Detach();
    if (!instance.inherited) KernelControl(instance, EPOLL_CTL_DEL, Slots::Local(slot).own_bell, 0, 0);
  }
}

namespace {

void RemoveBell(uint32_t index) {
  Item& item = Pool::At(index);
  if (!item.has_bell) return;
  Instance& instance = Pool::InstanceAt(item.instance);
  item.has_bell = false;
  instance.Detach();
  if (instance.inherited) return;
  KernelControl(instance, EPOLL_CTL_DEL, Slots::Local(item.slot).own_bell, 0, 0);
  for (uint32_t other = Slots::Local(item.slot).first_item.load(); other != kNone;
       other = Pool::At(other).next_of_slot) {
    if (other != index && Pool::At(other).instance == item.instance && AddBell(other)) break;
  }
}

// A number after blanks, behind which `at` points then.
long Number(const char*& at, int base) {
  while (*at == ' ') ++at;
  char* end = nullptr;
  const long number = strtol(at, &end, base);
  at = end;
  return number;
}

// One line of fdinfo: "tfd: FD events: MASK data: ...". True when it is of this descriptor and has no condition left.
bool SaysFired(const char* line, int fd) {
  constexpr char kDescriptor[] = "tfd:", kEvents[] = " events:";
  if (strncmp(line, kDescriptor, sizeof kDescriptor - 1) != 0) return false;
  line += sizeof kDescriptor - 1;
  if (Number(line, 10) != fd || strncmp(line, kEvents, sizeof kEvents - 1) != 0) return false;
  line += sizeof kEvents - 1;
  return (Number(line, 16) & (EPOLLERR | EPOLLHUP)) == 0;
}

// Whether the kernel has reported a registration with EPOLLONESHOT and so disabled it: nobody noted that while it was
// the kernel's alone. It then has none of its conditions, not even EPOLLERR and EPOLLHUP, which every other one has
// (ep_send_events() and ep_insert() in fs/eventpoll.c), and fdinfo shows them (proc_pid_fdinfo(5)). Without /proc it
// counts as not reported.
bool HasFired(int epfd, int fd) {
  char path[40], text[1024], line[48];
  snprintf(path, sizeof path, "/proc/self/fdinfo/%d", epfd);
  const long file = Syscall(SYS_openat, AT_FDCWD, reinterpret_cast<long>(path), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  bool fired = false;
  size_t length = 0;
  for (long n = 1; n > 0 && !fired;) {
    n = Syscall(SYS_read, file, reinterpret_cast<long>(text), sizeof text);
    for (long i = 0; i < n && !fired; ++i) {
      if (text[i] == '\n') {
        line[length] = '\0';
        fired = SaysFired(line, fd);
        length = 0;
      } else if (length < sizeof line - 1) {
        line[length++] = text[i];
      }
    }
  }
  Syscall(SYS_close, file);
  return fired;
}

// An edge-triggered item was the kernel's until now: what is here was told, unless it was about to be. The kernel says
// only of the set as a whole whether something is; then this item may be reported once more. What comes after these
// looks differs from them.
void NoteWhatWasTold(Item& item, const Instance& instance) {
  item.seen_tcp = ArrivedOverTcp(item.slot, item.fd);
  item.seen_ends = static_cast<uint16_t>(PollNow(item.fd, POLLRDHUP)) & kEnds;
  if ((item.events & EPOLLONESHOT) != 0 && HasFired(instance.epfd, item.registered)) item.disabled = true;
  item.edge = (item.events & EPOLLET) == 0 || PollNow(instance.epfd, POLLIN) != 0;
}

}  // namespace

void Manage(uint32_t index, bool kick) {
  Item& item = Pool::At(index);
  if (item.parked) return;
  Instance& instance = Pool::InstanceAt(item.instance);
  const uint32_t events = ManagedEvents(item);
  const bool with_out = (events & EPOLLOUT) != 0;
  if ((!item.managed || item.with_out != with_out) && item.registered >= 0) {
    if (!item.managed) {
      NoteWhatWasTold(item, instance);
      instance.Attach();
    }
    if (KernelControl(instance, EPOLL_CTL_MOD, item.fd, events, Pool::Cookie(index, false)) != 0) {
      if (!item.managed) instance.Detach();
      return;
    }
    item.changed = true;
    if (!item.managed) {
      CountForeign(instance, -1);
      item.moved_now = true;
    }
    item.managed = true;
    item.with_out = with_out;
  }
  Activate(index, kick);
}

void Remove(uint32_t index) {
  Item& item = Pool::At(index);
  const Guard guard(item.instance);
  Instance& instance = Pool::InstanceAt(item.instance);
  RemoveBell(index);
  Deactivate(index);
  if (item.parked && item.registered >= 0 && !instance.inherited) KernelControl(instance, EPOLL_CTL_DEL, item.fd, 0, 0);
  if (item.managed)
    instance.Detach();
  else
    CountForeign(instance, -1);
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

void Park(uint32_t index) {
  const Guard guard(Pool::At(index).instance);
  Pool::At(index).parked = true;
  Deactivate(index);
}

bool Unpark(uint32_t index, const epoll_event& event) {
  Item& item = Pool::At(index);
  if ((event.events & EPOLLEXCLUSIVE) != 0) return false;
  const Guard guard(item.instance);
  item.events = event.events;
  const bool with_out = (ManagedEvents(item) & EPOLLOUT) != 0;
  if (item.with_out != with_out) return false;  // the caller removes the item
  item.data = event.data.u64;
  item.disabled = item.parked = item.moved_now = false;
  item.edge = true;
  Activate(index);
  return true;
}

void RemoveParked(uint32_t number, uint32_t slot) {
  const auto remove = [number](uint32_t index) {
    if (Pool::At(index).parked && Pool::At(index).instance == number) Remove(index);
  };
  if (slot == kEverySlot) {
    for (uint32_t index = 1; index < Pool::HighWater(); ++index) remove(index);
    return;
  }
  for (uint32_t index = Slots::Local(slot).first_item.load(); index != kNone;) {
    const uint32_t next = Pool::At(index).next_of_slot;
    remove(index);
    index = next;
  }
}

}  // namespace heterok8s::heterosock
