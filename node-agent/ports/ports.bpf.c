// Direct calls and port ownership at the socket. docs/design/ports.md says why; layout.h says what the maps hold.
//
// Attached to the root of cgroup v2, where every socket of the machine passes, so each program begins by asking whether
// the socket's network namespace is one of this heterod's Pods, and leaves at once when it is not.
//
// One object; each file has one idea:
//   bpf/maps.h, kernel_types.h, address.h   what all of them use
//   bpf/share.h, callers.h, order.h         a Pod's share of the maps; bound callers; what heterod orders
//   bpf/claims.h                            claims: counting, reporting, comparing
//   bpf/own.h, listen.h                     bind, post_bind, sock_release; sockops: a port gets and loses its owner
//   bpf/call.h, names.h                     connect, sendmsg; getpeername, getsockname, recvmsg
//   bpf/lookup.h                            sk_lookup
//   bpf/scan.h                              iterators
#include "node-agent/ports/bpf/call.h"
#include "node-agent/ports/bpf/listen.h"
#include "node-agent/ports/bpf/lookup.h"
#include "node-agent/ports/bpf/names.h"
#include "node-agent/ports/bpf/order.h"
#include "node-agent/ports/bpf/own.h"
#include "node-agent/ports/bpf/scan.h"

char _license[] SEC("license") = "GPL";
