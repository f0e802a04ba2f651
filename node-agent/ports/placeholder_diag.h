// Which sockets of one network namespace own which ports, asked of the kernel by NETLINK_SOCK_DIAG.
//
// Purpose: ownership where no BPF hook reports it. TCP in LISTEN, unconnected UDP that is bound.
// Threading: thread-compatible; usable from any thread, stays with the namespace it was opened in.
// Errors: what the kernel said; kDeadlineExceeded when it is silent for two seconds.
//
//   HK_ASSIGN_OR_RETURN(SocketDiag diag, SocketDiag::Open());       // in the Pod's namespace
//   HK_ASSIGN_OR_RETURN(std::vector<DiagSocket> sockets, diag.List());
#pragma once

#include <cstdint>
#include <vector>

#include "common/sys/unique_fd.h"
#include "node-agent/ports/ports.h"

namespace heterok8s::ports {

struct DiagSocket {
  PortKey key;
  uint64_t cookie = 0;  // SO_COOKIE
};

class SocketDiag {
 public:
  static absl::StatusOr<SocketDiag> Open();

  absl::StatusOr<std::vector<DiagSocket>> List(bool tcp = true, bool udp = true);

  // Readable when a socket that was no connection has gone; -1 where the kernel does not tell. One that only stopped
  // listening is not told.
  int gone_fd() const { return gone_.valid() ? gone_.get() : -1; }
  void DrainGone();

 private:
  absl::Status Dump(int family, Protocol protocol, std::vector<DiagSocket>& sockets);

  sys::UniqueFd dump_, gone_;
  uint32_t sequence_ = 0;
};

}  // namespace heterok8s::ports
