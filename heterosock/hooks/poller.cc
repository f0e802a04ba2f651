#include "heterosock/hooks/poller.h"

#include <string.h>

#include "heterosock/lib/process.h"
#include "heterosock/lib/real.h"
#include "heterosock/notify/bell.h"
#include "heterosock/notify/spin.h"
#include "heterosock/stream/direction.h"
#include "heterosock/stream/stream.h"

namespace heterok8s::heterosock {
namespace {

constexpr uint64_t kKernelEveryUs = 5;
// How long nobody looks at the sockets of those whose bells are polled in their place: what they alone tell is that the
// other end died.
constexpr uint64_t kSocketsEveryNs = 20'000'000;

// Another thread may close the connection and unmap its channel at any time but under its lock. A signal handler that
// interrupted its thread there does not get it, and needs it as little.

// Where the other end runs, and to it where this one does. False when the channel has gone.
bool NotePlaces(uint32_t index, uint32_t* cpu) {
  const bool locked = LockReceive(index);
  const LocalChannel& channel = Slots::Local(index);
  const bool mapped = channel.page != nullptr;
  if (mapped) {
    *cpu = channel.peer().wait.cpu.load(std::memory_order_relaxed);
    NoteCpu(channel.own().wait);
  }
  if (locked) Slots::Get(index).rx.lock.Release();
  return mapped;
}

// What a sleeper must know of a channel.
struct Glance {
  bool mapped = false;  // it has not gone
  bool serve = false;   // the peer waits for this end to come back to TCP
  bool ended = false;   // the peer has announced its end
  bool copies = false;  // what TCP has is no news
  int bell = -1;
};

// After EnterBell(): who changes any of it afterwards rings.
Glance LookOnce(uint32_t index) {
  Glance seen;
  const bool locked = LockReceive(index);
  const LocalChannel& channel = Slots::Local(index);
  if (channel.page != nullptr) {
    const bool ended = (channel.peer().wait.flags.load() & layout::kFlagFin) != 0;
    const bool copies = locked && CopiesAlone(index, Slots::Get(index).rx.head.load(std::memory_order_relaxed));
    seen = {true, PeerWaits(index), ended, copies, channel.bell_dead ? -1 : channel.own_bell};
  }
  if (locked) Slots::Get(index).rx.lock.Release();
  return seen;
}

}  // namespace

bool Poller::OnlyKernels() const {
  for (nfds_t i = 0; i < count_; ++i) {
    if (KindOf(fds_[i].fd) != Kind::kKernel) return false;
  }
  return true;
}

int Poller::Run(const timespec* timeout, const sigset_t* mask, timespec* left) {
  if (expanded_ == nullptr) {
    errno = ENOMEM;
    return -1;
  }
  const bool forever = timeout == nullptr;
  const uint64_t wait = forever ? 0 : ToNanoseconds(*timeout);
  const uint64_t end = EndOf(wait);
  bool last = !forever && wait == 0;
  bool patient = true;  // the first time: a program that waits for long is left alone
  for (;;) {
    int ready = Look();
    if (ready != 0 || last) return ready;
    if (mask == nullptr && Spin(&ready)) return ready;
    if (!Sleep(forever ? 0 : end, mask, patient)) return -1;
    patient = false;
    const uint64_t now = forever ? 0 : Nanoseconds();
    last = !forever && now >= end;
    if (!OnlyKernels()) continue;
    const uint64_t rest = now < end ? end - now : 0;
    *left = {static_cast<time_t>(rest / 1000000000u), static_cast<long>(rest % 1000000000u)};
    return kKernels;
  }
}

// Everybody's state now. The kernel is asked once for all that is its own.
int Poller::Look() {
  int ready = LookAtOurs();
  bool others = false;
  for (nfds_t i = 0; i < count_; ++i) {
    const Kind kind = KindOf(fds_[i].fd);
    const bool ours = kind == Kind::kRing || (kind == Kind::kEpoll && fds_[i].revents != 0);
    expanded_[i] = {ours ? -1 : fds_[i].fd, fds_[i].events, 0};
    others = others || (!ours && fds_[i].fd >= 0);
  }
  if (!others) return ready;
  const timespec now = {};
  const long n = Syscall(SYS_ppoll, reinterpret_cast<long>(expanded_), static_cast<long>(count_),
                         reinterpret_cast<long>(&now), 0, 8);
  for (nfds_t i = 0; n > 0 && i < count_; ++i) {
    if (expanded_[i].fd < 0 || expanded_[i].revents == 0) continue;
    fds_[i].revents = Confirmed(expanded_[i]);
    ready += fds_[i].revents != 0;
  }
  return ready;
}

// What the kernel said, but for a set that it calls readable because of something of ours.
short Poller::Confirmed(const pollfd& said) {
  const uint32_t set = FdTable::Get(said.fd).index();
  if (KindOf(said.fd) != Kind::kEpoll || (said.revents & POLLIN) == 0 || !EpollTakeRings(set)) return said.revents;
  return EpollReady(set) ? POLLIN : PollNow(said.fd, said.events);
}

int Poller::LookAtOurs() {
  int ready = 0;
  for (nfds_t i = 0; i < count_; ++i) {
    fds_[i].revents = 0;
    const Kind kind = KindOf(fds_[i].fd);
    if (kind == Kind::kRing) {
      fds_[i].revents = Readiness(FdTable::Get(fds_[i].fd).index(), fds_[i].fd, fds_[i].events);
    } else if (kind == Kind::kEpoll && (fds_[i].events & POLLIN) != 0 && EpollReady(FdTable::Get(fds_[i].fd).index())) {
      fds_[i].revents = POLLIN;
    }
    ready += fds_[i].revents != 0;
  }
  return ready;
}

bool Poller::Spin(int* ready) {
  uint32_t cpu = 0;
  bool any = false;
  for (nfds_t i = 0; i < count_ && !any; ++i) {
    if (KindOf(fds_[i].fd) != Kind::kRing) continue;
    any = NotePlaces(FdTable::Get(fds_[i].fd).index(), &cpu);
  }
  if (!any) return false;
  Spinner spinner(cpu);
  uint64_t due = Cycles() + kKernelEveryUs * process.cycles_per_us;
  while (spinner.Again()) {
    *ready = LookAtOurs();
    if (*ready == 0 && Cycles() > due) {
      *ready = Look();
      due = Cycles() + kKernelEveryUs * process.cycles_per_us;
    }
    if (*ready == 0) continue;
    *ready = Look();
    spinner.Succeeded();
    return true;
  }
  return false;
}

// False with errno set when a signal came or the kernel refused.
bool Poller::Sleep(uint64_t end, const sigset_t* mask, bool patient) {
  bool hurry = false, limited = false, rings = false;
  nfds_t n = count_;
  for (nfds_t i = 0; i < count_; ++i) {
    const int fd = fds_[i].fd;
    expanded_[i] = {fd, fds_[i].events, 0};
    const Kind kind = KindOf(fd);
    if (kind == Kind::kCounted) {
      const uint32_t index = FdTable::Get(fd).index();
      Slots::Get(index).rx.calls.Enter();
      if (Slots::Get(index).phase.load(std::memory_order_seq_cst) == Phase::kArmed) hurry = true;
      notes_[n - count_] = {index, Note::kOnTcp, false};
      expanded_[n++] = {-1, 0, 0};
    } else if (kind == Kind::kRing) {
      const uint32_t index = FdTable::Get(fd).index();
      if (EnterBell(index)) EpollPoke(index);
      limited = ArmBell(index, fds_[i].events, patient) || limited;
      rings = true;
      const Glance seen = LookOnce(index);
      if (seen.serve) ServePeer(index, fd);
      // What was closed meanwhile is the kernel's to judge.
      if (!seen.mapped || Readiness(index, fd, fds_[i].events) != 0) hurry = true;
      // What the kernel says of a direction in shared memory is not news: its ends are, and of TCP what is asked.
      short events = 0;
      const bool sends = Slots::Get(index).tx.mode.load() == Mode::kRing;
      if (fds_[i].events & (POLLIN | POLLRDNORM | POLLRDHUP)) events |= POLLRDHUP | (seen.copies ? 0 : POLLIN);
      if (!sends) events |= fds_[i].events & (POLLOUT | POLLWRNORM | POLLWRBAND);
      // An end that was not announced: whether it is a reset depends on what was left unread.
      if (sends && !seen.ended) {
        const bool shut = Slots::Get(index).rx.shut.load(std::memory_order_relaxed) != 0;
        if (!shut) events |= POLLRDHUP;
        limited = limited || shut;  // the kernel says no more when the other end's FIN comes
      }
      expanded_[i].events = events;
      const bool receives = Slots::Get(index).rx.mode.load() == Mode::kRing;
      const bool asks_room = (fds_[i].events & (POLLOUT | POLLWRNORM | POLLWRBAND)) != 0;
      notes_[n - count_] = {index, static_cast<uint32_t>(i), receives && (sends || !asks_room)};
      // Nobody rings for one that is the kernel's in both directions again.
      const bool rings = receives || sends || Slots::Get(index).rx.mode.load() != Mode::kPlain ||
                         Slots::Get(index).tx.mode.load() != Mode::kPlain;
      expanded_[n++] = {rings ? seen.bell : -1, POLLIN, 0};
    } else if (kind == Kind::kEpoll && EpollReady(FdTable::Get(fd).index())) {
      hurry = true;
    }
  }
  if (rings) NoteSleep();
  const int before = errno;
  int result;
  do {
    timespec left = {};
    const bool crowded = crowd_ == Crowd::kBells;
    uint64_t until = end;
    const uint64_t now = (end != 0 || limited || crowded) && !hurry ? Nanoseconds() : 0;
    const uint64_t most = crowded ? kSocketsEveryNs : bell::kPatienceNs;
    if ((limited || crowded) && (end == 0 || end > now + most)) until = now + most;
    if (until != 0 && !hurry) {
      const uint64_t ns = now < until ? until - now : 0;
      left = {static_cast<time_t>(ns / 1000000000u), static_cast<long>(ns % 1000000000u)};
    }
    const timespec* const timeout = until != 0 || hurry ? &left : nullptr;
    result = crowd_ == Crowd::kNone ? real.ppoll(expanded_, n, timeout, mask) : SleepPacked(n, timeout, mask);
  } while (result < 0 && errno == EINVAL && n > count_ && GiveWay());
  const int error = result < 0 ? errno : before;
  for (nfds_t i = count_; i < n; ++i) {
    const uint32_t index = notes_[i - count_].index;
    if (notes_[i - count_].counted()) {
      Slots::Get(index).rx.calls.Leave(0);
      continue;
    }
    LeaveBell(index);
    if (result > 0 && (expanded_[i].revents & (POLLIN | POLLHUP)) == POLLHUP) Slots::Local(index).bell_dead = true;
  }
  for (nfds_t i = 0; result > 0 && i < count_; ++i) {
    if (expanded_[i].revents != 0 && KindOf(fds_[i].fd) == Kind::kRing) {
      Slots::Get(FdTable::Get(fds_[i].fd).index()).rx.kernel_event.store(1, std::memory_order_relaxed);
    }
  }
  errno = error;
  return result >= 0;
}

// The next way to have fewer entries. False: there is none.
bool Poller::GiveWay() {
  if (crowd_ == Crowd::kBells) return false;
  crowd_ = crowd_ == Crowd::kNone ? Crowd::kPacked : Crowd::kBells;
  return true;
}

// Of each connection the bell or the socket stays.
void Poller::LeaveToBells(nfds_t n) {
  for (nfds_t i = count_; i < n; ++i) {
    const Note& note = notes_[i - count_];
    if (!note.counted()) expanded_[note.tells && expanded_[i].fd >= 0 ? note.at : i].fd = -1;
  }
}

// As ppoll() of all `n`, and leaves the answers in the same places.
int Poller::SleepPacked(nfds_t n, const timespec* timeout, const sigset_t* mask) {
  const timespec now = {};
  const long ready = Syscall(SYS_ppoll, reinterpret_cast<long>(expanded_), static_cast<long>(count_),
                             reinterpret_cast<long>(&now), 0, 8);
  if (ready < 0) errno = static_cast<int>(-ready);  // more than may be, without ours too
  if (ready != 0) return ready < 0 ? -1 : static_cast<int>(ready);
  if (crowd_ == Crowd::kBells) LeaveToBells(n);
  const auto bytes = static_cast<long>(n * (sizeof(pollfd) + sizeof(uint32_t)));
  const long memory = Syscall(SYS_mmap, 0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory < 0 && memory > -4096) {
    errno = ENOMEM;
    return -1;
  }
  auto* const packed = reinterpret_cast<pollfd*>(memory);
  auto* const places = reinterpret_cast<uint32_t*>(packed + n);
  nfds_t count = 0;
  for (nfds_t i = 0; i < n; ++i) {
    if (expanded_[i].fd < 0) continue;
    packed[count] = expanded_[i];
    places[count++] = static_cast<uint32_t>(i);
  }
  const int result = real.ppoll(packed, count, timeout, mask);
  const int error = errno;
  for (nfds_t i = 0; i < count && result > 0; ++i) expanded_[places[i]].revents = packed[i].revents;
  Syscall(SYS_munmap, memory, bytes);
  errno = error;
  return result;
}

}  // namespace heterok8s::heterosock
