#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <string>

#include "heterosock/tests/hostile.h"

namespace heterok8s::heterosock::behaviour {
namespace {

constexpr int kWaitMs = 5;

// What the program was told of the attacked connection.
class Watch {
 public:
  Watch(int fd, bool honest) : fd_(fd), honest_(honest) {}

  ssize_t Receive(char* to, size_t n, int flags) {
    const ssize_t got = Known(recv(fd_, to, n, flags));
    for (ssize_t i = 0; i < got; ++i) {
      const char byte = to[i];
      foreign_ |= !(byte >= 'a' && byte <= 't') && byte != 'w' && byte != 0;
      astray_ |= honest_ && byte != ByteAt(at_ + static_cast<size_t>(i));
    }
    if (got > 0 && (flags & MSG_PEEK) == 0) at_ += static_cast<size_t>(got);
    return got;
  }
  ssize_t Send(size_t n, int flags = MSG_DONTWAIT) {
    const std::string bytes(n, kVictims);
    return Known(send(fd_, bytes.data(), n, flags | MSG_NOSIGNAL));
  }
  // Waits, also by receiving: true when nothing came. Then it slept, and took no processor.
  template <typename Call>
  void Wait(Call call) {
    const uint64_t begin = Now(CLOCK_MONOTONIC), used = Now(CLOCK_THREAD_CPUTIME_ID);
    if (!call()) return;
    waited_ += Now(CLOCK_MONOTONIC) - begin;
    ran_ += Now(CLOCK_THREAD_CPUTIME_ID) - used;
  }
  // -1 with what Linux says of a peer that resets, or that takes or sends nothing now; shutdown() adds ENOTCONN.
  ssize_t Known(ssize_t result, int also = 0) {
    if (result < 0 && errno != EAGAIN && errno != ECONNRESET && errno != EPIPE && errno != also) unknown_ = errno;
    return result;
  }

  bool foreign() const { return foreign_; }
  bool astray() const { return astray_; }
  bool spun() const { return waited_ > kWaitedEnough && ran_ > waited_ / 2; }
  int unknown() const { return unknown_; }
  std::string Figures() const {
    return std::to_string(at_) + " bytes, waited " + std::to_string(waited_ / 1000) + " us, ran " +
           std::to_string(ran_ / 1000);
  }

 private:
  static constexpr uint64_t kWaitedEnough = 30'000'000;  // nanoseconds, for the processor's time to say something
  static uint64_t Now(clockid_t clock) {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
  }
  const int fd_;
  const bool honest_;
  size_t at_ = 0;
  bool foreign_ = false, astray_ = false;
  int unknown_ = 0;
  uint64_t waited_ = 0, ran_ = 0;
};

// Nobody will bring anything back, and no call waits for it: what is sent has room, and another connection is served by
// the same thread, and signals come, before the victim gives the attacked one up.
bool GoesOn(End& e, Watch& watch, int left, int right) {
  static volatile sig_atomic_t ticks = 0;
  signal(SIGUSR1, [](int) { ticks = ticks + 1; });
  fcntl(e.sock, F_SETFL, O_NONBLOCK);
  int ep = epoll_create1(0);
  for (int fd : {e.sock, right}) {
    epoll_event event{EPOLLIN, {.fd = fd}};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event);
  }
  bool good = watch.Send(1, 0) == 1;
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
      watch.Receive(bytes, sizeof bytes, MSG_DONTWAIT);
    }
    good = good && watch.Send(1, 0) == 1;
  }
  // In the end it is given up.
  while (good && watch.Send(1, 0) != -1) {
    pollfd one{e.sock, POLLERR, 0};
    poll(&one, 1, 10);
  }
  return good;
}

