// epoll: level, edge, one shot, exclusive, nested, duplicated, modified, mixed.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

// epoll_wait; says the events by the number they were added with, in that order (Linux promises no other).
int Wait(End& e, int ep, int timeout, int room = 16) {
  std::vector<epoll_event> events(static_cast<size_t>(room));
  errno = 0;
  int n = epoll_wait(ep, events.data(), room, timeout);
  std::string text = n < 0 ? strerrorname_np(errno) : "";
  events.resize(static_cast<size_t>(std::max(n, 0)));
  std::sort(events.begin(), events.end(),
            [](const epoll_event& a, const epoll_event& b) { return a.data.u64 < b.data.u64; });
  for (const epoll_event& each : events)
    text += " [" + std::to_string(each.data.u64) + " " + EventNames(each.events) + "]";
  e.Say("epoll_wait = %d%s", n, text.c_str());
  return n;
}

long Control(End& e, int ep, int operation, int fd, uint32_t events, uint64_t data) {
  epoll_event event{events, {.u64 = data}};
  errno = 0;
  int result = epoll_ctl(ep, operation, fd, &event);
  return e.Did(operation == EPOLL_CTL_ADD ? "add" : "mod", result, errno);
}

long Add(End& e, int ep, int fd, uint32_t events, uint64_t data = 1) {
  return Control(e, ep, EPOLL_CTL_ADD, fd, events, data);
}
long Mod(End& e, int ep, int fd, uint32_t events, uint64_t data = 1) {
  return Control(e, ep, EPOLL_CTL_MOD, fd, events, data);
}

// The client writes each part when the server calls Next(); then closes after one more.
Body Parts(std::vector<std::string> parts, std::function<void(End&, std::function<void()> next)> server) {
  return {.client =
              [parts](End& e) {
                for (const std::string& part : parts) {
                  e.Meet();
                  e.SendAll(e.sock, part);
                  e.Meet();
                }
                e.Meet();
                close(e.sock);
                e.Meet();
              },
          .server =
              [parts, server](End& e) {
                size_t at = 0;
                auto next = [&e, parts, &at] {
                  int before = 0;
                  if (at < parts.size()) before = static_cast<int>(parts[at].size());
                  e.Meet();
                  e.Meet();
                  ++at;
                  if (before)
                    e.AwaitBytes(e.sock, before);
                  else
                    e.Await(e.sock, POLLRDHUP);
                };
                server(e, next);
                while (at <= parts.size()) {
                  e.Meet();
                  e.Meet();
                  ++at;
                }
              }};
}

CASE{"epoll: level-triggered reports until drained", Parts({"abc", "def"}, [](End& e, auto next) {
       int ep = epoll_create1(EPOLL_CLOEXEC);
       Add(e, ep, e.sock, EPOLLIN | EPOLLRDHUP);
       Wait(e, ep, 0);
       next();
       Wait(e, ep, -1);
       Wait(e, ep, -1);
       e.Recv(e.sock, 1);
       Wait(e, ep, -1);
       e.Recv(e.sock, 10);
       Wait(e, ep, 0);
       next();
       Wait(e, ep, 5000);
       next();
       Wait(e, ep, 0);
       e.Recv(e.sock, 10);
       Wait(e, ep, 0);
       e.Recv(e.sock, 10);
       Wait(e, ep, 0);
     })};

CASE{"epoll: level-triggered, writable at once and all the time", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create(1);
       Add(e, ep, e.sock, EPOLLOUT);
       Wait(e, ep, 0);
       Wait(e, ep, -1);
       Mod(e, ep, e.sock, EPOLLIN | EPOLLOUT);
       Wait(e, ep, -1);
       next();
       Wait(e, ep, -1);
       e.Recv(e.sock, 10);
       Wait(e, ep, -1);
       Mod(e, ep, e.sock, EPOLLIN);
       Wait(e, ep, 10);
     })};

CASE{"epoll: edge-triggered reports each arrival once, drained or not",
     Parts({"abc", "def", "ghi"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN | EPOLLRDHUP | EPOLLET);
       Wait(e, ep, 0);
       next();
       Wait(e, ep, -1);
       Wait(e, ep, 10);
       next();
       Wait(e, ep, 5000);
       Wait(e, ep, 0);
       e.Recv(e.sock, 4);
       Wait(e, ep, 10);
       e.Recv(e.sock, 10);
       next();
       Wait(e, ep, 5000);
       e.Recv(e.sock, 1);
       next();
       Wait(e, ep, 5000);
       Wait(e, ep, 10);
     })};

CASE{"epoll: edge-triggered, both directions", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN | EPOLLOUT | EPOLLET);
       Wait(e, ep, 0);
       Wait(e, ep, 0);
       next();
       Wait(e, ep, 5000);
       Wait(e, ep, 0);
     })};

