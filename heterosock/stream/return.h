// The sender's way back to TCP (layout/channel.h, "Moving back"). Private to stream/.
//
// Threading: called with the send lock held, by whoever holds it.
#pragma once

#include <stdint.h>

#include "heterosock/upgrade/reason.h"

namespace heterok8s::heterosock {

// Bytes in the own ring that the receiver has not read, or ring::kImpossible after breaking the connection.
uint64_t RefreshHead(uint32_t index, int fd);

// From kRing: brings back what is unread, as far as TCP takes it. A receiver that called its bytes back gets all of
// them: then the mode is kReturning until FlushReturn() said true. Where the agent says that it is bringing them back,
// the mode stays kRing until it is done, and whoever comes next calls again; at last the connection is broken.
void StartReturn(uint32_t index, int fd, Reason reason);
bool FlushReturn(uint32_t index, int fd);
// For a call that may block: such an agent is waited for, so that nothing stays in the ring until the next call.
void AwaitAgent(uint32_t index, int fd);

}  // namespace heterok8s::heterosock
