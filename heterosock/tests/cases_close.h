// What the cases of closing share.
#pragma once

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {

inline void SayEvents(End& e, int fd) {
  pollfd one{fd, POLLIN | POLLOUT | POLLRDHUP | POLLPRI, 0};
  DO(poll(&one, 1, 0));
  e.Say("events %s", EventNames(static_cast<unsigned>(one.revents)).c_str());
}

inline void SayError(End& e, int fd) {
  int error = -1;
  socklen_t length = sizeof error;
  DO(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
  e.Say("SO_ERROR %s", error == 0 ? "none" : strerrorname_np(error));
}

// close() that resets: SO_LINGER 0.
inline void CloseWithReset(End& e, int fd) {
  linger now{1, 0};
  DO(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now));
  DO(close(fd));
}

// One message, of far more than both ends hold. It is one part of it again and again: to make all of it anew takes
// seconds where many processes share a CPU.
class Much {
 public:
  Much() {
    for (iovec& each : parts_) each = {part_.data(), part_.size()};
    message_.msg_iov = parts_;
    message_.msg_iovlen = kParts;
  }
  Much(const Much&) = delete;
  Much& operator=(const Much&) = delete;
  const msghdr* message() const { return &message_; }
  long size() const { return kParts * static_cast<long>(part_.size()); }
  // Whether these are its bytes from `at` on.
  bool Has(std::string_view bytes, long at) const {
    while (!bytes.empty()) {
      const std::string_view here = std::string_view(part_).substr(static_cast<size_t>(at) % part_.size());
      const size_t n = std::min(here.size(), bytes.size());
      if (here.substr(0, n) != bytes.substr(0, n)) return false;
      bytes.remove_prefix(n);
      at += static_cast<long>(n);
    }
    return true;
  }

 private:
  static constexpr int kParts = 64;
  std::string part_ = Pattern((1 << 20) + 1);  // no multiple of a ring's size
  iovec parts_[kParts];
  msghdr message_{};
};

inline void IgnoreSigpipe() { signal(SIGPIPE, SIG_IGN); }

}  // namespace heterok8s::heterosock::behaviour