// The victim of a slow agent sends without waiting for it, and then waits for the answer in a set. One that may block
// calls nothing until the other end has all of it.
bool SendsAndWaits(End& e, Watch& watch, bool blocks) {
  int ep = epoll_create1(0);
  epoll_event event{EPOLLIN, {.u64 = 1}};
  epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event);
  for (int i = 0; i < 2; ++i) watch.Send(kSent, blocks ? 0 : MSG_DONTWAIT);
  if (blocks) e.Meet();
  char byte = 0;
  return epoll_wait(ep, &event, 1, 60'000) == 1 && watch.Receive(&byte, 1, 0) == 1 && byte == ByteAt(0);
}

}  // namespace

void VictimEnd(End& e, const Attack& what) {
  signal(SIGPIPE, SIG_IGN);
  Join(e, what);
  Watch watch(e.sock, what.honest);
  // Another connection of this process, with itself, that nobody attacks.
  int inner = e.Listen(), left = e.Connect(), right = e.Accept(inner);
  std::string bytes(10'000, '\0');
  // Until the attacker has the memory, and so the attack begins.
  for (int i = 0; i < 5000 && what.early && e.Told() == 0; ++i) {
    watch.Send(100);
    watch.Receive(bytes.data(), bytes.size(), MSG_DONTWAIT);
    usleep(1000);
  }
  e.Meet();
  const pid_t attacker = e.Told();
  if (what.before) {
    e.Say("stopped %d", !(what.slow ? SendsAndWaits(e, watch, what.blocks) : GoesOn(e, watch, left, right)));
    e.Meet();
  }
  int ep = epoll_create1(0), bytes_ep = epoll_create1(0);
  epoll_event event{EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, {.u64 = 1}};
  epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event);
  event.events = EPOLLIN;
  epoll_ctl(bytes_ep, EPOLL_CTL_ADD, e.sock, &event);
  timeval limit{0, kWaitMs * 1000};
  setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  auto end = std::chrono::steady_clock::now() + kAttackTime + std::chrono::milliseconds(50);
  bool wrong = false;
  for (uint32_t i = 0; std::chrono::steady_clock::now() < end; ++i) {
    watch.Receive(bytes.data(), bytes.size(), MSG_DONTWAIT | (i % 5 == 0 ? MSG_PEEK : 0));
    watch.Send(1 + i * 37 % 9000);
    pollfd one{e.sock, POLLIN | POLLOUT | POLLRDHUP, 0};
    watch.Known(poll(&one, 1, 0));
    watch.Known(epoll_wait(ep, &event, 1, i % 7 == 0 ? 1 : 0));
    if (i % 16 == 0) {
      watch.Wait([&] { return watch.Receive(bytes.data(), bytes.size(), 0) < 0 && errno == EAGAIN; });
      one = {e.sock, POLLIN, 0};
      watch.Wait([&] { return watch.Known(poll(&one, 1, kWaitMs)) == 0; });
      watch.Wait([&] { return watch.Known(epoll_wait(bytes_ep, &event, 1, kWaitMs)) == 0; });
    }
    e.SendAll(left, Pattern(500, i));
    wrong |= e.RecvAll(right, 500) != Pattern(500, i);
    e.SendAll(right, Pattern(100, i));
    wrong |= e.RecvAll(left, 100) != Pattern(100, i);
  }
  limit.tv_usec = 20'000;
  setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(e.sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  for (int i = 0; i < 3; ++i) {
    watch.Receive(bytes.data(), bytes.size(), 0);
    watch.Send(bytes.size(), 0);
  }
  watch.Known(shutdown(e.sock, SHUT_WR), ENOTCONN);
  watch.Known(close(e.sock));
  if (what.stops) kill(attacker, SIGKILL);
  e.Say("%s", watch.Figures().c_str());
  e.Say("foreign bytes %d, astray %d, spun %d, errno %s, other connection disturbed %d", watch.foreign(),
        watch.astray(), watch.spun(), watch.unknown() != 0 ? strerrorname_np(watch.unknown()) : "as of a reset", wrong);
  _exit(0);
}

}  // namespace heterok8s::heterosock::behaviour
