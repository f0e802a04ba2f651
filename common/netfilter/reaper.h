// Ends netfilter sockets off the caller's path.
//
// Purpose: when a socket of NETLINK_NETFILTER closes, the kernel first destroys what was deleted from the namespace's
// tables shortly before. That waits for an RCU grace period, 10 to 30 ms, during which the tables cannot be changed
// either. Callers who change tables give the closing away; some time later there is nothing left to wait for.
// Threading: any thread. One thread of this file's own runs the functions, in order; it starts at the first call and
// works until the process ends, which closes what is left.
// Errors: none.
//
//   CloseLater([fd = std::make_shared<sys::UniqueFd>(std::move(fd_))] { fd->reset(); });
#pragma once

#include <chrono>
#include <functional>

namespace heterok8s::netfilter {

// Several grace periods.
inline constexpr std::chrono::milliseconds kCloseDelay{100};

void CloseLater(std::function<void()> close);

}  // namespace heterok8s::netfilter
