// The kernel's routing netlink, over one libnl socket.
//
// Purpose, threading, errors: see netlink.h. The socket belongs to the namespace of the thread that calls Open().
// No call waits longer than ten seconds for the kernel's answer (kDeadlineExceeded).
//
//   HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> netlink, OpenNetlinkIn(pod));
//   HK_RETURN_IF_ERROR(netlink->Do(SetLink{.link = 1, .up = true}));
#pragma once

#include <memory>

#include "common/netlink/netlink.h"
#include "common/sys/netns.h"

namespace heterok8s::netlink {

// Of the calling thread's namespace.
absl::StatusOr<std::unique_ptr<Netlink>> OpenNetlink();
// Of `netns`, usable from any thread.
absl::StatusOr<std::unique_ptr<Netlink>> OpenNetlinkIn(const sys::NetnsRef& netns);

}  // namespace heterok8s::netlink
