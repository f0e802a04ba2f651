// What the other end does in the middle of a receive: between any two system calls that the library makes in it
// (interrupt.h). What it sent before its end is read, in order, and then the end is told, once.
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <unistd.h>

#include "heterosock/tests/cases_close.h"
#include "heterosock/tests/interrupt.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kLooks = 2000;
constexpr int kLimitedLooks = 5;

// The end has come, said without the library: it may be in the middle of a call.
void AwaitEnd(int fd) {
  pollfd one{fd, POLLRDHUP, 0};
  const timespec deadline = {kDeadline.count(), 0};
  libc_syscall(SYS_ppoll, &one, 1, &deadline, nullptr, 8);
}

// How a reader looks for bytes: 0 or more, or -1 with EAGAIN, when it looks again.
struct Look {
  ssize_t (*at)(int fd, char* bytes, size_t size);
  void (*before)(int fd) = nullptr;
  int moments = 12;     // one that finds nothing makes fewer calls; several come one after the other
  bool unread = false;  // bytes that it has sent before lie unread at the other end
};

void WithTimeLimit(int fd) {
  const timeval limit{0, 2000};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
}

constexpr Look kLook = {[](int fd, char* bytes, size_t size) { return recv(fd, bytes, size, MSG_DONTWAIT); }};
constexpr Look kReadOfAll = {[](int fd, char* bytes, size_t size) { return recv(fd, bytes, size, MSG_WAITALL); },
                             WithTimeLimit};
constexpr Look kPeekForAll = {
    [](int fd, char* bytes, size_t size) { return recv(fd, bytes, size, MSG_PEEK | MSG_WAITALL); }, WithTimeLimit};
constexpr Look kPoll = {[](int fd, char* bytes, size_t size) {
                          pollfd one{fd, POLLIN, 0};
                          errno = EAGAIN;
                          return poll(&one, 1, 0) == 0 ? ssize_t{-1} : recv(fd, bytes, size, 0);
                        },
                        nullptr, 12, true};
// It brings the connection back to TCP, with the bytes that lie unread at the other end.
constexpr Look kOption = {[](int fd, char* bytes, size_t size) {
                            const int on = 1;
                            setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
                            return recv(fd, bytes, size, MSG_DONTWAIT);
                          },
                          nullptr, 40, true};

// Looks again and again until something comes, which the other end sends in front of system call number `at`.
void LookMeanwhile(End& e, int fd, int at, const Look& look) {
  char bytes[20];
  ssize_t n = -1;
  int error = 0;
  if (look.before != nullptr) look.before(fd);
  if (look.unread) e.SendAll(fd, "unread");
  const auto found = [&] {
    n = look.at(fd, bytes, sizeof bytes);
    error = errno;
    return n >= 0 || errno != EAGAIN;
  };
  const auto meanwhile = [&] {
    e.Meet();
    e.Meet();
    AwaitEnd(fd);
  };
  const int looks = look.before != nullptr ? kLimitedLooks : kLooks;
  e.Meet();
  bool done = false;
  const bool stopped = StopAt(
      at,
      [&] {
        for (int i = 0; i < looks && !done; ++i) done = found();
      },
      meanwhile);
  if (!stopped) meanwhile();
  for (int i = 0; i < kLooks && !done; ++i) done = found();
  e.Say("%zd %.*s %s", n, n > 0 ? static_cast<int>(n) : 0, bytes, n < 0 ? strerrorname_np(error) : "");
  e.Recv(fd, 10);
  e.Recv(fd, 10);
  e.Recv(fd, 10);
  close(fd);
}

// The other end: does that, when it is its turn. What a reset finds unsent is lost: Nagle's algorithm must not keep it.
void ActMeanwhile(End& e, int fd, void (*act)(End& e, int fd)) {
  const int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  e.Meet();
  e.Meet();
  act(e, fd);
  e.Meet();
}

constexpr int kRounds = 60;  // of a connection that may move

