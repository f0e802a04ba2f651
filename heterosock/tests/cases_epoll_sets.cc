// epoll, whole sets: nested, slept in, mixed with other descriptors, shared, duplicated.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "heterosock/tests/cases_epoll.h"

namespace heterok8s::heterosock::behaviour {
namespace {

using namespace epoll;  // NOLINT

CASE{"epoll: a set in a set, and in poll and select", Fenced(Parts({"abc", "def"}, [](End& e, auto next) {
       int inner = epoll_create1(0), outer = epoll_create1(0);
       Add(e, inner, e.sock, EPOLLIN, 1);
       Add(e, outer, inner, EPOLLIN, 2);
       Wait(e, outer, 0);
       pollfd one{inner, POLLIN, 0};
       DO(poll(&one, 1, 0));
       next();
       Wait(e, outer, 5000);
       DO(poll(&one, 1, 5000));
       e.Say("%s", EventNames(static_cast<unsigned>(one.revents)).c_str());
       fd_set set;
       FD_ZERO(&set);
       FD_SET(inner, &set);
       timeval limit{5, 0};
       DO(select(inner + 1, &set, nullptr, nullptr, &limit));
       Wait(e, inner, 0);
       e.Recv(e.sock, 10);
       DO(poll(&one, 1, 0));
       Wait(e, outer, 0);
       one.fd = outer;
       DO(poll(&one, 1, 0));
       next();
       DO(poll(&one, 1, 5000));
       Wait(e, outer, 0);
       Wait(e, inner, 0);
     }))};

CASE{"epoll: a set that is polled, and bytes that were received past it",
     Fenced(Parts({"abc", "def", "ghi"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN);
       pollfd one{ep, POLLIN, 0};
       DO(poll(&one, 1, 0));
       for (int i = 0; i < 3; ++i) {
         next();
         if (i != 1) DO(poll(&one, 1, 5000));
         e.Recv(e.sock, 3);
         DO(poll(&one, 1, 0));
       }
       Mod(e, ep, e.sock, EPOLLIN | EPOLLOUT);
       DO(poll(&one, 1, 0));
       Wait(e, ep, 0);
       Mod(e, ep, e.sock, EPOLLIN);
       DO(poll(&one, 1, 0));
       next();
       DO(poll(&one, 1, 5000));
       Wait(e, ep, 0);
     }))};

CASE{"epoll: a set in a set, for one report, and bytes that were received past both",
     Fenced(Parts({"abc", "def", "ghi"}, [](End& e, auto next) {
       int inner = epoll_create1(0), outer = epoll_create1(0);
       Add(e, inner, e.sock, EPOLLIN, 1);
       Add(e, outer, inner, EPOLLIN | EPOLLONESHOT, 2);
       Wait(e, outer, 0);
       next();
       e.Recv(e.sock, 3);
       Wait(e, outer, 0);
       next();
       Wait(e, outer, 5000);
       e.Recv(e.sock, 3);
       Mod(e, outer, inner, EPOLLIN | EPOLLONESHOT, 2);
       Wait(e, outer, 0);
       next();
       Wait(e, outer, 5000);
       Wait(e, inner, 0);
     }))};

CASE{"epoll: an edge-triggered set that is polled hears of room",
     {.client =
          [](End& e) {
            int ep = epoll_create1(0), outer = epoll_create1(0);
            Add(e, ep, e.sock, EPOLLIN | EPOLLOUT | EPOLLET);
            Add(e, outer, ep, EPOLLIN, 2);
            Wait(e, ep, 0);
            pollfd one{ep, POLLIN, 0};
            for (int i = 0; i < 2; ++i) {
              e.Tell(e.Fill(e.sock));
              DO(poll(&one, 1, 0));
              Wait(e, outer, 0);
              e.Meet();
              if (i == 0) DO(poll(&one, 1, 5000));
              Wait(e, outer, 5000);
              e.Meet();
              Wait(e, ep, 0);
            }
            e.Meet();  // no end before this
          },
      .server =
          [](End& e) {
            for (int i = 0; i < 2; ++i) {
              e.Meet();
              e.RecvAll(e.sock, static_cast<size_t>(e.Told()));
              e.Meet();
            }
            e.Meet();
          }}};

// As long as a program has to do with what it was told; much less than the kernel could be left unasked.
void WorkFor(int microseconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(microseconds);
  while (std::chrono::steady_clock::now() < end) {
  }
}

CASE{"epoll: what is readable on TCP is told with what is in shared memory, call after call",
     {.client =
          [](End& e) {
            e.Meet();
            const int quiet = e.Connect();
            e.SendAll(quiet, "x");  // too little to move
            e.SendAll(e.sock, "abc");
            e.Meet();
          },
      .server =
          [](End& e) {
            const int listener = e.Listen();
            e.Meet();
            const int quiet = e.Accept(listener);
            const int ep = epoll_create1(0);
            Add(e, ep, quiet, EPOLLIN, 1);
            Add(e, ep, e.sock, EPOLLIN, 2);
            e.AwaitBytes(quiet, 1);
            e.AwaitBytes(e.sock, 3);
            for (int i = 0; i < 20; ++i) {
              Wait(e, ep, 1000);
              WorkFor(5);
            }
            e.Recv(quiet, 10);
            for (int i = 0; i < 3; ++i) Wait(e, ep, 1000);
            e.Meet();
          }}};

CASE{"epoll: sleeping in poll on a set",
     {.client = [](End& e) { SendToSleeper(e, 15, "abc"); },
      .server =
          [](End& e) {
            int ep = epoll_create1(0);
            Add(e, ep, e.sock, EPOLLIN);
            pollfd one{ep, POLLIN, 0};
            e.Meet();
            DO(poll(&one, 1, 5000));
            Wait(e, ep, 0);
          },
      .fenced = true}};

CASE{"epoll: sleeping, woken by the peer, many times",
     {.client =
          [](End& e) {
            for (int i = 0; i < 30; ++i) {
              e.Meet();
              if (i % 3 == 0) Sleep(3);
              e.SendAll(e.sock, "x");
            }
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            int ep = epoll_create1(0);
            Add(e, ep, e.sock, EPOLLIN | EPOLLET);
            for (int i = 0; i < 30; ++i) {
              e.Meet();
              Wait(e, ep, i % 2 ? -1 : 5000);
              e.Recv(e.sock, 10);
            }
          }}};

CASE{"epoll: the reader sleeps in the set while the connection moves",
     {.client =
          [](End& e) {
            std::thread reader([&e] { e.Drain(e.sock, 5000); });
            for (int i = 0; i < 60; ++i) {
              e.SendAll(e.sock, Pattern(2000, static_cast<uint32_t>(i)));
              if (i % 8 == 0) Sleep(2);
            }
            shutdown(e.sock, SHUT_WR);
            reader.join();
          },
      .server =
          [](End& e) {
            DO(fcntl(e.sock, F_SETFL, O_NONBLOCK));
            int ep = epoll_create1(0);
            Add(e, ep, e.sock, EPOLLIN | EPOLLET | EPOLLRDHUP);
            uint64_t sum = Sum("");
            size_t total = 0;
            std::string buffer(3000, '\0');
            for (bool open = true; open;) {
              epoll_event event;
              if (epoll_wait(ep, &event, 1, 5000) != 1) {
                e.Say("no event after %zu", total);
                break;
              }
              ssize_t n;
              while ((n = read(e.sock, buffer.data(), buffer.size())) > 0) {
                sum = Sum({buffer.data(), static_cast<size_t>(n)}, sum);
                total += static_cast<size_t>(n);
                e.SendAll(e.sock, {buffer.data(), static_cast<size_t>(n)});
              }
              open = n != 0;
            }
            e.Say("%zu sum %llx", total, static_cast<unsigned long long>(sum));
            DO(close(e.sock));
          }}};

CASE{"epoll: with a pipe, a timer, an eventfd and a signalfd", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0), ends[2];
       DO(pipe(ends));
       sigset_t mask;
       sigemptyset(&mask);
       sigaddset(&mask, SIGUSR2);
       sigprocmask(SIG_BLOCK, &mask, nullptr);
       int signals = signalfd(-1, &mask, 0), event = eventfd(0, 0), timer = timerfd_create(CLOCK_MONOTONIC, 0);
       Add(e, ep, e.sock, EPOLLIN, 1);
       Add(e, ep, ends[0], EPOLLIN, 2);
       Add(e, ep, signals, EPOLLIN, 3);
       Add(e, ep, event, EPOLLIN | EPOLLET, 4);
       Add(e, ep, timer, EPOLLIN, 5);
       Wait(e, ep, 0);
       next();
       Wait(e, ep, -1);
       DO(write(ends[1], "x", 1));
       Wait(e, ep, -1);
       raise(SIGUSR2);
       uint64_t one = 1;
       DO(write(event, &one, 8));
       Wait(e, ep, -1);
       itimerspec soon{{0, 0}, {0, 1}};
       timerfd_settime(timer, 0, &soon, nullptr);
       e.Await(timer, POLLIN);
       Wait(e, ep, -1);
       e.Recv(e.sock, 10);
       Wait(e, ep, -1);
     })};

