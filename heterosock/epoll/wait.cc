// Waiting on a set in which some connections lie in shared memory: look at the active items, look at the kernel often
// enough that its descriptors never starve, spin while that pays, then arm everything and sleep in the kernel's own
// wait.
#include "heterosock/epoll/active.h"
#include "heterosock/epoll/guard.h"
#include "heterosock/epoll/inside.h"
#include "heterosock/epoll/item.h"
#include "heterosock/epoll/look.h"
#include "heterosock/epoll/pool.h"
#include "heterosock/epoll/registry.h"
#include "heterosock/lib/process.h"
#include "heterosock/lib/quiet.h"
#include "heterosock/lib/real.h"
#include "heterosock/notify/bell.h"
#include "heterosock/notify/spin.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {
namespace {

static_assert(EPOLLIN == POLLIN && EPOLLOUT == POLLOUT && EPOLLPRI == POLLPRI && EPOLLERR == POLLERR &&
              EPOLLHUP == POLLHUP && EPOLLRDHUP == POLLRDHUP);
constexpr uint64_t kKernelEveryUs = 50;  // while there is always something in shared memory
constexpr uint64_t kForeignEveryUs = 1;  // with others in it (Instance::foreign): what is ready together comes together
constexpr int kRoomForBoth = 8;          // below it the kernel's events and ours take turns at being first
constexpr uint8_t kMostMisses = 16;      // looks that find nothing before an item is armed although the others are busy

void StopWaiting(uint32_t number) {
  Instance& instance = Pool::InstanceAt(number);
  if (!LockInstance(number)) return;
  if (instance.blocked > 0) --instance.blocked;
  instance.lock.Release();
}

class Waiter {
 public:
  Waiter(uint32_t number, int epfd, epoll_event* events, int max)
      : inside_(number),
        number_(number),
        instance_(Pool::InstanceAt(number)),
        epfd_(epfd),
        events_(events),
        max_(max) {}

  int Run(int64_t* const left_ns, const sigset_t* mask) {
    const int64_t timeout_ns = *left_ns;
    const uint64_t end = timeout_ns > 0 ? EndOf(static_cast<uint64_t>(timeout_ns)) : 0;
    for (;;) {
      if (instance_.retired.load()) [[unlikely]] {
        const uint64_t now = timeout_ns > 0 ? Nanoseconds() : 0;
        if (timeout_ns > 0) *left_ns = now < end ? static_cast<int64_t>(end - now) : 0;
        return kEpollRetired;
      }
      const uint64_t patient_until = instance_.patient_until.load(std::memory_order_relaxed);
      if (patient_until != 0 && Nanoseconds() >= patient_until) LookAgain();
      const bool foreign = instance_.foreign.load(std::memory_order_relaxed) != 0;
      const uint64_t every = foreign ? kForeignEveryUs : kKernelEveryUs;
      const bool due = Cycles() - instance_.kernel_looked > every * process.cycles_per_us || timeout_ns == 0;
      instance_.kernel_first = !instance_.kernel_first;
      int n = 0;
      if (due && (instance_.kernel_first || max_ > kRoomForBoth)) n = LookAtKernel(0);
      n += LookAtActive(n);
      // What the kernel had was only for us, or it comes second this time.
      if (due && n < max_ && !(instance_.kernel_first || max_ > kRoomForBoth)) {
        const int active = n;
        n += LookAtKernel(n);
        if (active == 0) n += LookAtActive(n);
      }
      if (n != 0 || timeout_ns == 0) return n;
      if (mask == nullptr && Spin(&n)) return n;
      if (Slots::TheCrowd().moves.load() != instance_.moves) [[unlikely]]
        NoteMoves(number_);
      if (!Arm()) continue;
      n = Block(timeout_ns, end, mask);
      if (n < 0) return n;
      n = AddActive(Translate(events_, n));
      if (n != 0) return n;
      if (timeout_ns > 0 && Nanoseconds() >= end) return 0;
    }
  }

  // The result of a plain wait during which connections moved: our cookies in it are not the program's.
  int Adopt(int n) { return AddActive(Translate(events_, n)); }

 private:
  int AddActive(int n) { return n < 0 ? n : n + LookAtActive(n); }

