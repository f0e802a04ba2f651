// crowd WIRE CONNECTIONS SECONDS busy|idle|burst [CPU]: many connections of a wire (wire.h) between two processes, both
// on that CPU if there is one. With tcp-spin nobody waits, both ask again and again.
//
// All are made and each has carried a few KiB (so that a preloaded library has moved what it moves). Then for SECONDS
// nothing happens (idle), or 16 bytes go back and forth on one after the other (busy). With burst, each has carried
// 256 KiB at once, then nothing for a second, then 16 bytes, before it is idle. Prints
//   memory BYTES    what both processes' private and shared memory grew by (PSS), and what the kernel says it holds
//   kernel BYTES    for TCP buffers (/proc/net/sockstat)
//   cpu PERCENT     of one CPU, both processes together, during SECONDS
//   rate N          round trips a second (busy)
//   moved N         connections on shared memory before these SECONDS
//   moved_after N   and at their end
//   room N          connections for whose channels this machine's hard limit leaves descriptors above the soft one
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "bench/heterosock/wire.h"

namespace heterok8s::bench {
namespace {

using Clock = std::chrono::steady_clock;

long Pss(pid_t pid) {  // bytes
  std::ifstream file("/proc/" + std::to_string(pid) + "/smaps_rollup");
  std::string word;
  long value = 0;
  while (file >> word) {
    if (word == "Pss:") file >> value;
  }
  return value * 1024;
}

long KernelTcp() {  // bytes
  std::ifstream file("/proc/net/sockstat");
  std::string word;
  long pages = 0;
  bool tcp = false;
  while (file >> word) {
    if (word == "TCP:") tcp = true;
    if (tcp && word == "mem") {
      file >> pages;
      break;
    }
  }
  return pages * getpagesize();
}

double Cpu(pid_t pid) {  // seconds so far
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string all((std::istreambuf_iterator<char>(file)), {});
  all = all.substr(all.rfind(')') + 2);
  long user = 0, system = 0;
  std::sscanf(all.c_str(), "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld", &user, &system);
  return static_cast<double>(user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

void Answer(int fd, const char* bytes, size_t size) {
  while (size > 0) {
    ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) return;
    if (sent < 0) {
      pollfd room{fd, POLLOUT, 0};
      poll(&room, 1, 1000);
      continue;
    }
    bytes += sent;
    size -= static_cast<size_t>(sent);
  }
}

// Answers what comes on every connection.
[[noreturn]] void Serve(const Place& place) {
  const int listener = place.fd;
  int ep = epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{EPOLLIN, {.fd = listener}};
  epoll_ctl(ep, EPOLL_CTL_ADD, listener, &event);
  std::vector<epoll_event> events(256);
  std::vector<char> bytes(8192);
  while (true) {
    int n = epoll_wait(ep, events.data(), static_cast<int>(events.size()), place.spin ? 0 : -1);
    for (int i = 0; i < n; ++i) {
      int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == listener) {
        int conn = Accept(place);
        fcntl(conn, F_SETFL, O_NONBLOCK);
        event = {EPOLLIN, {.fd = conn}};
        epoll_ctl(ep, EPOLL_CTL_ADD, conn, &event);
        continue;
      }
      ssize_t got = recv(fd, bytes.data(), bytes.size(), 0);
      if (got > 0) {
        Answer(fd, bytes.data(), static_cast<size_t>(got));
      } else if (got == 0 || errno != EAGAIN) {
        close(fd);
      }
    }
  }
}

void Exchange(int fd, std::vector<char>& bytes, size_t size, bool spin) {
  if (send(fd, bytes.data(), size, MSG_NOSIGNAL) != static_cast<ssize_t>(size)) Die("send");
  ReceiveAll(fd, bytes.data(), size, spin);
}

int Main(int argc, char** argv) {
  if (argc != 5 && argc != 6) {
    std::fprintf(stderr, "usage: crowd WIRE CONNECTIONS SECONDS busy|idle|burst [CPU]\n");
    return 2;
  }
  size_t count = static_cast<size_t>(std::atoi(argv[2]));
  double seconds = std::atof(argv[3]);
  bool busy = !std::strcmp(argv[4], "busy"), burst = !std::strcmp(argv[4], "burst");
  if (argc == 6) Pin(std::atoi(argv[5]));
  rlimit files{count + 1024, count + 1024};
  rlimit most{};
  getrlimit(RLIMIT_NOFILE, &most);
  files.rlim_max = std::max(files.rlim_max, most.rlim_max);
  // A connection that has moved takes three descriptors more, above the soft limit.
  rlimit enough{files.rlim_cur, std::max<rlim_t>(files.rlim_max, 4 * count + 4096)};
  if (setrlimit(RLIMIT_NOFILE, &enough) == 0) {
    files = enough;
  } else if (setrlimit(RLIMIT_NOFILE, &files) != 0) {
    Die("setrlimit");
  }

  const Place place = Listen(argv[1], 1024);
  pid_t server = fork();
  if (server == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    Serve(place);
  }
  close(place.fd);

  std::vector<char> bytes(4096, 'x');
  long before = Pss(getpid()) + Pss(server), kernel_before = KernelTcp();
  std::vector<int> fds(count);
  for (int& fd : fds) {
    fd = Connect(place);
    Exchange(fd, bytes, bytes.size(), place.spin);
  }
  for (int round = 0; round < 4; ++round) {
    for (int fd : fds) Exchange(fd, bytes, bytes.size(), place.spin);
  }
  if (burst) {
    std::vector<char> many(256 << 10, 'x');
    for (int fd : fds) Exchange(fd, many, many.size(), place.spin);
    usleep(1'200'000);
    for (int fd : fds) Exchange(fd, bytes, 16, place.spin);
  }
  sleep(1);  // what is still being arranged in the background

  size_t moved = 0, round_trips = 0;
  for (int fd : fds) moved += Moved(fd);
  double cpu = Cpu(getpid()) + Cpu(server);
  Clock::time_point start = Clock::now();
  std::chrono::duration<double> took{0};
  for (size_t i = 0; busy && took.count() < seconds; i = (i + 7919) % count, ++round_trips) {
    Exchange(fds[i], bytes, 16, place.spin);
    took = Clock::now() - start;
  }
  if (!busy) {
    usleep(static_cast<useconds_t>(seconds * 1e6));
    took = Clock::now() - start;
  }
  cpu = (Cpu(getpid()) + Cpu(server) - cpu) / took.count() * 100;
  size_t moved_after = 0;
  for (int fd : fds) moved_after += Moved(fd);
  std::printf("memory %ld\nkernel %ld\ncpu %.2f\nrate %.0f\nmoved %zu\nmoved_after %zu\nroom %zu\n",
              Pss(getpid()) + Pss(server) - before, std::max(0L, KernelTcp() - kernel_before), cpu,
              static_cast<double>(round_trips) / took.count(), moved, moved_after,
              static_cast<size_t>(files.rlim_max - files.rlim_cur) / 3);
  kill(server, SIGKILL);
  waitpid(server, nullptr, 0);
  return 0;
}

}  // namespace
}  // namespace heterok8s::bench

int main(int argc, char** argv) { return heterok8s::bench::Main(argc, argv); }
