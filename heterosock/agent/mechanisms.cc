#include "heterosock/agent/mechanisms.h"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "common/sys/unique_fd.h"
#include "heterosock/agent/channel_memory.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

namespace heterok8s::heterosock::agent {
namespace {

// The call with nothing registered says EINVAL where the kernel has it, ENOSYS where it has not. glibc registers an
// area for each thread itself; then another one is refused with EINVAL or EBUSY.
bool HasRseq() { return syscall(SYS_rseq, nullptr, 0, 0, 0) == 0 || errno != ENOSYS; }

bool HasPeerPidfd() {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) return false;
  sys::UniqueFd first(pair[0]), second(pair[1]);
  int pidfd = -1;
  socklen_t length = sizeof pidfd;
  if (getsockopt(pair[0], SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) != 0) return false;
  sys::UniqueFd owned(pidfd);
  return true;
}

}  // namespace

Mechanism DescribeMatching(bool tokens, const std::string& detail) {
  if (tokens) return {"matching", "tokens", "TCP option in the SYN, written by BPF in " + detail};
  return {"matching", "addresses", "connections within one network namespace; " + detail};
}

std::vector<Mechanism> ProbeMechanisms() {
  std::vector<Mechanism> lines;
  if (CanSeal()) {
    lines.push_back({"memory", "sealed memfd", "no end can truncate what the other reads"});
  } else {
    lines.push_back({"memory", "none", "kernel without sealed memfds: connections stay on TCP"});
  }
  if (HasRseq()) {
    lines.push_back({"rseq", "available", "not used: the rings of a connection need none"});
  } else {
    lines.push_back({"rseq", "none", "not missed: the rings of a connection need none"});
  }
  if (HasPeerPidfd()) {
    lines.push_back({"process identity", "pidfd", "SO_PEERPIDFD"});
  } else {
    lines.push_back({"process identity", "pid", "kernel < 6.5 has no SO_PEERPIDFD; a pid is looked up at once"});
  }
  return lines;
}

}  // namespace heterok8s::heterosock::agent
