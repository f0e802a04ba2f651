// What another thread does to a connection in the middle of a call: between any two system calls that the library makes
// in it (interrupt.h). On plain libc, and where the kernel cannot do that, nothing is caught.
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "heterosock/tests/case.h"
#include "heterosock/tests/interrupt.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kPatienceUs = 100'000;  // the other thread may need a lock that the caught one has

// `what` in this thread, which stops at the library's system call number `at` in it until `meanwhile` has run in
// another one. False when it makes fewer.
bool Interrupt(int at, const std::function<void()>& what, const std::function<void()>& meanwhile) {
  std::atomic<bool> turn{false}, done{false}, over{false};
  std::thread other([&] {
    while (!turn && !over) Sleep(1);
    meanwhile();
    done = true;
  });
  StopAt(at, what, [&] {
    turn = true;
    for (int us = 0; us < kPatienceUs && !done; us += 100) {
      const timespec moment{0, 100'000};
      libc_syscall(SYS_nanosleep, &moment, nullptr);
    }
  });
  over = true;
  other.join();
  return turn;
}

constexpr int kMost = 60;  // system calls of one call

// Every connection is closed by another thread at another moment of a poll(). The other end has shut its direction
// down, so the library asks the kernel about it; and the close is a reset, before which nothing goes back to TCP.
void CloseInPoll(End& e) {
  for (int at = 1, more = 1; more != 0; ++at) {
    const int fd = e.Accept();
    e.Warm(fd);
    e.Meet();
    const linger reset{1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    pollfd one{fd, 0, 0};
    more = Interrupt(
               at, [&] { poll(&one, 1, 20); }, [&] { close(fd); }) &&
           at < kMost;
    e.Tell(more);
    e.Meet();
  }
  e.Say("all closed");
}

void MeetEach(End& e) {
  for (int more = 1; more != 0;) {
    const int fd = e.Connect();
    e.Warm(fd);
    shutdown(fd, SHUT_WR);
    e.Meet();
    e.Meet();
    more = e.Told();
    close(fd);
  }
  e.Say("all met");
}

constexpr int kRounds = 40;
constexpr int kEach = 40;  // of more than a hundred calls that the library makes while it arms
constexpr int kMostArming = 240;

bool Whole(int fd, bool sends) {
  char bytes[8 << 10] = {};
  for (size_t at = 0; at < sizeof bytes;) {
    const ssize_t n =
        sends ? send(fd, bytes + at, sizeof bytes - at, MSG_NOSIGNAL) : recv(fd, bytes + at, sizeof bytes - at, 0);
    if (n <= 0) return false;
    at += static_cast<size_t>(n);
  }
  return true;
}

// Exchanges, until the connection has moved or is closed.
void Exchange(int fd, bool first) {
  for (int i = 0; i < kRounds && Whole(fd, first) && Whole(fd, !first); ++i) {
    if (first) Sleep(1);  // the agent's turn
  }
}

// Every connection is closed by another thread at another moment of the exchanges that move it.
void CloseWhileArming(End& e) {
  for (int at = 1, more = 1; more != 0; at += kEach) {
    const int fd = e.Accept();
    const linger reset{1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    // Linux, too, lets who sleeps in recv() sleep on when another thread closes.
    const timeval patience{0, 3 * kPatienceUs};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    more = Interrupt(
               at, [&] { Exchange(fd, false); }, [&] { close(fd); }) &&
           at < kMostArming;
    e.Tell(more);
    e.Meet();
  }
  e.Say("all closed");
}

void ExchangeEach(End& e) {
  for (int more = 1; more != 0;) {
    const int fd = e.Connect();
    Exchange(fd, true);
    close(fd);
    e.Meet();
    more = e.Told();
  }
  e.Say("all met");
}

CASE{"meanwhile: another thread closes what poll() looks at",
     {.client =
          [](End& e) {
            e.Meet();
            MeetEach(e);
          },
      .server =
          [](End& e) {
            e.Meet();
            CloseInPoll(e);
          },
      .bare = true}};

CASE{"meanwhile: another thread closes what is being armed",
     {.client =
          [](End& e) {
            e.Meet();
            ExchangeEach(e);
          },
      .server =
          [](End& e) {
            e.Meet();
            CloseWhileArming(e);
          },
      .bare = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
