// The kernel's routing netlink, over one libnl socket.
//
// Purpose, threading, errors: see netlink.h. The socket belongs to the namespace of the thread that calls Open().
// No call waits longer than ten seconds for the kernel's answer (kDeadlineExceeded).
//
//   HK_RETURN_IF_ERROR(sys::InNetns(pod, [&]() -> absl::Status {
//     HK_ASSIGN_OR_RETURN(std::unique_ptr<Netlink> netlink, OpenNetlink());
//     return netlink->Do(SetLink{.link = 1, .up = true});
//   }));
#pragma once

#include <memory>

#include "common/netlink/netlink.h"

namespace heterok8s::netlink {

absl::StatusOr<std::unique_ptr<Netlink>> OpenNetlink();

}  // namespace heterok8s::netlink
