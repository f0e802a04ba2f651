// pair: two processes and one wire, for comparing wires (wire.h). CPUs: numbers, -1 for wherever.
//
//   pair latency WIRE SIZE COUNT CPU CPU [PAUSE_US]   half of each round trip of SIZE bytes, ns, one a line. With a
//   pause
//                                                     before each, the other side has gone to sleep.
//   pair stream WIRE BLOCK SECONDS CPU CPU            bytes a second, one line for each tenth of the time
//   pair connections WIRE SECONDS CPU CPU             connections a second: connect, 16 bytes and back, close
//
// Latency ends with the lines
//   cpu NS            of CPU that both processes together took for one way, waiting and all
//   waits LOOK SLEEP  of both ends on shared memory, since it began: how many ended while they looked, and how often
//   one
//                     slept (the library's own counters)
//
// The last line is "moved 1" when the connection was on shared memory at the end.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "bench/heterosock/wire.h"

namespace heterok8s::bench {
namespace {

using Clock = std::chrono::steady_clock;

// Runs `other` as a child process that goes when this one does.
pid_t Beside(const std::function<void()>& other) {
  pid_t child = fork();
  if (child < 0) Die("fork");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    other();
    _exit(0);
  }
  return child;
}

void Reap(pid_t child) {
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
}

// What both processes have taken so far, ns.
double CpuTime(pid_t other) {
  clockid_t of_other;
  timespec here{}, there{};
  if (clock_getcpuclockid(other, &of_other) != 0 || clock_gettime(of_other, &there) != 0 ||
      clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &here) != 0)
    Die("clock_gettime");
  return 1e9 * static_cast<double>(here.tv_sec + there.tv_sec) + static_cast<double>(here.tv_nsec + there.tv_nsec);
}

int Latency(const std::string& name, size_t size, int count, int here, int there, int pause_us) {
  std::unique_ptr<Wire> wire = MakeWire(name);
  pid_t child = Beside([&] {
    Pin(there);
    wire->Open(1);
    Settle(*wire, 1);
    std::vector<char> bytes(size);
    while (true) {
      wire->Receive(bytes.data(), size);
      wire->Send(bytes.data(), size);
    }
  });
  Pin(here);
  wire->Open(0);
  Settle(*wire, 0);
  std::vector<char> bytes(size, 'x');
  std::vector<long> times;
  times.reserve(static_cast<size_t>(count));
  const int warm = pause_us ? 5 : count / 10 + 10;
  double cpu = 0;
  for (int i = 0; i < count + warm; ++i) {
    if (i == warm) cpu = CpuTime(child);
    if (pause_us) usleep(static_cast<useconds_t>(pause_us));
    Clock::time_point start = Clock::now();
    wire->Send(bytes.data(), size);
    wire->Receive(bytes.data(), size);
    if (i >= warm) times.push_back((Clock::now() - start) / std::chrono::nanoseconds(2));
  }
  cpu = (CpuTime(child) - cpu) / (2 * count);
  for (long time : times) std::printf("%ld\n", time);
  const Waits waits = CountWaits();
  std::printf("cpu %.1f\nwaits %lu %lu\nmoved %d\n", cpu, waits.looked, waits.slept, Moved(wire->Descriptor()));
  Reap(child);
  return 0;
}

int Stream(const std::string& name, size_t block, double seconds, int here, int there) {
  std::unique_ptr<Wire> wire = MakeWire(name);
  pid_t child = Beside([&] {
    Pin(there);
    wire->Open(1);
    Settle(*wire, 1);
    std::vector<char> bytes(block);
    while (wire->ReceiveSome(bytes.data(), block) > 0) {
    }
  });
  Pin(here);
  wire->Open(0);
  Settle(*wire, 0);
  std::vector<char> bytes(block, 'x');
  for (int part = 0; part < 11; ++part) {
    size_t sent = 0;
    Clock::time_point start = Clock::now();
    std::chrono::duration<double> took{0};
    while (took.count() < seconds / 10) {
      wire->Send(bytes.data(), block);
      sent += block;
      took = Clock::now() - start;
    }
    if (part > 0) std::printf("%.0f\n", static_cast<double>(sent) / took.count());  // the first fills the buffers
  }
  std::printf("moved %d\n", Moved(wire->Descriptor()));
  Reap(child);
  return 0;
}

int Connections(const std::string& wire, double seconds, int here, int there) {
  const Place place = Listen(wire, 64);
  char bytes[16] = {};
  pid_t child = Beside([&] {
    Pin(there);
    while (true) {
      int fd = Accept(place);
      ReceiveAll(fd, bytes, sizeof bytes, place.spin);
      send(fd, bytes, sizeof bytes, MSG_NOSIGNAL);
      // The client closes first, so that TIME_WAIT is its own.
      while (recv(fd, bytes, 1, place.spin ? MSG_DONTWAIT : 0) < 0 && errno == EAGAIN) {
      }
      close(fd);
    }
  });
  Pin(here);
  close(place.fd);
  for (int part = 0; part < 11; ++part) {
    int made = 0;
    Clock::time_point start = Clock::now();
    std::chrono::duration<double> took{0};
    while (took.count() < seconds / 10) {
      int fd = Connect(place);
      // A reset at the end leaves no TIME_WAIT, of which a run would make more than there are ports.
      linger now{1, 0};
      setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
      if (send(fd, bytes, sizeof bytes, MSG_NOSIGNAL) < 0) Die("send");
      ReceiveAll(fd, bytes, sizeof bytes, place.spin);
      close(fd);
      ++made;
      took = Clock::now() - start;
    }
    if (part > 0) std::printf("%.0f\n", made / took.count());
  }
  std::printf("moved 0\n");
  Reap(child);
  return 0;
}

int Main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  auto number = [&](size_t i) { return std::atoi(words[i].c_str()); };
  size_t n = words.size();
  if ((n == 6 || n == 7) && words[0] == "latency")
    return Latency(words[1], static_cast<size_t>(number(2)), number(3), number(4), number(5), n == 7 ? number(6) : 0);
  if (n == 6 && words[0] == "stream")
    return Stream(words[1], static_cast<size_t>(number(2)), std::atof(words[3].c_str()), number(4), number(5));
  if (n == 5 && words[0] == "connections")
    return Connections(words[1], std::atof(words[2].c_str()), number(3), number(4));
  std::fprintf(stderr,
               "usage: pair latency WIRE SIZE COUNT CPU CPU [PAUSE_US] | stream WIRE BLOCK SECONDS CPU CPU | "
               "connections WIRE SECONDS CPU CPU\n");
  return 2;
}

}  // namespace
}  // namespace heterok8s::bench

int main(int argc, char** argv) { return heterok8s::bench::Main(argc, argv); }