CASE{"epoll: edge-triggered added to what is readable already", Parts({"abc", "def"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       next();
       Add(e, ep, e.sock, EPOLLIN | EPOLLET);
       Wait(e, ep, 0);
       Wait(e, ep, 0);
       Mod(e, ep, e.sock, EPOLLIN | EPOLLET, 2);
       Wait(e, ep, 0);
       Wait(e, ep, 0);
       DO(epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr));
       Wait(e, ep, 0);
       Add(e, ep, e.sock, EPOLLIN | EPOLLET, 3);
       Wait(e, ep, 0);
       Wait(e, ep, 0);
     })};

CASE{"epoll: one shot, armed again by MOD", Parts({"abc", "def"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN | EPOLLONESHOT);
       next();
       Wait(e, ep, -1);
       Wait(e, ep, 10);
       next();
       Wait(e, ep, 10);
       Mod(e, ep, e.sock, EPOLLIN | EPOLLONESHOT, 2);
       Wait(e, ep, 5000);
       next();
       Wait(e, ep, 10);
       Mod(e, ep, e.sock, EPOLLIN | EPOLLONESHOT | EPOLLET | EPOLLRDHUP, 3);
       Wait(e, ep, 5000);
       Wait(e, ep, 0);
     })};

CASE{"epoll: MOD of what waits for nothing", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, 0);
       next();
       Wait(e, ep, 10);
       Mod(e, ep, e.sock, EPOLLIN);
       Wait(e, ep, 0);
       Mod(e, ep, e.sock, EPOLLOUT);
       Wait(e, ep, 0);
       Mod(e, ep, e.sock, EPOLLPRI);
       Wait(e, ep, 10);
     })};

CASE{"epoll: exclusive in two sets", Parts({"abc"}, [](End& e, auto next) {
       int a = epoll_create1(0), b = epoll_create1(0);
       Add(e, a, e.sock, EPOLLIN | EPOLLEXCLUSIVE);
       Add(e, b, e.sock, EPOLLIN | EPOLLEXCLUSIVE);
       Mod(e, a, e.sock, EPOLLIN);
       next();
       Wait(e, a, -1);
       Wait(e, b, -1);
       e.Recv(e.sock, 10);
       Wait(e, a, 0);
       Wait(e, b, 0);
       Add(e, a, e.sock, EPOLLIN | EPOLLONESHOT | EPOLLEXCLUSIVE);
     })};

CASE{"epoll: in two sets, level and edge", Parts({"abc", "def"}, [](End& e, auto next) {
       int a = epoll_create1(0), b = epoll_create1(0);
       Add(e, a, e.sock, EPOLLIN);
       Add(e, b, e.sock, EPOLLIN | EPOLLET);
       next();
       Wait(e, a, -1);
       Wait(e, b, -1);
       Wait(e, a, -1);
       Wait(e, b, 0);
       next();
       Wait(e, b, 5000);
       Wait(e, a, -1);
     })};

CASE{"epoll: a set in a set, and in poll and select", Parts({"abc", "def"}, [](End& e, auto next) {
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
     })};

CASE{"epoll: sleeping in poll on a set",
     {.client =
          [](End& e) {
            e.Meet();
            Sleep(15);
            e.SendAll(e.sock, "abc");
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            int ep = epoll_create1(0);
            Add(e, ep, e.sock, EPOLLIN);
            pollfd one{ep, POLLIN, 0};
            e.Meet();
            DO(poll(&one, 1, 5000));
            Wait(e, ep, 0);
          }}};

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

CASE{"epoll: the end, half and whole", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0), edge = epoll_create1(0), deaf = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
       Add(e, edge, e.sock, EPOLLIN | EPOLLRDHUP | EPOLLET);
       Add(e, deaf, e.sock, 0);
       next();
       next();
       Wait(e, ep, 0);
       Wait(e, edge, 0);
       Wait(e, deaf, 0);
       DO(shutdown(e.sock, SHUT_WR));
       e.Await(e.sock, POLLHUP);
       Wait(e, ep, 0);
       Wait(e, edge, 0);
       Wait(e, deaf, 0);
       Wait(e, deaf, 0);
       e.Recv(e.sock, 10);
       Wait(e, ep, 0);
     })};

CASE{"epoll: a reset",
     {.client =
          [](End& e) {
            int ep = epoll_create1(0), deaf = epoll_create1(0);
            Add(e, ep, e.sock, EPOLLIN | EPOLLRDHUP | EPOLLET);
            Add(e, deaf, e.sock, EPOLLONESHOT);
            e.SendAll(e.sock, "never read");
            e.Meet();
            Wait(e, deaf, 5000);
            Wait(e, deaf, 0);
            Wait(e, ep, 0);
            Wait(e, ep, 0);
            e.Recv(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 10);
            DO(close(e.sock));
            e.Meet();
          }}};

