// The two ways through a tracked socket that all calls of the send and receive families share. `kernel` is the call as
// the program made it; it runs unless the direction is in shared memory. Both become part of the function that calls
// them (hook.h says why).
//
// Threading: any.
#pragma once

#include "heterosock/hooks/hook.h"
#include "heterosock/lib/process.h"
#include "heterosock/lib/real.h"
#include "heterosock/ofd/fd_table.h"
#include "heterosock/ofd/slot.h"
#include "heterosock/stream/stream.h"
#include "heterosock/upgrade/upgrade.h"

namespace heterok8s::heterosock {

inline ssize_t Answer(ssize_t result) {
  if (result >= 0) return result;
  errno = static_cast<int>(-result);
  return -1;
}

// False with errno set when a buffer cannot be one.
inline bool Addressable(const iovec* iov, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (iov[i].iov_len == 0 || !NoAddress(iov[i].iov_base)) continue;
    errno = EFAULT;
    return false;
  }
  return true;
}

// What the kernel did not take whole is an edge of epoll once there is room.
inline ssize_t NoteFull(Slot& slot, const iovec* iov, size_t count, ssize_t result) {
  size_t wanted = 0;
  for (size_t i = 0; i < count; ++i) wanted += iov[i].iov_len;
  if (result < 0 ? errno == EAGAIN : static_cast<size_t>(result) < wanted) [[unlikely]]
    slot.tx.full.fetch_add(1, std::memory_order_relaxed);
  return result;
}

// As send() does unless MSG_NOSIGNAL is given. The kernel raises it itself for what goes through it.
template <typename Kernel>
[[gnu::always_inline]] inline ssize_t Send(uint32_t index, int fd, const iovec* iov, size_t count, int flags,
                                           Kernel kernel) {
  Slot& slot = Slots::Get(index);
  for (;;) {
    const Mode mode = slot.tx.mode.load(std::memory_order_acquire);
    if (mode == Mode::kPlain) return NoteFull(slot, iov, count, kernel());
    if (mode != Mode::kTcp || slot.phase.load(std::memory_order_relaxed) == Phase::kArmed) {
      if (!Addressable(iov, count)) return -1;
      const ssize_t result = RingSend(index, fd, iov, count, flags);
      if (result != kUseKernel) return Answer(result);
    }
    slot.tx.calls.Enter();
    if (slot.tx.mode.load(std::memory_order_seq_cst) != Mode::kTcp) {
      slot.tx.calls.Leave(0);
      continue;
    }
    const ssize_t result = NoteFull(slot, iov, count, kernel());
    slot.tx.calls.Leave(result);
    ++slot.tx.writes;
    if (result > 0 && WorthAdvancing(slot)) [[unlikely]]
      Advance(index, fd);
    return result;
  }
}

template <typename Kernel>
[[gnu::always_inline]] inline ssize_t Receive(uint32_t index, int fd, const iovec* iov, size_t count, int flags,
                                              Kernel kernel) {
  Slot& slot = Slots::Get(index);
  for (;;) {
    if (slot.rx.mode.load(std::memory_order_acquire) == Mode::kPlain) return kernel();
    const Phase phase = slot.phase.load(std::memory_order_relaxed);
    if (phase == Phase::kArmed) {
      if (!(flags & MSG_TRUNC) && !Addressable(iov, count)) return -1;
      const ssize_t result = RingReceive(index, fd, iov, count, flags);
      if (process.agent_is_due.load(std::memory_order_relaxed)) [[unlikely]]
        TendAgent();
      if (result != kUseKernel) return Answer(result);
      if (Slots::Local(index).page == nullptr) return kernel();
      continue;
    }
    // The reader that is about to wait is the one that can arm: nobody else is inside.
    if (phase == Phase::kPaired) {
      Advance(index, fd);
      if (slot.phase.load(std::memory_order_relaxed) == Phase::kArmed) continue;
    }
    slot.rx.calls.Enter();
    if (slot.phase.load(std::memory_order_seq_cst) == Phase::kArmed) {
      slot.rx.calls.Leave(0);
      continue;
    }
    const ssize_t result = kernel();
    if (result > 0) ++slot.rx.reads;
    slot.rx.calls.Leave((flags & (MSG_PEEK | MSG_ERRQUEUE)) != 0 ? 0 : result);
    if (result > 0 && WorthAdvancing(slot)) [[unlikely]]
      Advance(index, fd);
    return result;
  }
}

}  // namespace heterok8s::heterosock
