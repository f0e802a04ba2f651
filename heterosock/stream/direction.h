// Taking the lock of a direction, and putting right what an owner left behind that went in the middle: it was killed,
// or a signal handler jumped out of it (ofd/lock.h). Private to stream/ and upgrade/.
//
// Receiving and sending are written so that what they remember is never ahead of what can be said again: the offsets
// and the place of the ring are published once more, and who sleeps is rung for once more. What cannot be said again
// (bytes that TCP gave or took) happens with signals blocked.
//
// Threading: as the lock's. False when this thread holds it already (then nothing may be touched).
//
//   if (!LockReceive(index)) return -EAGAIN;
//   ... Slots::Get(index).rx.lock.Release();
#pragma once

#include "heterosock/ofd/slot.h"

namespace heterok8s::heterosock {

// With the lock held.
void RepairReceive(uint32_t index);
void RepairSend(uint32_t index);

inline bool LockReceive(uint32_t index) {
  SharedLock& lock = Slots::Get(index).rx.lock;
  if (!lock.Acquire()) return false;
  if (lock.Left()) [[unlikely]]
    RepairReceive(index);
  return true;
}

inline bool LockSend(uint32_t index) {
  SharedLock& lock = Slots::Get(index).tx.lock;
  if (!lock.Acquire()) return false;
  if (lock.Left()) [[unlikely]]
    RepairSend(index);
  return true;
}

}  // namespace heterok8s::heterosock
