// How many sockets one network namespace has: the cheap sign that a dump would show something new.
//
// Purpose: nothing tells of a listen() or a bind() but BPF. These counts do, when asked, for some microseconds; a dump
// of a thousand listeners takes a millisecond. One socket that opens while another closes leaves them as they were, so
// dumps are still made now and then.
// Threading: thread-compatible; usable from any thread, stays with the namespace it was opened in.
// Errors: errno of /proc.
//
//   HK_ASSIGN_OR_RETURN(SocketCounts counts, SocketCounts::Open());  // in the Pod's namespace
//   if (Changes changes = counts.Read(); changes.tcp) Dump(Protocol::kTcp);
#pragma once

#include <array>

#include "common/status/status.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::ports {

struct Changes {
  bool tcp = false, udp = false;
};

class SocketCounts {
 public:
  static absl::StatusOr<SocketCounts> Open();

  // Since the last call; both at the first one, and when they cannot be read.
  Changes Read();

 private:
  using Counts = std::array<long, 4>;  // TCP, UDP, TCP6, UDP6

  sys::UniqueFd v4_, v6_;
  Counts last_{-1, -1, -1, -1};
};

}  // namespace heterok8s::ports