CASE{"epoll: room for one event serves all in turn", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0), ends[2];
       DO(pipe(ends));
       DO(write(ends[1], "x", 1));
       Add(e, ep, e.sock, EPOLLIN, 1);
       Add(e, ep, ends[0], EPOLLIN, 2);
       Add(e, ep, ends[1], EPOLLOUT, 3);
       next();
       int seen[4] = {};
       for (int i = 0; i < 30; ++i) {
         epoll_event event;
         if (epoll_wait(ep, &event, 1, 0) == 1) ++seen[event.data.u64];
       }
       e.Say("each was seen: %d", seen[1] >= 5 && seen[2] >= 5 && seen[3] >= 5);
     })};

CASE{"epoll: a busy connection starves no pipe",
     {.client =
          [](End& e) {
            std::string bytes(4096, 'x');
            while (send(e.sock, bytes.data(), bytes.size(), MSG_NOSIGNAL) > 0) {
            }
          },
      .server =
          [](End& e) {
            int ep = epoll_create1(0), ends[2];
            DO(pipe(ends));
            Add(e, ep, e.sock, EPOLLIN, 1);
            Add(e, ep, ends[0], EPOLLIN, 2);
            std::string buffer(4096, '\0');
            int pipe_events = 0, socket_events = 0;
            for (int i = 0; i < 20'000 && pipe_events < 20; ++i) {
              epoll_event event;
              if (i % 100 == 50) write(ends[1], "x", 1);
              if (epoll_wait(ep, &event, 1, 5000) != 1) break;
              if (event.data.u64 == 1) {
                ++socket_events;
                recv(e.sock, buffer.data(), buffer.size(), MSG_DONTWAIT);
              } else {
                ++pipe_events;
                read(ends[0], buffer.data(), 1);
              }
            }
            e.Say("pipe %d, socket at least 100: %d", pipe_events, socket_events >= 100);
          }}};

