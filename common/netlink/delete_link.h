// Deletes a link and returns when nobody can see it any more, not when the kernel has freed it.
//
// Purpose: RTM_DELLINK takes a link out of its namespace within a millisecond, then waits 10 to 30 ms (rcu_barrier in
// netdev_run_todo, net/core/dev.c, RTNL already released) before it answers. A detach has no use for that wait.
// Threading: any thread. The request is sent on a thread of its own that ends with the kernel's answer; it touches
// nothing but its socket, so a process may exit meanwhile: the kernel finishes the request either way.
// Ownership: takes `requester`. Errors: the kernel's refusal; kDeadlineExceeded when the link is still there after ten
// seconds. OK when it is gone already.
//
//   HK_ASSIGN_OR_RETURN(auto requester, OpenNetlink());
//   HK_RETURN_IF_ERROR(DeleteLinkSoon(std::move(requester), *observer, link));
#pragma once

#include <memory>

#include "common/netlink/netlink.h"

namespace heterok8s::netlink {

// `requester` and `observer` are two sockets of the link's namespace.
absl::Status DeleteLinkSoon(std::unique_ptr<Netlink> requester, Netlink& observer, const Link& link);

}  // namespace heterok8s::netlink
