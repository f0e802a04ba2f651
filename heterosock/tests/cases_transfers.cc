// Bytes in order, in quantity: whole transfers of all sizes, buffers that fill, readers that wait.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

// A transfer of `total` bytes in the sizes that `size` gives, both ways at once.
void BothWays(End& e, size_t total, size_t (*size)(size_t)) {
  std::thread writer([&e, total, size] {
    std::string bytes = Pattern(total, e.role == Role::kClient ? 1 : 2);
    size_t at = 0;
    for (size_t i = 0; at < total; ++i) {
      size_t n = std::min(size(i), total - at);
      e.SendAll(e.sock, {bytes.data() + at, n});
      at += n;
    }
    shutdown(e.sock, SHUT_WR);
  });
  e.Drain(e.sock, e.role == Role::kClient ? 4001 : 65537);
  writer.join();
}

void AllBeforeReading(End& e, bool nonblocking) {
  const std::string bytes = Pattern(3 << 19, e.role == Role::kClient ? 1 : 2);
  if (nonblocking) DO(fcntl(e.sock, F_SETFL, O_NONBLOCK));
  size_t at = 0;
  while (at < bytes.size()) {
    const ssize_t n = write(e.sock, bytes.data() + at, bytes.size() - at);
    if (n > 0)
      at += static_cast<size_t>(n);
    else if (errno == EAGAIN)
      Sleep(5);
    else
      break;
  }
  e.Say("wrote %zu", at);
  if (nonblocking) DO(fcntl(e.sock, F_SETFL, 0));
  DO(shutdown(e.sock, SHUT_WR));
  e.Drain(e.sock, 50'000);
}

CASE{"stream: 3 MiB both ways at once, in chunks of odd sizes",
     {.client = [](End& e) { BothWays(e, 3 << 20, [](size_t i) { return 1 + (i * 7919) % 30011; }); },
      .server = [](End& e) { BothWays(e, 3 << 20, [](size_t i) { return 1 + (i * 104729) % 70001; }); }}};

CASE{"stream: 8 MiB in chunks of 1 MiB",
     {.client = [](End& e) { BothWays(e, 8 << 20, [](size_t) { return size_t{1} << 20; }); },
      .server = [](End& e) { BothWays(e, 1000, [](size_t) { return size_t{13}; }); }}};

CASE{"stream: 20,000 writes of a byte",
     {.client = [](End& e) { BothWays(e, 20000, [](size_t) { return size_t{1}; }); },
      .server = [](End& e) { BothWays(e, 10, [](size_t) { return size_t{1}; }); }}};

// Linux takes 4 MB of each by default, if the machine has 1 GB (tcp_wmem), more than any ring has.
CASE{"stream: both write more than fits into a ring before they read",
     {.client = [](End& e) { AllBeforeReading(e, false); }, .server = [](End& e) { AllBeforeReading(e, false); }}};

CASE{"stream: both write more than fits into a ring before they read, without blocking",
     {.client = [](End& e) { AllBeforeReading(e, true); }, .server = [](End& e) { AllBeforeReading(e, true); }}};

CASE{"stream: a writer fills everything and waits for the reader",
     {.client =
          [](End& e) {
            std::string bytes = Pattern(12 << 20);
            DO(write(e.sock, bytes.data(), bytes.size()));
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            Sleep(30);
            e.Drain(e.sock, 100'003);
          }}};

CASE{"stream: a non-blocking writer and reader over poll",
     {.client =
          [](End& e) {
            DO(fcntl(e.sock, F_SETFL, O_NONBLOCK));
            std::string bytes = Pattern(5 << 20);
            size_t at = 0;
            while (at < bytes.size()) {
              ssize_t n = write(e.sock, bytes.data() + at, bytes.size() - at);
              if (n > 0)
                at += static_cast<size_t>(n);
              else if (errno != EAGAIN || !e.Await(e.sock, POLLOUT))
                break;
            }
            e.Say("wrote %zu", at);
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            DO(fcntl(e.sock, F_SETFL, O_NONBLOCK));
            e.Drain(e.sock, 50'000);
          }}};

CASE{"stream: a full buffer says EAGAIN, and takes more once it was drained",
     {.client =
          [](End& e) {
            e.Tell(e.Fill(e.sock));
            pollfd one{e.sock, POLLOUT, 0};
            e.Meet();
            DO(poll(&one, 1, 5000));
            DO(send(e.sock, "z", 1, MSG_DONTWAIT));
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            std::string bytes = e.RecvAll(e.sock, static_cast<size_t>(e.Told()));
            e.Say("all x: %d", bytes.find_first_not_of('x') == std::string::npos);
            e.Meet();
            e.Recv(e.sock, 10);
          }}};

CASE{"stream: the reader is blocked before the first byte, and while much passes the other way",
     {.client =
          [](End& e) {
            std::thread reader([&e] { e.Recv(e.sock, 10, MSG_WAITALL); });
            for (int i = 0; i < 40; ++i) e.SendAll(e.sock, Pattern(4096, static_cast<uint32_t>(i)));
            e.Meet();
            reader.join();
          },
      .server =
          [](End& e) {
            std::string bytes = e.RecvAll(e.sock, 40 * 4096);
            e.Say("sum %llx", static_cast<unsigned long long>(Sum(bytes)));
            e.Meet();
            DO(write(e.sock, "01234", 5));
            Sleep(5);
            DO(write(e.sock, "56789", 5));
            e.Drain(e.sock, 10);
          }}};

CASE{"stream: ping-pong of growing sizes",
     {.client =
          [](End& e) {
            for (size_t size = 1; size < 300'000; size = size * 3 + 1) {
              e.SendAll(e.sock, Pattern(size));
              e.Say("%zu: %d", size, e.RecvAll(e.sock, size) == Pattern(size, 2));
            }
          },
      .server =
          [](End& e) {
            for (size_t size = 1; size < 300'000; size = size * 3 + 1) {
              e.Say("%zu: %d", size, e.RecvAll(e.sock, size) == Pattern(size));
              e.SendAll(e.sock, Pattern(size, 2));
            }
          }}};

// The ring's memory is given back about now.
CASE{"stream: small pieces long after a large one",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, Pattern(900'000));
            e.Say("%d", e.RecvAll(e.sock, 900'000) == Pattern(900'000, 2));
            Sleep(1100);
            for (size_t i = 0; i < 700; ++i) {
              e.SendAll(e.sock, Pattern(i % 50 + 1));
              e.Say("%d", e.RecvAll(e.sock, i % 70 + 1) == Pattern(i % 70 + 1, 3));
            }
            e.SendAll(e.sock, Pattern(900'000, 4));
            e.Drain(e.sock, 10'000);
          },
      .server =
          [](End& e) {
            e.Say("%d", e.RecvAll(e.sock, 900'000) == Pattern(900'000));
            e.SendAll(e.sock, Pattern(900'000, 2));
            for (size_t i = 0; i < 700; ++i) {
              e.Say("%d", e.RecvAll(e.sock, i % 50 + 1) == Pattern(i % 50 + 1));
              e.SendAll(e.sock, Pattern(i % 70 + 1, 3));
            }
            e.Say("%d", e.RecvAll(e.sock, 900'000) == Pattern(900'000, 4));
          }}};

// Two connections go into one pipe by a thread each, and nobody reads it: both threads wait for room, and a signal ends
// that. Both may have seen the room that one of them then took: the more rounds, the surer.
constexpr int kRounds = 40;

void SpliceTwoIntoOne(End& e) {
  e.sock = e.Accept();
  e.Warm(e.sock);
  const int other = e.Accept();
  e.Warm(other);
  struct sigaction act {};
  act.sa_handler = [](int) {};
  sigaction(SIGUSR1, &act, nullptr);
  int interrupted = 0;
  for (int round = 0; round < kRounds; ++round) {
    int ends[2];
    if (pipe(ends) != 0 || fcntl(ends[1], F_SETPIPE_SZ, 4096) < 0) e.Say("no pipe");
    std::atomic<int> ready{0}, errors[2] = {0, 0};
    const auto moves = [&](int fd, std::atomic<int>* error) {
      int looks = 0;
      for (++ready; ready < 2;) {
        if (++looks > 1000) sched_yield();  // on one processor the other thread needs it
      }
      while (splice(fd, nullptr, ends[1], nullptr, 4096, 0) > 0) {
      }
      *error = errno;
    };
    std::thread one(moves, e.sock, &errors[0]), two(moves, other, &errors[1]);
    while (errors[0] == 0 || errors[1] == 0) {
      Sleep(1);
      if (errors[0] == 0) pthread_kill(one.native_handle(), SIGUSR1);
      if (errors[1] == 0) pthread_kill(two.native_handle(), SIGUSR1);
    }
    one.join();
    two.join();
    interrupted += (errors[0] == EINTR) + (errors[1] == EINTR);
    close(ends[0]);
    close(ends[1]);
  }
  e.Say("%d", interrupted);
  DO(close(other));
  DO(close(e.sock));
}

CASE{"stream: a signal ends the wait of two threads that splice into one full pipe",
     {.client =
          [](End& e) {
            e.sock = e.Connect();
            e.Warm(e.sock);
            const int other = e.Connect();
            e.Warm(other);
            const auto sends = [](int fd) {
              const std::string bytes = Pattern(65'536);
              while (send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) > 0) {
              }
            };
            std::thread second(sends, other);
            sends(e.sock);
            second.join();
          },
      .server = SpliceTwoIntoOne,
      .bare = true,
      .stays = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
