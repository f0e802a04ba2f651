// Sleeping and waking across processes without losing a wake-up: an eventcount whose words each have one writer.
//
// The proof in short. The sleeper stores an odd value S, fences, then looks at the peer's offset; the waker stores the
// offset, fences, then looks at S. One of the two looks comes second in the order of the fences and sees the other's
// store: either the sleeper does not sleep or the waker rings. A value is rung for once; each sleep uses a new one.
//
// Who publishes a part of something may leave a patient receiver asleep (ArmReceiver, LeaveAsleep): it looks again by
// itself, and what it arms before it sleeps without a limit is another value, with the same proof.
//
// Several sleepers of one side (threads, or processes after fork; readers and writers) share the bell. It stays rung
// until all of them are awake: only who goes to sleep alone empties it (EnterBell in stream/). Nobody disarms: a value
// that was armed and not slept on costs one ring for nothing.
//
// Threading: the word and its private copy are guarded by the lock of the direction.
#pragma once

#include <signal.h>
#include <unistd.h>

#include "heterosock/layout/channel.h"
#include "heterosock/lib/machine.h"

namespace heterok8s::heterosock::bell {

// The value after which a ring is due again; the caller must look at the condition after this.
inline void Arm(layout::Shared<uint32_t>& word, uint32_t& mine) {
  mine = (mine + 1) | 1;
  word.store(mine, std::memory_order_release);
  FullFence();
}

// How long a patient receiver sleeps at most: for so long TCP keeps bytes of a corked socket (tcp(7), TCP_CORK).
inline constexpr uint64_t kPatienceNs = 200'000'000;

// As Arm(). `patient`: this thread looks again within kPatienceNs, whatever happens, and arms anew before it sleeps on;
// until then the peer may leave it asleep. Only when it is the one that would be woken.
inline void ArmReceiver(layout::WaitLine& own, uint32_t& mine, bool patient) {
  own.rx_patient.store(patient ? (mine + 1) | 1 : 0, std::memory_order_relaxed);
  Arm(own.rx_sleep, mine);
}

// A bell is a pipe, and this the end of it that is rung. Where that end can be read as well, the pipe has a reader for
// as long as we have it.
struct Ringer {
  int fd = 0;
  bool reads = false;
};

// Ringing a full one is not needed (EAGAIN); ringing one that nobody can read any more raises SIGPIPE, which must not
// reach the program: it is blocked for the call and taken back.
inline void Ring(Ringer bell) {
  constexpr uint64_t kSigpipe = uint64_t{1} << (SIGPIPE - 1);
  const uint64_t message = 1;
  uint64_t before = 0, waiting = 0;
  if (bell.reads) [[likely]] {
    Syscall(SYS_write, bell.fd, reinterpret_cast<long>(&message), sizeof message);
    return;
  }
  Syscall(SYS_rt_sigprocmask, SIG_BLOCK, reinterpret_cast<long>(&kSigpipe), reinterpret_cast<long>(&before), 8);
  // Blocked already (by the program, or lib/quiet.h), one may be waiting that is not ours.
  if (before & kSigpipe) Syscall(SYS_rt_sigpending, reinterpret_cast<long>(&waiting), 8);
  const long result = Syscall(SYS_write, bell.fd, reinterpret_cast<long>(&message), sizeof message);
  if (result == -EPIPE && !(waiting & kSigpipe)) {
    const timespec now = {};
    Syscall(SYS_rt_sigtimedwait, reinterpret_cast<long>(&kSigpipe), 0, reinterpret_cast<long>(&now), 8);
  }
  Syscall(SYS_rt_sigprocmask, SIG_SETMASK, reinterpret_cast<long>(&before), 0, 8);
}
// True when it had been rung.
inline bool Empty(int bell) {
  char rings[4096];
  return Syscall(SYS_read, bell, reinterpret_cast<long>(rings), sizeof rings) > 0;
}

// After publishing. True when it rang.
inline bool Notify(const layout::Shared<uint32_t>& sleeper, uint32_t& rang, layout::WaitLine& own, Ringer bell) {
  FullFence();
  const uint32_t value = sleeper.load(std::memory_order_relaxed);
  if ((value & 1) == 0 || value == rang) [[likely]]
    return false;
  rang = value;
  own.rang_at.store(Cycles(), std::memory_order_relaxed);
  Ring(bell);
  return true;
}

// After publishing something behind which more is to come, instead of Notify(): true when a receiver sleeps that may be
// left asleep. It is due a ring when nothing more comes.
inline bool LeaveAsleep(const layout::WaitLine& receiver, uint32_t rang) {
  FullFence();
  const uint32_t value = receiver.rx_sleep.load(std::memory_order_acquire);
  return (value & 1) != 0 && value != rang && receiver.rx_patient.load(std::memory_order_relaxed) == value;
}

}  // namespace heterok8s::heterosock::bell
