// The registrations of this process and the instances they belong to: fixed arrays with free lists.
// Threading: see the members; RegistryLock guards allocation and the per-slot lists.
#pragma once

#include <stdint.h>
#include <sys/epoll.h>

#include <atomic>

#include "heterosock/ofd/call_count.h"
#include "heterosock/ofd/lock.h"

namespace heterok8s::heterosock {

inline constexpr uint32_t kNone = 0;  // index 0 is never handed out
inline constexpr uint32_t kEnds = EPOLLRDHUP | EPOLLHUP | EPOLLERR;

struct Item {
  uint32_t instance = 0;
  uint32_t slot = 0;
  int fd = 0;          // a descriptor of the socket that is open
  int registered = 0;  // the number that epoll_ctl knows it by; ~number when that was closed and a duplicate keeps it
  uint32_t events = 0;
  uint64_t data = 0;
  uint64_t seen_tail = 0;  // edge triggered: what was reported
  uint64_t seen_tcp = 0;   // ArrivedOverTcp()
  uint32_t seen_full = 0;
  uint32_t seen_ends = 0;  // of the kernel's RDHUP, HUP and ERR
  uint32_t next_of_slot = kNone;
  uint32_t previous = kNone;  // in the instance's active list
  uint32_t next = kNone;
  uint8_t generation = 0;
  bool managed = false;   // the kernel's registration is ours
  bool with_out = false;  // it asks for EPOLLOUT: the direction is on TCP
  bool has_bell = false;  // the bell's registration names this item
  bool active = false;
  bool moved_now = false;  // became ours just now: the kernel may have reported it in the same call
  bool edge = false;
  bool changed = false;    // our change of the registration makes the kernel report it once
  bool disabled = false;   // EPOLLONESHOT has fired
  bool parked = false;     // the program removed it; the kernel's registration, which is ours, is still there
  bool patient = false;    // armed so that the peer may leave us asleep until Instance::patient_until
  bool impatient = false;  // nothing came while it was: armed for good until something does
  uint8_t misses = 0;      // looks in a row that found nothing
};

struct Instance {
  static constexpr int kMostNested = 8;
  SharedLock lock;
  std::atomic<uint32_t> used{0};
  std::atomic<uint32_t> descriptors{0};
  std::atomic<uint32_t> attached{0};  // items with a bell or a managed registration: 0 means plain epoll
  int epfd = 0;
  uint32_t first = kNone;  // active items
  uint32_t last = kNone;
  uint32_t active = 0;
  uint32_t blocked = 0;              // threads inside the kernel's wait
  CallCount inside;                  // threads in a wait that is ours
  std::atomic<bool> retired{false};  // given back to the kernel: who waits goes on there
  CallCount plain;                   // threads in a wait that began before anything was attached: Attach() settles it
  bool unsettled = false;            // it could not: there may be some
  int kick = 0;                      // an eventfd in the set, made with the first bell: wakes them. 0: none
  uint32_t kick_item = kNone;
  bool inherited = false;  // shared with the process that forked us
  bool watched = false;    // by another set or by poll(): then the kernel's view of it must have nothing of ours left
  std::atomic<uint64_t> patient_until{0};  // nanoseconds; 0: no item is patient. Nobody sleeps beyond it
  uint64_t kernel_looked = 0;
  uint32_t moves = 0;         // Crowd::moves, when the items were looked through for it
  bool kernel_first = false;  // taking turns, so that a small `maxevents` starves neither
  // Registrations of which the kernel alone knows: connections on TCP, and what is none. Too many when some of the
  // latter were closed.
  std::atomic<uint32_t> foreign{0};
  std::atomic<uint32_t> nested_count{0};
  struct Nested {
    uint32_t instance;
    int fd;
    uint32_t events;
    uint64_t data;
    bool disabled;  // EPOLLONESHOT has fired
    bool told;      // reported, and ready ever since: EPOLLET reports only what is new, which rings a bell
  } nested[kMostNested] = {};

  // One more registration is ours. A wait that begins from here on sees it, and of those that began before the count
  // holds. With the pool's lock held.
  void Attach() {
    if (attached.fetch_add(1) == 0 && !plain.Settle()) unsettled = true;
  }
  void Detach() { attached.fetch_sub(1); }
  bool WaitsPlain() const { return unsettled || plain.inside() != 0; }
};

class Pool {
 public:
  static constexpr uint32_t kItems = 1 << 17;
  static constexpr uint32_t kInstances = 4096;

  static Item& At(uint32_t index) { return items_[index]; }
  static Instance& InstanceAt(uint32_t number) { return instances_[number]; }
  static SharedLock& Lock() { return lock_; }
  static uint32_t HighWater() { return fresh_; }  // no index from here on was ever in use

  // With the lock held.
  static uint32_t Take();
  static void Give(uint32_t index);

  // Cookies: the private data of registrations that are ours. A program's own data equals one with probability 2^-40.
  static uint64_t Cookie(uint32_t index, bool bell);
  // kNone when the data is the program's own; `stale` when it names an item that is gone.
  static uint32_t FromCookie(uint64_t data, bool* bell, bool* stale);

 private:
  static Item items_[kItems];
  static Instance instances_[kInstances];
  static SharedLock lock_;
  static uint32_t free_;
  static uint32_t fresh_;
  static uint64_t secret_;
};

}  // namespace heterok8s::heterosock
