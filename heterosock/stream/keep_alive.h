// Keeps NAT and stateful firewalls between the two ends from forgetting a TCP connection on which nothing goes any
// more, because its bytes go through shared memory: else its FIN, hours later, would be dropped, and the other end wait
// for it for ever (IPVS forgets after 15 minutes, conntrack after a day under kube-proxy, five days by default).
//
// It is the kernel's keepalive, unless the program has turned that on itself. The program does not see ours: until
// EndKeepAlive() getsockopt() answers what the program had set.
//
// Threading: with the send lock held.
//
//   KeepAlive(index, fd);     // the direction has moved
//   EndKeepAlive(index, fd);  // it is back on TCP, or the program sets these options itself
#pragma once

#include "heterosock/ofd/slot.h"

namespace heterok8s::heterosock {

void KeepAlive(uint32_t index, int fd);
void EndKeepAlive(uint32_t index, int fd);

}  // namespace heterok8s::heterosock