// A byte goes back and forth until both ends could send to shared memory, and the one that looks does. It tells whether
// that is over (1), or the other end was first (2), for which it takes another connection.
int Arm(int fd, int round) {
  static const auto moved = reinterpret_cast<int (*)(int)>(dlsym(RTLD_DEFAULT, "heterosock_moved"));
  if (moved == nullptr || round == kRounds || (moved(fd) & 3) == 1) return 1;
  return (moved(fd) & 2) != 0 ? 2 : 0;
}

int ConnectArmed(End& e) {
  for (;;) {
    e.Meet();
    const int fd = e.Connect();
    int over = 0;
    for (int round = 1; over == 0; ++round) {
      e.RecvAll(fd, 1);
      e.SendAll(fd, "k");
      over = Arm(fd, round);
      e.Tell(over);
      e.Meet();
      e.Meet();
    }
    if (over == 1) return fd;
    close(fd);
  }
}

int AcceptArmed(End& e) {
  for (;;) {
    e.Meet();
    const int fd = e.Accept();
    do {
      Sleep(1);  // the agent's turn
      e.SendAll(fd, "k");
      e.RecvAll(fd, 1);
      e.Meet();
      e.Meet();
    } while (e.Told() == 0);
    if (e.Told() == 1) return fd;
    close(fd);
  }
}

// Connections that the other end is about to move: it does with what it sends next.
Body AtEachMomentArmed(const Look& look, void (*act)(End& e, int fd)) {
  return {.client =
              [look](End& e) {
                for (int at = 1; at <= look.moments; ++at) LookMeanwhile(e, ConnectArmed(e), at, look);
              },
          .server =
              [act, look](End& e) {
                for (int at = 1; at <= look.moments; ++at) ActMeanwhile(e, AcceptArmed(e), act);
              },
          .bare = true};
}

// The connection of the case, then further ones that are like it.
Body AtEachMoment(const Look& look, void (*act)(End& e, int fd)) {
  return {.client =
              [look](End& e) {
                for (int at = 1; at <= look.moments; ++at) {
                  if (at > 1) e.Meet();
                  const int fd = at == 1 ? e.sock : e.Connect();
                  if (at > 1 && e.warm()) e.Warm(fd);
                  LookMeanwhile(e, fd, at, look);
                }
              },
          .server =
              [act, look](End& e) {
                for (int at = 1; at <= look.moments; ++at) {
                  if (at == 2) e.listener = e.Listen();
                  if (at > 1) e.Meet();
                  const int fd = at == 1 ? e.sock : e.Accept();
                  if (at > 1 && e.warm()) e.Warm(fd);
                  ActMeanwhile(e, fd, act);
                }
              }};
}

void Reset(End& e, int fd) {
  e.SendAll(fd, "last words");
  CloseWithReset(e, fd);
}

void Close(End& e, int fd) {
  e.SendAll(fd, "last words");
  close(fd);
}

// Its library does not see it, as when it is killed.
void Die(End& e, int fd) {
  e.SendAll(fd, "last words");
  libc_syscall(SYS_close, fd);
}

CASE{"moments: last words and a reset, at each moment of a look", AtEachMoment(kLook, Reset)};
CASE{"moments: last words and a close, at each moment of a look", AtEachMoment(kLook, Close)};
CASE{"moments: last words and a reset, at each moment of a read of all", AtEachMoment(kReadOfAll, Reset)};
CASE{"moments: last words and a reset, at each moment of a peek for all", AtEachMoment(kPeekForAll, Reset)};
CASE{"moments: last words and a reset, at each moment of a poll", AtEachMoment(kPoll, Reset)};
CASE{"moments: last words and a death, at each moment of a poll", AtEachMoment(kPoll, Die)};
CASE{"moments: last words and a reset, at each moment of an option", AtEachMoment(kOption, Reset)};
CASE{"moments: a switch, last words and a reset, at each moment of a look", AtEachMomentArmed(kLook, Reset)};
CASE{"moments: a switch, last words and a reset, at each moment of a read of all",
     AtEachMomentArmed(kReadOfAll, Reset)};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
