#include "node-agent/ports/placeholder_counts.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace heterok8s::ports {
namespace {

// "TCP: inuse 3 orphan 0 …": sockets that are bound (UDP) or listen or are connected (TCP). -1: no such line.
long InUse(const char* text, const char* label) {
  const char* line = std::strstr(text, label);
  return line == nullptr ? -1 : std::strtol(line + std::strlen(label), nullptr, 10);
}

// At offset zero the kernel makes the text anew each time.
bool ReadText(const sys::UniqueFd& fd, char (&text)[1024]) {
  ssize_t n = pread(fd.get(), text, sizeof text - 1, 0);
  if (n < 0) return false;
  text[n] = '\0';
  return true;
}

}  // namespace

absl::StatusOr<SocketCounts> SocketCounts::Open() {
  SocketCounts counts;
  counts.v4_.reset(open("/proc/thread-self/net/sockstat", O_RDONLY | O_CLOEXEC));
  if (!counts.v4_.valid()) return ErrnoToStatus(errno, "open /proc/thread-self/net/sockstat");
  counts.v6_.reset(open("/proc/thread-self/net/sockstat6", O_RDONLY | O_CLOEXEC));
  if (!counts.v6_.valid() && errno != ENOENT) return ErrnoToStatus(errno, "open /proc/thread-self/net/sockstat6");
  return counts;  // without sockstat6 there is no IPv6
}

Changes SocketCounts::Read() {
  char v4[1024], v6[1024] = "";
  if (!ReadText(v4_, v4) || (v6_.valid() && !ReadText(v6_, v6))) return {.tcp = true, .udp = true};
  Counts now{InUse(v4, "\nTCP: inuse "), InUse(v4, "\nUDP: inuse "), InUse(v6, "TCP6: inuse "),
             InUse(v6, "\nUDP6: inuse ")};
  Changes changes{.tcp = now[0] != last_[0] || now[2] != last_[2], .udp = now[1] != last_[1] || now[3] != last_[3]};
  last_ = now;
  return changes;
}

}  // namespace heterok8s::ports
