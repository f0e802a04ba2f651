// One question to the kernel's inet_diag: which connection has this cookie?
//
// Purpose: the kernel's own tuple of a socket. An exact lookup by the hinted tuple answers for nearly all; where names
// are translated (a split Pod) the namespace's connections with those ports are listed instead. Threading: a netlink
// socket serves one call at a time. Errors: kNotFound; kDeadlineExceeded when the kernel is silent.
//
//   HK_ASSIGN_OR_RETURN(sys::UniqueFd netlink, diag::Open());          // of the thread's network namespace
//   HK_ASSIGN_OR_RETURN(diag::Tuple tuple, diag::Find(netlink.get(), hint, cookie));
#pragma once

#include <sys/socket.h>

#include <cstdint>

#include "common/net/ip.h"
#include "common/status/status.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::heterosock::agent::diag {

struct Name {
  IpAddress address;
  uint16_t port = 0;
  bool operator==(const Name&) const = default;
};
struct Tuple {
  int family = 0;  // AF_INET or AF_INET6, of the socket
  Name local, remote;
};

absl::StatusOr<sys::UniqueFd> Open();
absl::StatusOr<Tuple> Find(int netlink, const Tuple& hint, uint64_t cookie);

Name FromSockaddr(const sockaddr_storage& name);
// 10.0.0.1 for ::ffff:10.0.0.1, others as they are.
IpAddress Unmapped(const IpAddress& address);

}  // namespace heterok8s::heterosock::agent::diag
