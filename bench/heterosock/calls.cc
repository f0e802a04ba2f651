// calls BATCHES [WORD]: what single calls cost, in ns, all or those whose name has the word. With a preloaded library
// whose agent is away, less the same without it, that is the cost of hooks. The first line names the calls, with tabs
// between; then a line for each batch of them.
//
// What is sent stays behind a cork, as the way of a segment through the kernel takes many times what is looked for.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "bench/heterosock/wire.h"

namespace heterok8s::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Call {
  const char* name;
  std::function<void()> make;
  std::function<void()> before = [] {}, after = [] {};  // each batch; not measured
  int batch = 1000;                                     // times that it is made
  int calls = 1;                                        // that `make` makes
};

// The next connection's end that connects, and is reset when it is closed: it leaves no TIME_WAIT.
int ConnectToReset(const Place& place) {
  const int fd = Connect(place);
  const linger now{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
  return fd;
}

int Calls(int batches, const char* word) {
  const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  constexpr int kWaiting = 100;  // to be accepted
  const Place place = Listen("tcp", kWaiting);
  const int socket = Connect(place), other_end = Accept(place), sender = Connect(place), receiver = Accept(place);
  pollfd one{null, POLLOUT, 0}, silent{socket, POLLIN, 0}, both[]{one, silent};
  const int set = epoll_create1(EPOLL_CLOEXEC), ready = epoll_create1(EPOLL_CLOEXEC),
            changing = epoll_create1(EPOLL_CLOEXEC);
  const int one_more = eventfd(1, EFD_CLOEXEC);
  int local[2];
  epoll_event event{EPOLLIN, {}};
  if (changing < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, local) != 0 ||
      epoll_ctl(set, EPOLL_CTL_ADD, socket, &event) != 0 || epoll_ctl(ready, EPOLL_CTL_ADD, socket, &event) != 0 ||
      epoll_ctl(ready, EPOLL_CTL_ADD, one_more, &event) != 0)
    Die("set up");
  char byte = 0;
  // Enough for it to be offered, if there were an agent.
  for (int i = 0; i < 4; ++i) {
    for (const auto& [from, to] : {std::pair(sender, receiver), std::pair(receiver, sender)}) {
      if (send(from, &byte, 1, MSG_NOSIGNAL) != 1) Die("send");
      ReceiveAll(to, &byte, 1, false);
    }
  }
  iovec part{&byte, 1};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  size_t sent = 0;
  const auto count = [&](ssize_t n) { sent += n > 0 ? static_cast<size_t>(n) : 0; };
  const auto cork = [=](int on) { setsockopt(sender, IPPROTO_TCP, TCP_CORK, &on, sizeof on); };
  const auto hold = [&] { cork(1); };
  const auto drain = [&] {
    cork(0);
    std::vector<char> bytes(sent);
    ReceiveAll(receiver, bytes.data(), sent, false);
    sent = 0;
  };
  std::vector<int> waiting(kWaiting);
  const Call calls[] = {
      {"write to /dev/null", [&] { (void)!write(null, &byte, 1); }},
      {"poll of /dev/null", [&] { poll(&one, 1, 0); }},
      {"recv on a silent socket", [&] { recv(socket, &byte, 1, MSG_DONTWAIT); }},
      {"poll of that", [&] { poll(&silent, 1, 0); }},
      {"poll of both that may sleep", [&] { poll(both, 2, -1); }},
      {"epoll_wait on a set with it", [&] { epoll_wait(set, &event, 1, 0); }},
      {"epoll_wait that may sleep, on a set with more", [&] { epoll_wait(ready, &event, 1, -1); }},
      {"recvmsg on the silent socket", [&] { recvmsg(socket, &message, MSG_DONTWAIT); }},
      {"recvmsg on a silent Unix socket", [&] { recvmsg(local[0], &message, MSG_DONTWAIT); }},
      {"send on a socket", [&] { count(send(sender, &byte, 1, MSG_NOSIGNAL)); }, hold, drain},
      {"write on it", [&] { count(write(sender, &byte, 1)); }, hold, drain},
      {"sendmsg on it", [&] { count(sendmsg(sender, &message, MSG_NOSIGNAL)); }, hold, drain},
      {"epoll_ctl that changes a socket", [&] { epoll_ctl(set, EPOLL_CTL_MOD, socket, &event); }},
      {"epoll_ctl that changes an eventfd", [&] { epoll_ctl(ready, EPOLL_CTL_MOD, one_more, &event); }},
      {.name = "epoll_ctl that adds a socket, or removes it",
       .make =
           [&] {
             epoll_ctl(changing, EPOLL_CTL_ADD, socket, &event);
             epoll_ctl(changing, EPOLL_CTL_DEL, socket, &event);
           },
       .calls = 2},
      {.name = "open or close of a file", .make = [&] { close(open("/dev/null", O_RDONLY | O_CLOEXEC)); }, .calls = 2},
      {.name = "accept4 or close of a connection",
       .make = [&] { close(accept4(place.fd, nullptr, nullptr, SOCK_CLOEXEC)); },
       .before =
           [&] {
             for (int& fd : waiting) fd = ConnectToReset(place);
           },
       .after =
           [&] {
             for (int fd : waiting) close(fd);
           },
       .batch = kWaiting,
       .calls = 2},
  };

  const auto wanted = [=](const Call& call) { return std::strstr(call.name, word) != nullptr; };
  for (const Call& call : calls) {
    if (wanted(call)) std::printf("%s\t", call.name);
  }
  std::printf("\n");
  for (int i = 0; i < batches; ++i) {
    for (const Call& call : calls) {
      if (!wanted(call)) continue;
      call.before();
      const Clock::time_point start = Clock::now();
      for (int k = 0; k < call.batch; ++k) call.make();
      const std::chrono::duration<double, std::nano> took = Clock::now() - start;
      call.after();
      std::printf("%.2f\t", took.count() / (call.batch * call.calls));
    }
    std::printf("\n");
  }
  close(other_end);
  return 0;
}

}  // namespace
}  // namespace heterok8s::bench

int main(int argc, char** argv) {
  if (argc == 2 || argc == 3) return heterok8s::bench::Calls(std::atoi(argv[1]), argc == 3 ? argv[2] : "");
  std::fprintf(stderr, "usage: calls BATCHES [WORD]\n");
  return 2;
}
