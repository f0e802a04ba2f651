// crowd WIRE CONNECTIONS SECONDS busy|idle|burst PROCESSES CPU SETTLE: many connections of a wire (wire.h) between so
// many clients and as many servers, which share them evenly, all on that CPU (-1: wherever). With tcp-spin nobody
// waits, all ask again and again.
//
// All are made and each has carried 4 KiB there and back five times (so that a preloaded library has moved what it
// moves). Those that it has not go on, for SETTLE seconds at most. Then for SECONDS nothing happens (idle), or each
// client sends 16 bytes back and forth on one after the other (busy). With burst, each has carried 256 KiB at once,
// then nothing for a second, then 16 bytes, before it is idle. Prints
//   memory BYTES    what all processes' private and shared memory grew by (PSS), and what the kernel says it holds
//   kernel BYTES    for TCP buffers (/proc/net/sockstat)
//   cpu PERCENT     of one CPU, all processes together, during SECONDS
//   rate N          round trips a second, of all clients (busy)
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

// One end of what a client and the first process say to each other. That one says when to go on.
struct Talk {
  int fd;

  void Tell(double value) const {
    if (write(fd, &value, sizeof value) != sizeof value) Die("tell");
  }
  double Hear() const {
    double value = 0;
    if (read(fd, &value, sizeof value) != sizeof value) Die("hear of the other process");
    return value;
  }
};

struct Plan {
  size_t count;  // of each client
  double settle, seconds;
  bool busy, burst;
};

size_t CountMoved(const std::vector<int>& fds) {
  return static_cast<size_t>(std::count_if(fds.begin(), fds.end(), Moved));
}

[[noreturn]] void BeClient(const Place& place, const Plan& plan, const Talk& first) {
  first.Hear();
  std::vector<char> bytes(4096, 'x');
  std::vector<int> fds(plan.count);
  for (int& fd : fds) {
    fd = Connect(place);
    Exchange(fd, bytes, bytes.size(), place.spin);
  }
  for (int round = 1; round < 5; ++round) {
    for (int fd : fds) Exchange(fd, bytes, bytes.size(), place.spin);
  }
  const Clock::time_point until = Clock::now() + std::chrono::milliseconds(static_cast<long>(plan.settle * 1e3));
  while (Preloaded() && Clock::now() < until && CountMoved(fds) < fds.size()) {
    for (int fd : fds) {
      if (!Moved(fd)) Exchange(fd, bytes, bytes.size(), place.spin);
    }
  }
  if (plan.burst) {
    std::vector<char> many(256 << 10, 'x');
    for (int fd : fds) Exchange(fd, many, many.size(), place.spin);
    usleep(1'200'000);
    for (int fd : fds) Exchange(fd, bytes, 16, place.spin);
  }
  first.Tell(0);
  first.Hear();
  first.Tell(static_cast<double>(CountMoved(fds)));

  first.Hear();
  size_t round_trips = 0;
  Clock::time_point start = Clock::now();
  std::chrono::duration<double> took{0};
  for (size_t i = 0; plan.busy && took.count() < plan.seconds; i = (i + 7919) % plan.count, ++round_trips) {
    Exchange(fds[i], bytes, 16, place.spin);
    took = Clock::now() - start;
  }
  if (!plan.busy) usleep(static_cast<useconds_t>(plan.seconds * 1e6));
  first.Tell(plan.busy ? static_cast<double>(round_trips) / took.count() : 0);
  first.Hear();
  first.Tell(static_cast<double>(CountMoved(fds)));
  while (true) pause();
}

// The first process's: it starts the others and looks at them.
class Crowd {
 public:
  Crowd(const std::string& wire, const Plan& plan, int processes) {
    for (int i = 0; i < processes; ++i) {
      const Place place = Listen(wire, 1024);
      Start([&] { Serve(place); });
      int ends[2];
      if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) Die("socketpair");
      Start([&] {
        close(place.fd);
        close(ends[0]);
        BeClient(place, plan, {ends[1]});
      });
      close(place.fd);
      close(ends[1]);
      clients_.push_back({ends[0]});
    }
  }
  ~Crowd() {
    for (pid_t pid : others_) kill(pid, SIGKILL);
    for (pid_t pid : others_) waitpid(pid, nullptr, 0);
  }
  Crowd(const Crowd&) = delete;
  Crowd& operator=(const Crowd&) = delete;

  void GoOn() const {
    for (const Talk& client : clients_) client.Tell(0);
  }
  // What all clients say, together.
  double Hear() const {
    double sum = 0;
    for (const Talk& client : clients_) sum += client.Hear();
    return sum;
  }
  template <typename Of>
  auto Sum(Of of) const {
    auto sum = of(getpid());
    for (pid_t pid : others_) sum += of(pid);
    return sum;
  }

 private:
  template <typename Act>
  void Start(Act act) {
    const pid_t pid = fork();
    if (pid < 0) Die("fork");
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      act();
    }
    others_.push_back(pid);
  }

  std::vector<pid_t> others_;
  std::vector<Talk> clients_;
};

// Room for `count` connections in each process; how many of them may move.
size_t RaiseFileLimit(size_t count) {
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
  return static_cast<size_t>(files.rlim_max - files.rlim_cur) / 3;
}

int Main(int argc, char** argv) {
  const size_t count = argc == 8 ? static_cast<size_t>(std::atoi(argv[2])) : 0;
  const int processes = argc == 8 ? std::atoi(argv[5]) : 0;
  if (processes < 1 || count == 0 || count % static_cast<size_t>(processes) != 0) {
    std::fprintf(stderr,
                 "usage: crowd WIRE CONNECTIONS SECONDS busy|idle|burst PROCESSES CPU SETTLE\n"
                 "PROCESSES is a divisor of CONNECTIONS\n");
    return 2;
  }
  const Plan plan{count / static_cast<size_t>(processes), std::atof(argv[7]), std::atof(argv[3]),
                  !std::strcmp(argv[4], "busy"), !std::strcmp(argv[4], "burst")};
  Pin(std::atoi(argv[6]));
  const size_t room = RaiseFileLimit(plan.count) * static_cast<size_t>(processes);

  const Crowd crowd(argv[1], plan, processes);
  const long before = crowd.Sum(Pss), kernel_before = KernelTcp();
  crowd.GoOn();
  crowd.Hear();
  sleep(1);  // what is still being arranged in the background
  crowd.GoOn();
  const double moved = crowd.Hear();

  double cpu = crowd.Sum(Cpu);
  const Clock::time_point start = Clock::now();
  crowd.GoOn();
  const double rate = crowd.Hear();
  cpu = (crowd.Sum(Cpu) - cpu) / std::chrono::duration<double>(Clock::now() - start).count() * 100;
  crowd.GoOn();
  const double moved_after = crowd.Hear();
  std::printf("memory %ld\nkernel %ld\ncpu %.2f\nrate %.0f\nmoved %.0f\nmoved_after %.0f\nroom %zu\n",
              crowd.Sum(Pss) - before, std::max(0L, KernelTcp() - kernel_before), cpu, rate, moved, moved_after, room);
  return 0;
}

}  // namespace
}  // namespace heterok8s::bench

int main(int argc, char** argv) { return heterok8s::bench::Main(argc, argv); }
