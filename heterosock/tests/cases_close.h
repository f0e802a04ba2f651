// What the cases of closing share.
#pragma once

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

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

inline void IgnoreSigpipe() { signal(SIGPIPE, SIG_IGN); }

}  // namespace heterok8s::heterosock::behaviour