  // Into the events from `from` on. Returns how many are the program's own.
  int LookAtKernel(int from) {
    instance_.kernel_looked = Cycles();
    const long n = Syscall(SYS_epoll_pwait, epfd_, reinterpret_cast<long>(events_ + from), max_ - from, 0, 0, 8);
    return n <= 0 ? 0 : Translate(events_ + from, static_cast<int>(n));
  }

  // Keeps the program's own events, at the front, and notes what ours mean.
  int Translate(epoll_event* events, int n) {
    if (instance_.nested_count.load(std::memory_order_relaxed) != 0) n = ConfirmNested(events, n);
    int kept = 0;
    while (kept < n && !IsOurs(events[kept])) ++kept;
    if (kept == n) return n;
    const SignalsBlocked quiet;
    const bool locked = Pool::Lock().Acquire();
    for (int i = kept; i < n; ++i) {
      bool bell = false, stale = false;
      const uint32_t index = Pool::FromCookie(events[i].data.u64, &bell, &stale);
      if (index == kNone) {
        events[kept++] = events[i];
        continue;
      }
      if (locked && !stale && index != instance_.kick_item) Note(index, bell, events[i].events);
    }
    if (locked) Pool::Lock().Release();
    return kept;
  }

  // Leaves out inner sets that the kernel calls readable because of something of ours.
  int ConfirmNested(epoll_event* events, int n) {
    int kept = 0;
    for (int i = 0; i < n; ++i) {
      bool false_alarm = false;
      for (uint32_t k = 0; k < instance_.nested_count.load() && !false_alarm; ++k) {
        Instance::Nested& nested = instance_.nested[k];
        if (events[i].data.u64 != nested.data || events[i].events != EPOLLIN) continue;
        false_alarm = EpollTakeRings(nested.instance) && !EpollReady(nested.instance) &&
                      (PollNow(nested.fd, POLLIN) & POLLIN) == 0;
        nested.told = !false_alarm;
        if ((nested.events & EPOLLONESHOT) == 0) continue;
        // The kernel has disabled it with this report, of which the program may not hear.
        if (false_alarm)
          KernelControl(instance_, EPOLL_CTL_MOD, nested.fd, nested.events, nested.data);
        else
          nested.disabled = true;
      }
      if (!false_alarm) events[kept++] = events[i];
    }
    return kept;
  }

  static bool IsOurs(const epoll_event& event) {
    bool bell = false, stale = false;
    return Pool::FromCookie(event.data.u64, &bell, &stale) != kNone;
  }

  void Note(uint32_t index, bool bell, uint32_t events) {
    const uint32_t slot = Pool::At(index).slot;
    if (!bell) {
      Slots::Get(slot).rx.kernel_event.store(1, std::memory_order_relaxed);
    } else {
      LearnWakeCost(Slots::Local(slot).peer().wait.rang_at.load(std::memory_order_relaxed));
      // Emptied at once, as an edge comes only with the first ring of an empty pipe on some kernels (5.5 to 5.13).
      EnterBell(slot);
      LeaveBell(slot);
      if (PeerWaits(slot)) ServePeer(slot, Pool::At(index).fd);
    }
    // The bell is one for all descriptors of the socket, and for other sets that hold it.
    for (uint32_t item = Slots::Local(slot).first_item.load(); item != kNone; item = Pool::At(item).next_of_slot) {
      if (!bell && item != index) continue;
      const uint32_t number = Pool::At(item).instance;
      if (!LockInstance(number)) continue;
      // A ring is no edge by itself: the offset that moved is.
      if (!bell && IsNews(slot, Pool::At(item), events)) Pool::At(item).edge = true;
      if (!bell) Pool::At(item).changed = false;
      Manage(item);
      Pool::InstanceAt(number).lock.Release();
    }
    RemoveParked(number_, slot);
  }

  // What the kernel says of the TCP socket and no counter of Look() shows: room, where somebody else found none; bytes
  // of somebody who does not know of the ring. The first report after a change of the registration is no news.
  static bool IsNews(uint32_t slot, const Item& item, uint32_t events) {
    if ((events & EPOLLPRI) != 0) return true;
    if (item.changed) return false;
    const Slot& state = Slots::Get(slot);
    const LocalChannel& channel = Slots::Local(slot);
    if ((events & kEnds) != 0) return false;
    if ((events & EPOLLIN) == 0) return state.tx.mode.load() != Mode::kRing;
    return state.rx.mode.load() == Mode::kRing && channel.page != nullptr &&
           channel.peer().control.returning.load(std::memory_order_acquire) == 0;
  }

