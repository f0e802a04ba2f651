// calls BATCHES: what single calls cost, in ns. With a preloaded library whose agent is away, less the same without it,
// that is the cost of hooks. The first line names the calls, with tabs between; then a line for each batch of them.
#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "bench/heterosock/wire.h"

namespace heterok8s::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kBatch = 1000;

struct Call {
  const char* name;
  std::function<void()> make;
};

int Calls(int batches) {
  const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  const Place place = Listen("tcp", 1);
  const int socket = Connect(place), other_end = Accept(place);
  pollfd one{null, POLLOUT, 0}, silent{socket, POLLIN, 0}, both[]{one, silent};
  const int set = epoll_create1(EPOLL_CLOEXEC), ready = epoll_create1(EPOLL_CLOEXEC);
  const int one_more = eventfd(1, EFD_CLOEXEC);
  epoll_event event{EPOLLIN, {}};
  if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, socket, &event) != 0 ||
      epoll_ctl(ready, EPOLL_CTL_ADD, socket, &event) != 0 || epoll_ctl(ready, EPOLL_CTL_ADD, one_more, &event) != 0)
    Die("epoll");
  char byte = 0;
  const Call calls[] = {
      {"write to /dev/null", [&] { (void)!write(null, &byte, 1); }},
      {"poll of /dev/null", [&] { poll(&one, 1, 0); }},
      {"recv on a silent socket", [&] { recv(socket, &byte, 1, MSG_DONTWAIT); }},
      {"poll of that", [&] { poll(&silent, 1, 0); }},
      {"poll of both that may sleep", [&] { poll(both, 2, -1); }},
      {"epoll_wait on a set with it", [&] { epoll_wait(set, &event, 1, 0); }},
      {"epoll_wait that may sleep, on a set with more", [&] { epoll_wait(ready, &event, 1, -1); }},
  };

  for (const Call& call : calls) std::printf("%s\t", call.name);
  std::printf("\n");
  for (int i = 0; i < batches; ++i) {
    for (const Call& call : calls) {
      const Clock::time_point start = Clock::now();
      for (int k = 0; k < kBatch; ++k) call.make();
      std::printf("%.2f\t", std::chrono::duration<double, std::nano>(Clock::now() - start).count() / kBatch);
    }
    std::printf("\n");
  }
  close(other_end);
  return 0;
}

}  // namespace
}  // namespace heterok8s::bench

int main(int argc, char** argv) {
  if (argc == 2) return heterok8s::bench::Calls(std::atoi(argv[1]));
  std::fprintf(stderr, "usage: calls BATCHES\n");
  return 2;
}