CASE{"epoll: an item is added, and one fires, while a thread sleeps", Parts({"abc", "def"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       next();
       std::thread waiter([&] { Wait(e, ep, 5000); });
       Sleep(20);
       epoll_event event{EPOLLIN, {.u64 = 5}};
       epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event);
       waiter.join();
       Mod(e, ep, e.sock, 0);
       std::thread again([&] { Wait(e, ep, 5000); });
       Sleep(20);
       event = {EPOLLIN | EPOLLONESHOT, {.u64 = 6}};
       epoll_ctl(ep, EPOLL_CTL_MOD, e.sock, &event);
       again.join();
     })};

CASE{"epoll: epoll_pwait2's nanoseconds", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN);
       epoll_event event{};
       timespec soon{0, 2'000'000}, none{0, 0}, wrong{0, 2'000'000'000};
       DO(epoll_pwait2(ep, &event, 1, &soon, nullptr));
       DO(epoll_pwait2(ep, &event, 1, &wrong, nullptr));
       next();
       DO(epoll_pwait2(ep, &event, 1, nullptr, nullptr));
       DO(epoll_pwait2(ep, &event, 1, &none, nullptr));
     })};

CASE{"epoll: added before it is connected",
     {.client =
          [](End& e) {
            int ep = epoll_create1(0);
            int fd = socket(e.family, SOCK_STREAM | SOCK_NONBLOCK, 0);
            Add(e, ep, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
            Wait(e, ep, 0);
            e.Meet();
            socklen_t length;
            sockaddr_storage address = e.Address(e.PeerPort(), &length);
            DO(connect(fd, reinterpret_cast<sockaddr*>(&address), length));
            Wait(e, ep, 5000);
            e.Meet();
            e.SendAll(fd, Pattern(9000));
            e.RecvAll(fd, 9000);
            e.Meet();
            Wait(e, ep, 5000);
            e.Recv(fd, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            int fd = e.Accept();
            e.Meet();
            e.RecvAll(fd, 9000);
            e.SendAll(fd, Pattern(9000));
            Sleep(5);
            DO(shutdown(fd, SHUT_WR));
            e.Meet();
            e.Drain(fd, 10);
          },
      .bare = true}};

CASE{"epoll: a set shared with a child", Parts({"abc", "def"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN, 4);
       next();
       pid_t child = fork();
       if (child == 0) {
         Wait(e, ep, 5000);
         e.Recv(e.sock, 10);
         Wait(e, ep, 0);
         _exit(0);
       }
       waitpid(child, nullptr, 0);
       Wait(e, ep, 0);
       next();
       Wait(e, ep, 5000);
       DO(close(e.sock) == 0);
       Wait(e, ep, 0);
     })};

CASE{"epoll: a set duplicated and closed", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN, 4);
       int copy = fcntl(ep, F_DUPFD_CLOEXEC, 50);
       DO(close(ep) == 0);
       next();
       Wait(e, copy, 5000);
       DO(close(copy) == 0);
       epoll_event event;
       DO(epoll_wait(50, &event, 1, 0));
       e.Recv(e.sock, 10);
     })};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