  // `spins`: it is looked at again and again, and what is not ready yet is what this thread waits for.
  int LookAtActive(int from, bool spins = false) {
    if (instance_.active == 0 && instance_.nested_count.load(std::memory_order_relaxed) == 0) return 0;
    if (!LockInstance(number_)) return 0;
    int n = 0;
    uint32_t index = instance_.first;
    for (uint32_t left = instance_.active; left > 0 && index != kNone && from + n < max_; --left) {
      Item& item = Pool::At(index);
      const uint32_t next = item.next;
      const uint32_t ready = Look(item);
      if (ready != 0) {
        if (!Merge(item, ready, from)) {
          events_[from + n].events = ready;
          events_[from + n].data.u64 = item.data;
          ++n;
        }
        item.misses = 0;
        item.impatient = false;
        if (item.events & EPOLLONESHOT) {
          item.disabled = true;
          Deactivate(index);
        } else {
          Rotate(index);
        }
      } else if (!spins && ++item.misses >= kMostMisses) {
        ArmItem(index);
      }
      index = next;
    }
    instance_.lock.Release();
    return n + LookAtNested(from + n);
  }

  // One item is reported once in a call.
  bool Merge(Item& item, uint32_t ready, int from) {
    if (!item.moved_now && item.managed) return false;
    item.moved_now = false;
    for (int i = 0; i < from; ++i) {
      if (events_[i].data.u64 != item.data) continue;
      events_[i].events |= ready;
      return true;
    }
    return false;
  }

  // An inner set has something that the kernel does not know of. Where it does know, the kernel reports it.
  int LookAtNested(int from) {
    int n = 0;
    for (uint32_t i = 0; i < instance_.nested_count.load() && from + n < max_; ++i) {
      Instance::Nested& nested = instance_.nested[i];
      if (!HasNews(nested)) continue;
      nested.told = true;
      bool there = false;
      for (int k = 0; k < from + n; ++k)
        there = there || (events_[k].data.u64 == nested.data && (events_[k].events & EPOLLIN));
      if (there) continue;
      events_[from + n].events = EPOLLIN;
      events_[from + n].data.u64 = nested.data;
      ++n;
      if ((nested.events & EPOLLONESHOT) == 0) continue;
      // The kernel, which did not report it, must not either. (Of an epoll descriptor it has no errors to report.)
      nested.disabled = true;
      KernelControl(instance_, EPOLL_CTL_MOD, nested.fd, 0, nested.data);
    }
    return n;
  }

  // Leaves it to the bell. False when it became ready meanwhile.
  bool ArmItem(uint32_t index) {
    Item& item = Pool::At(index);
    item.patient = ArmBell(item.slot, static_cast<short>(item.events | POLLIN), !item.impatient && MayBePatient(), 1);
    if (item.patient && instance_.patient_until.load(std::memory_order_relaxed) == 0)
      instance_.patient_until.store(Nanoseconds() + bell::kPatienceNs, std::memory_order_relaxed);
    Item copy = item;
    if (Look(copy) != 0) {
      item.misses = 0;
      return false;
    }
    Deactivate(index);
    return true;
  }

  // Whoever sleeps in the set from now on does so no longer than to patient_until; and nobody sleeps in it already.
  bool MayBePatient() const {
    return instance_.blocked == 0 && !instance_.WaitsPlain() && !instance_.watched && !instance_.inherited;
  }

  void LookAgain() {
    if (!LockInstance(number_)) return;
    EndPatience(number_);
    instance_.lock.Release();
  }

  bool Arm() {
    if (!LockInstance(number_)) return true;
    bool all = true;
    uint32_t index = instance_.first;
    while (index != kNone) {
      const uint32_t next = Pool::At(index).next;
      all = ArmItem(index) && all;
      index = next;
    }
    if (all) {
      ++instance_.blocked;
      inside_.Sleeps(true);
    }
    instance_.lock.Release();
    if (all && LookNestedBeforeSleep()) {
      Unblock();
      return false;
    }
    return all;
  }