CASE{"epoll: a full socket becomes writable",
     {.client =
          [](End& e) {
            int level = epoll_create1(0), edge = epoll_create1(0);
            Add(e, level, e.sock, EPOLLOUT | EPOLLIN);
            Add(e, edge, e.sock, EPOLLOUT | EPOLLIN | EPOLLET);
            int total = e.Fill(e.sock);
            Wait(e, level, 10);
            Wait(e, edge, 0);
            Wait(e, edge, 10);
            e.Tell(total);
            e.Meet();
            Wait(e, edge, 5000);
            e.Meet();
            Wait(e, level, 0);
            e.Meet();  // no end before this
          },
      .server =
          [](End& e) {
            e.Meet();
            e.RecvAll(e.sock, static_cast<size_t>(e.Told()));
            e.Meet();
            e.Meet();
          }}};

CASE{"epoll: a duplicate keeps the item of a closed descriptor", Parts({"abc", "def"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       int copy = dup(e.sock);
       Add(e, ep, e.sock, EPOLLIN, 7);
       next();
       Wait(e, ep, 0);
       int first = e.sock;
       e.sock = copy;
       DO(close(first) == 0);
       Wait(e, ep, 0);
       e.Recv(copy, 10);
       next();
       Wait(e, ep, 5000);
       epoll_event event{EPOLLIN, {.u64 = 8}};
       DO(epoll_ctl(ep, EPOLL_CTL_MOD, first, &event));
       Add(e, ep, copy, EPOLLIN, 9);
       Wait(e, ep, 0);
     })};

CASE{"epoll: one socket under two descriptors", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0);
       int copy = dup(e.sock);
       Add(e, ep, e.sock, EPOLLIN, 1);
       Add(e, ep, copy, EPOLLIN | EPOLLET, 2);
       next();
       Wait(e, ep, 0);
       Wait(e, ep, 0);
       DO(epoll_ctl(ep, EPOLL_CTL_DEL, e.sock, nullptr));
       Wait(e, ep, 0);
       Mod(e, ep, copy, EPOLLIN, 3);
       Wait(e, ep, 0);
     })};

CASE{"epoll: the last close takes the item away", Parts({"abc"}, [](End& e, auto next) {
       int ep = epoll_create1(0), ends[2];
       DO(pipe(ends));
       Add(e, ep, e.sock, EPOLLIN, 1);
       Add(e, ep, ends[0], EPOLLIN, 2);
       next();
       Wait(e, ep, 0);
       e.Recv(e.sock, 10);
       int number = e.sock;
       int copy = dup(e.sock);
       DO(close(number) == 0);
       DO(close(copy) == 0);
       Wait(e, ep, 0);
       DO(write(ends[1], "x", 1));
       Wait(e, ep, 0);
       int fresh = socket(e.family, SOCK_STREAM, 0);
       e.Say("same number again: %d", fresh == number);
       Wait(e, ep, 0);
       Add(e, ep, fresh, EPOLLIN, 3);
       Wait(e, ep, 0);
       DO(close(fresh) == 0);
     })};

CASE{"epoll: what epoll_ctl refuses", Parts({"abc"}, [](End& e, auto) {
       int ep = epoll_create1(0), other = epoll_create1(0), file = open("/proc/self/exe", O_RDONLY);
       Add(e, ep, e.sock, EPOLLIN);
       Add(e, ep, e.sock, EPOLLIN);
       Mod(e, ep, other, EPOLLIN);
       epoll_event event{EPOLLIN, {.u64 = 1}};
       DO(epoll_ctl(ep, EPOLL_CTL_DEL, other, nullptr));
       DO(epoll_ctl(ep, EPOLL_CTL_ADD, ep, &event));
       DO(epoll_ctl(ep, EPOLL_CTL_ADD, file, &event));
       DO(epoll_ctl(ep, EPOLL_CTL_ADD, 1000, &event));
       DO(epoll_ctl(e.sock, EPOLL_CTL_ADD, ep, &event));
       DO(epoll_ctl(1000, EPOLL_CTL_ADD, e.sock, &event));
       DO(epoll_ctl(ep, 77, e.sock, &event));
       DO(epoll_ctl(ep, EPOLL_CTL_MOD, e.sock, nullptr));
       DO(epoll_ctl(ep, EPOLL_CTL_ADD, other, &event));
       DO(epoll_ctl(other, EPOLL_CTL_ADD, ep, &event));
       DO(epoll_wait(ep, &event, 0, 0));
       DO(epoll_wait(ep, &event, -1, 0));
       DO(epoll_wait(e.sock, &event, 1, 0));
       DO(epoll_wait(1000, &event, 1, 0));
       DO(epoll_create(0));
       DO(epoll_create1(1));
     })};

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
