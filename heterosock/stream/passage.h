// The receiver's way back to TCP (layout/channel.h, "Moving back"). Private to stream/.
//
// Threading: called with the receive lock held.
#pragma once

#include <stdint.h>

namespace heterok8s::heterosock {

enum class Passage {
  kRing,        // the ring is where bytes come from
  kDropping,    // what TCP has are copies of bytes that were read from the ring: nothing to read now
  kTcp,         // the direction is on TCP from here on
  kImpossible,  // the other side says what cannot be
};

// Goes over to TCP when the sender did: once the ring is empty, or once TCP has all that is in it.
Passage PassToTcp(uint32_t index, int fd);

// The direction is on TCP for good. What ArrivedOverTcp() says does not change by that when the connection has ended,
// where the kernel's count does: with or without an end of the stream, with copies of what the ring had.
void LeaveToKernel(uint32_t index, int fd);

}  // namespace heterok8s::heterosock