  // Looked at in any case, which arms what is in it: something new then rings, and the kernel reports that.
  static bool HasNews(Instance::Nested& nested) {
    const bool ready = (nested.events & EPOLLIN) != 0 && !nested.disabled && EpollAttached(nested.instance) &&
                       EpollReady(nested.instance);
    if (!ready) nested.told = false;
    return ready && !((nested.events & EPOLLET) != 0 && nested.told);
  }

  bool LookNestedBeforeSleep() {
    for (uint32_t i = 0; i < instance_.nested_count.load(); ++i) {
      if (HasNews(instance_.nested[i])) return true;
    }
    return false;
  }

  void Unblock() {
    inside_.Sleeps(false);
    StopWaiting(number_);
  }

  int Block(int64_t timeout_ns, uint64_t end, const sigset_t* mask) {
    timespec left = {};
    const uint64_t patient_until = instance_.patient_until.load(std::memory_order_relaxed);
    const bool forever = timeout_ns < 0 && patient_until == 0;
    if (!forever) {
      const uint64_t now = Nanoseconds();
      uint64_t ns = timeout_ns < 0 ? bell::kPatienceNs : now < end ? end - now : 0;
      // Past it only in a signal handler, which could not look again.
      const uint64_t most = patient_until > now ? patient_until - now : bell::kPatienceNs;
      if (patient_until != 0 && ns > most) ns = most;
      left = {static_cast<time_t>(ns / 1000000000u), static_cast<long>(ns % 1000000000u)};
    }
    int n;
    if (forever) {
      n = real.epoll_pwait(epfd_, events_, max_, -1, mask);
    } else {
      n = real.epoll_pwait2(epfd_, events_, max_, &left, mask);
      if (n < 0 && (errno == ENOSYS || errno == EPERM)) {  // before 5.11, or forbidden: whole milliseconds, rounded up
        const int64_t ms = int64_t{left.tv_sec} * 1000 + (left.tv_nsec + 999999) / 1000000;
        n = real.epoll_pwait(epfd_, events_, max_, static_cast<int>(ms < 1'000'000'000 ? ms : 1'000'000'000), mask);
      }
    }
    const int error = errno;
    instance_.kernel_looked = Cycles();
    Unblock();
    errno = error;
    return n;
  }

  bool Spin(int* n) {
    if (instance_.active == 0 || !LockInstance(number_)) return false;
    uint32_t cpu = 0;
    if (instance_.first != kNone) {
      LocalChannel& channel = Slots::Local(Pool::At(instance_.first).slot);
      if (channel.page != nullptr) {
        cpu = channel.peer().wait.cpu.load(std::memory_order_relaxed);
        NoteCpu(channel.own().wait);
      }
    }
    instance_.lock.Release();
    Spinner spinner(cpu);
    uint64_t kernel_due = Cycles() + kKernelEveryUs / 10 * process.cycles_per_us;
    while (spinner.Again()) {
      if (instance_.active == 0) return false;
      *n = LookAtActive(0, true);
      if (*n == 0 && Cycles() > kernel_due) {
        *n = LookAtKernel(0);
        *n += LookAtActive(*n, true);
        kernel_due = Cycles() + kKernelEveryUs / 10 * process.cycles_per_us;
      }
      if (*n == 0) continue;
      spinner.Succeeded();
      return true;
    }
    return false;
  }

  const Inside inside_;
  const uint32_t number_;
  Instance& instance_;
  const int epfd_;
  epoll_event* events_;
  const int max_;
};

}  // namespace

int EpollWait(uint32_t number, int epfd, epoll_event* events, int max, int64_t* timeout_ns, const sigset_t* mask) {
  return Waiter(number, epfd, events, max).Run(timeout_ns, mask);
}

int EpollAdopt(uint32_t number, int epfd, epoll_event* events, int n, int max) {
  return Waiter(number, epfd, events, max).Adopt(n);
}

void EpollLeaveWait() {
  const uint32_t number = thread_state.waits_in;
  thread_state.waits_in = 0;
  Pool::InstanceAt(number).inside.Leave(0);
  if (!thread_state.waits_asleep) return;
  thread_state.waits_asleep = false;
  StopWaiting(number);
}

}  // namespace heterok8s::heterosock
