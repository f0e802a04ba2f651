#include "node-agent/ports/placeholder_socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/select.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#ifndef SO_COOKIE
#define SO_COOKIE 57
#endif

namespace heterok8s::ports {
namespace {

struct Name {
  sockaddr_storage storage{};
  socklen_t length = 0;
};

Name ToName(const PortKey& key) {
  Name name;
  if (key.address.family == Family::kV4) {
    sockaddr_in in{.sin_family = AF_INET, .sin_port = htons(key.port), .sin_addr = {}, .sin_zero = {}};
    std::memcpy(&in.sin_addr, key.address.bytes.data(), sizeof in.sin_addr);
    std::memcpy(&name.storage, &in, name.length = sizeof in);
  } else {
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(key.port);
    std::memcpy(&in6.sin6_addr, key.address.bytes.data(), sizeof in6.sin6_addr);
    std::memcpy(&name.storage, &in6, name.length = sizeof in6);
  }
  return name;
}

bool SetInt(int fd, int level, int option, int value) {
  return setsockopt(fd, level, option, &value, sizeof value) == 0;
}

bool Bind(int fd, const Name& name) {
  return bind(fd, reinterpret_cast<const sockaddr*>(&name.storage), name.length) == 0;
}

// Connections of an earlier owner in TIME_WAIT keep a plain bind away, not one with SO_REUSEADDR; listen() then makes
// the port closed to other SO_REUSEADDR binders for good, and shutdown() ends the listening but keeps the port.
bool BindPastTimeWait(int fd, const Name& name) {
  return SetInt(fd, SOL_SOCKET, SO_REUSEADDR, 1) && Bind(fd, name) && listen(fd, 1) == 0 &&
         shutdown(fd, SHUT_RDWR) == 0 && SetInt(fd, SOL_SOCKET, SO_REUSEADDR, 0);
}

}  // namespace

absl::StatusOr<Placeholder> HoldPort(const PortKey& key) {
  bool v4 = key.address.family == Family::kV4, tcp = key.protocol == Protocol::kTcp;
  std::string what = fmt::format("hold {}", key.ToString());
  Placeholder held;
  held.fd.reset(socket(v4 ? AF_INET : AF_INET6, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC,
                       tcp ? IPPROTO_TCP : IPPROTO_UDP));
  if (!held.fd.valid()) return ErrnoToStatus(errno, what);
  // libnftables waits by select(), which ends the process for a descriptor from FD_SETSIZE on. Placeholders are what
  // heterod has by the thousand: they leave the lower ones to others. A limit below is no reason to hold nothing.
  if (const int high = fcntl(held.fd.get(), F_DUPFD_CLOEXEC, FD_SETSIZE); high >= 0) held.fd.reset(high);
  int fd = held.fd.get();
  // The address may come later than the claim on it.
  bool ready =
      v4 ? SetInt(fd, IPPROTO_IP, IP_FREEBIND, 1)
         : SetInt(fd, IPPROTO_IPV6, IPV6_FREEBIND, 1) && SetInt(fd, IPPROTO_IPV6, IPV6_V6ONLY, key.dual_stack ? 0 : 1);
  const char lo[] = "lo";
  if (!tcp)
    ready = ready && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, lo, sizeof lo) == 0 &&
            SetInt(fd, SOL_SOCKET, SO_RCVBUF, 1);
  if (!ready) return ErrnoToStatus(errno, what);
  Name name = ToName(key);
  if (!Bind(fd, name)) {
    int error = errno;
    bool late = error == EADDRINUSE && tcp && BindPastTimeWait(fd, name);
    if (!late && error == EADDRINUSE) {
      return absl::AlreadyExistsError(fmt::format("{}: a socket of this side has it", what));
    }
    if (!late) return ErrnoToStatus(error, what);
  }
  socklen_t length = sizeof held.cookie;
  if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &held.cookie, &length) != 0) return ErrnoToStatus(errno, what);
  return held;
}

}  // namespace heterok8s::ports
