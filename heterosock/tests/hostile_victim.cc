#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <string>

#include "heterosock/tests/hostile.h"

namespace heterok8s::heterosock::behaviour {
namespace {

// Nobody will bring anything back, and no call waits for it: what is sent has room, and another connection is served by
// the same thread, and signals come, before the victim gives the attacked one up.
bool GoesOn(End& e, int left, int right) {
  static volatile sig_atomic_t ticks = 0;
  signal(SIGUSR1, [](int) { ticks = ticks + 1; });
  fcntl(e.sock, F_SETFL, O_NONBLOCK);
  int ep = epoll_create1(0);
  for (int fd : {e.sock, right}) {
    epoll_event event{EPOLLIN, {.fd = fd}};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
  }
  bool good = send(e.sock, &kVictims, 1, MSG_NOSIGNAL) == 1;
  raise(SIGUSR1);
  good = good && ticks == 1;
  e.SendAll(left, "x");
  for (bool served = false; good && !served;) {
    epoll_event event{};
    pollfd one{e.sock, POLLIN, 0};
    poll(&one, 1, 0);
    if (epoll_wait(ep, &event, 1, 100) == 1 && event.data.fd == right) served = e.RecvAll(right, 1) == "x";
    if (event.data.fd == e.sock) {
      char bytes[4000];
      recv(e.sock, bytes, sizeof bytes, MSG_DONTWAIT);
    }
    good = good && send(e.sock, &kVictims, 1, MSG_NOSIGNAL) == 1;
  }
  // In the end it is given up.
  while (good && send(e.sock, &kVictims, 1, MSG_NOSIGNAL) != -1) {
    pollfd one{e.sock, POLLERR, 0};
    poll(&one, 1, 10);
  }
  return good;
}

// The victim of a slow agent sends without waiting for it, and then waits for the answer in a set. One that may block
// calls nothing until the other end has all of it.
bool SendsAndWaits(End& e, bool blocks) {
  int ep = epoll_create1(0);
  epoll_event event{EPOLLIN, {.u64 = 1}};
  epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event);
  for (int i = 0; i < 2; ++i) Send(e.sock, kVictims, kSent, blocks ? 0 : MSG_DONTWAIT);
  if (blocks) e.Meet();
  return epoll_wait(ep, &event, 1, 60'000) == 1 && e.RecvAll(e.sock, 1) == "a";
}

}  // namespace

void VictimEnd(End& e, const Attack& what) {
  signal(SIGPIPE, SIG_IGN);
  e.listener = e.Listen();
  e.Meet();
  e.sock = e.Accept();
  e.Warm(e.sock);
  // Another connection of this process, with itself, that nobody attacks.
  int inner = e.Listen(), left = e.Connect(), right = e.Accept(inner);
  e.Meet();
  if (what.before) {
    e.Say("stopped %d", !(what.slow ? SendsAndWaits(e, what.blocks) : GoesOn(e, left, right)));
    e.Meet();
  }
  int ep = epoll_create1(0);
  epoll_event event{EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.u64 = 1}};
  epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event);
  auto end = std::chrono::steady_clock::now() + kAttackTime + std::chrono::milliseconds(50);
  bool own = false, wrong = false;
  std::string bytes(10'000, '\0');
  for (uint32_t i = 0; std::chrono::steady_clock::now() < end; ++i) {
    ssize_t n = recv(e.sock, bytes.data(), bytes.size(), MSG_DONTWAIT | (i % 5 == 0 ? MSG_PEEK : 0));
    for (ssize_t k = 0; k < n; ++k) own |= bytes[static_cast<size_t>(k)] == kVictims;
    Send(e.sock, kVictims, 1 + i * 37 % 9000);
    pollfd one{e.sock, POLLIN | POLLOUT | POLLRDHUP, 0};
    poll(&one, 1, 0);
    epoll_wait(ep, &event, 1, i % 7 == 0 ? 1 : 0);
    e.SendAll(left, Pattern(500, i));
    wrong |= e.RecvAll(right, 500) != Pattern(500, i);
    e.SendAll(right, Pattern(100, i));
    wrong |= e.RecvAll(left, 100) != Pattern(100, i);
  }
  timeval limit{0, 50'000};
  setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(e.sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  for (int i = 0; i < 3; ++i) {
    recv(e.sock, bytes.data(), bytes.size(), 0);
    send(e.sock, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  shutdown(e.sock, SHUT_WR);
  close(e.sock);
  e.Say("own bytes received %d, other connection disturbed %d", own, wrong);
  _exit(0);
}

}  // namespace heterok8s::heterosock::behaviour
