// What an offered socket is, in the kernel's own words.
//
// Purpose: turn a descriptor that a stranger handed over into facts: which socket (SO_COOKIE), in which network
// namespace (SO_NETNS_COOKIE), between which addresses (inet_diag; not getpeername, which cgroup BPF translates inside
// a split Pod), what has passed (TCP_INFO). Threading: SocketInspector is thread-compatible; a lookup in a namespace it
// does not know runs on a thread of its own. Ownership: borrows the descriptor. Keeps a netlink socket per namespace
// for a second after its last use; not longer, because it keeps the namespace alive. Errors: kInvalidArgument: no
// established TCP socket. kNotFound: the kernel does not list it.
//
//   HK_ASSIGN_OR_RETURN(SocketIdentity identity, inspector.Inspect(fd));
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

#include "common/net/ip.h"
#include "common/status/status.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::heterosock::agent {

struct Endpoint {
  IpAddress address;  // IPv4-mapped IPv6 addresses are IPv4 here: the other end may be an AF_INET socket
  uint16_t port = 0;
  auto operator<=>(const Endpoint&) const = default;
  std::string ToString() const;
};

// Of one moment. Offsets count what the kernel counts: a SYN may count as one byte.
struct Traffic {
  uint64_t bytes_acked = 0, bytes_sent = 0, bytes_received = 0;
  uint8_t send_scale = 0, receive_scale = 0;  // window scales
};

struct SocketIdentity {
  uint64_t cookie = 0;        // unique among all sockets of this kernel since it booted
  uint64_t netns_cookie = 0;  // likewise
  uint64_t inode = 0;         // of sockfs, as /proc/PID/fd shows it
  Endpoint local, remote;     // before any translation of names, after any of packets at this end
  uint64_t token = 0;         // from the connection's SYN; 0: none was seen
  bool connected = false;     // with a token: this end sent the SYN
  Traffic traffic;
};

class SocketInspector {
 public:
  absl::StatusOr<SocketIdentity> Inspect(int fd);
  // Lets go of namespaces not used for a second.
  void Tidy();
  size_t namespaces() const { return namespaces_.size(); }

 private:
  struct Namespace {
    sys::UniqueFd netlink;
    std::chrono::steady_clock::time_point used;
  };
  absl::StatusOr<int> NetlinkFor(uint64_t netns_cookie, int fd);

  std::map<uint64_t, Namespace> namespaces_;
};

}  // namespace heterok8s::heterosock::agent
