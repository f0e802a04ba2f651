// poll and select, alone and with other descriptors.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <thread>

#include "heterosock/tests/case.h"

extern "C" int __poll_chk(pollfd* fds, nfds_t n, int timeout, size_t room);
extern "C" int __ppoll_chk(pollfd* fds, nfds_t n, const timespec* timeout, const sigset_t* mask, size_t room);

namespace heterok8s::heterosock::behaviour {
namespace {

void SayPoll(End& e, std::vector<pollfd> fds, int timeout) {
  errno = 0;
  int n = poll(fds.data(), fds.size(), timeout);
  std::string text;
  for (const pollfd& each : fds) text += " " + EventNames(static_cast<unsigned>(each.revents));
  e.Say("poll = %d %s:%s", n, n < 0 ? strerrorname_np(errno) : "", text.c_str());
}

CASE{"poll: what a quiet, a readable and a drained socket are",
     {.client =
          [](End& e) {
            e.Meet();
            e.SendAll(e.sock, "abc");
            e.Meet();
          },
      .server =
          [](End& e) {
            SayPoll(e, {{e.sock, POLLIN, 0}}, 0);
            SayPoll(e, {{e.sock, POLLIN | POLLOUT, 0}}, 0);
            SayPoll(e, {{e.sock, 0, 0}}, 5);
            e.Meet();
            e.AwaitBytes(e.sock, 3);
            SayPoll(e, {{e.sock, POLLIN | POLLOUT | POLLRDHUP | POLLPRI, 0}}, -1);
            SayPoll(e, {{e.sock, POLLRDNORM | POLLWRNORM | POLLRDBAND | POLLWRBAND, 0}}, -1);
            SayPoll(e, {{e.sock, POLLOUT, 0}, {e.sock, POLLIN, 0}, {e.sock, POLLPRI, 0}}, -1);
            e.Recv(e.sock, 2);
            SayPoll(e, {{e.sock, POLLIN, 0}}, 0);
            e.Recv(e.sock, 2);
            SayPoll(e, {{e.sock, POLLIN, 0}}, 0);
            e.Meet();
          }}};

CASE{"poll: sleeps until the peer writes",
     {.client =
          [](End& e) {
            for (int i = 0; i < 20; ++i) {
              e.Meet();
              Sleep(i % 4);
              e.SendAll(e.sock, "x");
            }
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            for (int i = 0; i < 20; ++i) {
              e.Meet();
              SayPoll(e, {{e.sock, POLLIN, 0}}, i % 2 ? -1 : 5000);
              e.Recv(e.sock, 10);
            }
          }}};

CASE{"poll: sleeps until the peer closes, or half-closes",
     {.client =
          [](End& e) {
            e.Meet();
            Sleep(10);
            DO(shutdown(e.sock, SHUT_WR));
            e.Meet();
            Sleep(10);
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            e.Meet();
            SayPoll(e, {{e.sock, POLLIN, 0}}, 5000);
            SayPoll(e, {{e.sock, POLLRDHUP, 0}}, 5000);
            SayPoll(e, {{e.sock, POLLIN | POLLOUT | POLLRDHUP, 0}}, 0);
            SayPoll(e, {{e.sock, 0, 0}}, 10);
            e.Meet();
            DO(shutdown(e.sock, SHUT_WR));
            SayPoll(e, {{e.sock, 0, 0}}, 5000);
            SayPoll(e, {{e.sock, POLLIN | POLLOUT | POLLRDHUP, 0}}, 5000);
          }}};

CASE{"poll: a writer waits for room",
     {.client =
          [](End& e) {
            int total = e.Fill(e.sock);
            SayPoll(e, {{e.sock, POLLIN | POLLOUT, 0}}, 20);
            e.Tell(total);
            e.Meet();
            SayPoll(e, {{e.sock, POLLIN | POLLOUT, 0}}, 5000);
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            Sleep(10);
            e.RecvAll(e.sock, static_cast<size_t>(e.Told()));
            e.Meet();
          }}};

CASE{"poll: mixed with a pipe, an eventfd, a timer and what is no descriptor",
     {.client =
          [](End& e) {
            e.Meet();
            e.SendAll(e.sock, "abc");
            e.Meet();
          },
      .server =
          [](End& e) {
            int ends[2];
            DO(pipe(ends));
            int event = eventfd(0, EFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, 0);
            auto all = [&](int timeout) {
              SayPoll(e,
                      {{ends[0], POLLIN, 0},
                       {-1, POLLIN, 0},
                       {e.sock, POLLIN, 0},
                       {event, POLLIN, 0},
                       {timer, POLLIN, 0},
                       {ends[1], POLLIN, 0}},
                      timeout);
            };
            all(0);
            DO(write(ends[1], "x", 1));
            all(1000);
            e.Meet();
            e.AwaitBytes(e.sock, 3);
            all(-1);
            uint64_t one = 1;
            DO(write(event, &one, 8));
            all(-1);
            itimerspec soon{{0, 0}, {0, 1}};
            timerfd_settime(timer, 0, &soon, nullptr);
            e.Await(timer, POLLIN);
            all(-1);
            e.Recv(e.sock, 10);
            all(-1);
            SayPoll(e, {{e.sock, POLLIN, 0}, {1000, POLLIN, 0}}, -1);
            SayPoll(e, {}, 1);
            DO(poll(nullptr, 0, 1));
            e.Meet();
          }}};

CASE{"poll: woken by the pipe while the socket is silent, and the other way round",
     {.client = [](End& e) { SendToSleeper(e, 20, "abc"); },
      .server =
          [](End& e) {
            int ends[2];
            DO(pipe(ends));
            std::thread other([&] {
              Sleep(20);
              write(ends[1], "x", 1);
            });
            SayPoll(e, {{ends[0], POLLIN, 0}, {e.sock, POLLIN, 0}}, -1);
            other.join();
            char b;
            DO(read(ends[0], &b, 1));
            e.Meet();
            SayPoll(e, {{ends[0], POLLIN, 0}, {e.sock, POLLIN, 0}}, -1);
          }}};

CASE{"poll: by the checked calls, and ppoll's limits",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abc");
            e.Meet();
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 3);
            pollfd one{e.sock, POLLIN, 0};
            DO(__poll_chk(&one, 1, -1, sizeof one));
            e.Say("%s", EventNames(static_cast<unsigned>(one.revents)).c_str());
            timespec limit{0, 1'000'000};
            DO(__ppoll_chk(&one, 1, &limit, nullptr, sizeof one));
            e.Recv(e.sock, 10);
            DO(ppoll(&one, 1, &limit, nullptr));
            e.Say("limit untouched: %d, events %s", limit.tv_nsec == 1'000'000,
                  EventNames(static_cast<unsigned>(one.revents)).c_str());
            timespec wrong{0, -1};
            DO(ppoll(&one, 1, &wrong, nullptr));
            DO(poll(reinterpret_cast<pollfd*>(8), 1, 0));
            e.Meet();
          }}};

// poll() takes as many entries as the program may have open files, and the connections are among them.
Body InLongArray(int connections, bool on_tcp_again = false) {
  constexpr int kEntries = 64;
  return {.client =
              [](End& e) {
                e.Meet();
                Sleep(20);
                e.SendAll(e.sock, "abc");
                e.Meet();
                Sleep(20);
                raise(SIGKILL);
              },
          .server =
              [connections, on_tcp_again](End& e) {
                int one = 1;
                if (on_tcp_again) DO(setsockopt(e.sock, SOL_SOCKET, SO_OOBINLINE, &one, sizeof one));
                rlimit limit{};
                getrlimit(RLIMIT_NOFILE, &limit);
                limit.rlim_cur = kEntries;
                DO(setrlimit(RLIMIT_NOFILE, &limit));
                std::vector<pollfd> fds(kEntries, {-1, POLLIN | POLLRDHUP, 0});
                for (int i = 0; i < connections; ++i) fds[static_cast<size_t>(i + 3)].fd = e.sock;
                const auto wait = [&](int timeout) {
                  DO(poll(fds.data(), kEntries, timeout));
                  e.Say("%s", EventNames(static_cast<unsigned>(fds[3].revents)).c_str());
                };
                wait(30);
                // Who gives the sockets' places away has to look at them again and again.
                rusage before{}, after{};
                getrusage(RUSAGE_THREAD, &before);
                wait(300);
                getrusage(RUSAGE_THREAD, &after);
                const long sleeps = after.ru_nvcsw - before.ru_nvcsw;
                e.Say("%s", sleeps < 6 || (connections > 30 && !on_tcp_again) ? "it slept" : "it woke again and again");
                fds.push_back({-1, 0, 0});
                DO(poll(fds.data(), kEntries + 1, 30));
                e.Meet();
                wait(5000);
                e.Recv(e.sock, 10);
                const timespec short_while{0, 30'000'000};
                DO(ppoll(fds.data(), kEntries, &short_while, nullptr));
                e.Meet();
                wait(5000);
                e.Recv(e.sock, 10);
              },
          .stays = on_tcp_again};
}

CASE{"poll: an array as long as the limit of open files", InLongArray(1)};
CASE{"poll: as long an array, and the connection is on TCP again", InLongArray(1, true)};
CASE{"poll: more connections than half of the limit of open files, on TCP again", InLongArray(40, true)};
CASE{"poll: more connections than half of the limit of open files", InLongArray(40)};

// As a server that has given up everything else: it may poll one descriptor.
CASE{"poll: by a program that may have one open file",
     {.client =
          [](End& e) {
            KeepWaiting(e);
            e.Meet();
            KeepWaiting(e);
          },
      .server =
          [](End& e) {
            rlimit limit{};
            getrlimit(RLIMIT_NOFILE, &limit);
            for (const rlim_t most : {rlim_t{1}, rlim_t{0}}) {
              limit.rlim_cur = most;
              DO(setrlimit(RLIMIT_NOFILE, &limit));
              if (most == 1) SayPoll(e, {{e.sock, POLLIN, 0}}, 30);
              WaitIdle(e);
              if (most == 1) SayPoll(e, {{e.sock, POLLIN, 0}}, 0);
              if (most == 1) e.Meet();
            }
          }}};

CASE{"poll: a closed descriptor in the set",
     {.client = [](End& e) { e.Drain(e.sock, 10); },
      .server =
          [](End& e) {
            int fd = e.sock;
            DO(close(fd));
            SayPoll(e, {{fd, POLLIN, 0}}, -1);
          }}};

CASE{"poll: a listener",
     {.client =
          [](End& e) {
            e.Meet();
            int fd = e.Connect();
            e.Meet();
            close(fd);
          },
      .server =
          [](End& e) {
            SayPoll(e, {{e.listener, POLLIN | POLLOUT, 0}}, 0);
            e.Meet();
            SayPoll(e, {{e.listener, POLLIN | POLLOUT, 0}}, -1);
            int fd = e.Accept();
            SayPoll(e, {{e.listener, POLLIN, 0}}, 0);
            e.Meet();
            e.Drain(fd, 10);
          },
      .bare = true}};

CASE{"poll: an unconnected socket",
     {.client =
          [](End& e) {
            int fd = socket(e.family, SOCK_STREAM, 0);
            SayPoll(e, {{fd, POLLIN | POLLOUT | POLLRDHUP, 0}}, 0);
            DO(close(fd));
          },
      .server = [](End&) {},
      .bare = true}};

void SaySelect(End& e, int n, std::vector<int> read, std::vector<int> write, std::vector<int> except, timeval limit) {
  fd_set sets[3];
  const std::vector<int>* wanted[3] = {&read, &write, &except};
  for (int i = 0; i < 3; ++i) {
    FD_ZERO(&sets[i]);
    for (int fd : *wanted[i]) FD_SET(fd, &sets[i]);
  }
  errno = 0;
  int result = select(n, &sets[0], &sets[1], &sets[2], limit.tv_sec < 0 ? nullptr : &limit);
  std::string text;
  for (int i = 0; i < 3; ++i) {
    text += " ";
    for (size_t k = 0; k < wanted[i]->size(); ++k)
      text += FD_ISSET((*wanted[i])[k], &sets[i]) ? std::to_string(k) : "-";
  }
  e.Say("select = %d %s:%s", result, result < 0 ? strerrorname_np(errno) : "", text.c_str());
}

CASE{"select: sets and counts",
     {.client =
          [](End& e) {
            e.Meet();
            e.SendAll(e.sock, "abc");
            e.Meet();
            DO(close(e.sock));
            e.Meet();
          },
      .server =
          [](End& e) {
            int ends[2];
            DO(pipe(ends));
            int top = std::max(e.sock, ends[1]) + 1;
            SaySelect(e, top, {e.sock, ends[0]}, {e.sock, ends[1]}, {e.sock}, {0, 0});
            SaySelect(e, top, {e.sock}, {}, {e.sock}, {0, 10'000});
            e.Meet();
            e.AwaitBytes(e.sock, 3);
            SaySelect(e, top, {e.sock, ends[0]}, {e.sock, ends[1]}, {e.sock}, {-1, 0});
            SaySelect(e, e.sock, {e.sock}, {}, {}, {0, 0});
            e.Recv(e.sock, 10);
            SaySelect(e, top, {e.sock}, {}, {}, {0, 0});
            e.Meet();
            e.Meet();
            e.Await(e.sock, POLLRDHUP);
            SaySelect(e, top, {e.sock}, {e.sock}, {e.sock}, {-1, 0});
            SaySelect(e, 900, {899}, {}, {}, {0, 0});
            SaySelect(e, -1, {}, {}, {}, {0, 0});
            SaySelect(e, 0, {}, {}, {}, {0, 1000});
            SaySelect(e, top, {e.sock}, {}, {}, {0, -1});
          }}};

CASE{"select: with sets larger than an fd_set",
     {.client =
          [](End& e) {
            e.Meet();
            e.SendAll(e.sock, "abc");
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            rlimit limit{};
            getrlimit(RLIMIT_NOFILE, &limit);
            limit.rlim_cur = limit.rlim_max;
            setrlimit(RLIMIT_NOFILE, &limit);
            const int high = fcntl(e.sock, F_DUPFD, 2 * FD_SETSIZE);
            std::vector<fd_set> sets(static_cast<size_t>(high) / FD_SETSIZE + 1);
            reinterpret_cast<unsigned long*>(sets.data())[high / 64] |= 1ul << (high % 64);
            e.Meet();
            timeval limit_of_wait{3, 0};
            DO(select(high + 1, sets.data(), nullptr, nullptr, &limit_of_wait));
            e.Recv(high, 10);
          },
      .stays = true}};

CASE{"select: sleeps until the peer writes, and tells the time that was left",
     {.client =
          [](End& e) {
            e.Meet();
            Sleep(30);
            e.SendAll(e.sock, "abc");
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            fd_set set;
            FD_ZERO(&set);
            FD_SET(e.sock, &set);
            timeval limit{7, 0};
            e.Meet();
            DO(select(e.sock + 1, &set, nullptr, nullptr, &limit));
            e.Say("less is left: %d, set %d", limit.tv_sec < 7, FD_ISSET(e.sock, &set) != 0);
            e.Recv(e.sock, 10);
            limit = {0, 10'000};
            DO(select(e.sock + 1, &set, nullptr, nullptr, &limit));
            e.Say("nothing is left: %d, set %d", limit.tv_sec == 0 && limit.tv_usec == 0, FD_ISSET(e.sock, &set) != 0);
            FD_SET(e.sock, &set);
            timespec span{0, 5'000'000};
            DO(pselect(e.sock + 1, &set, nullptr, nullptr, &span, nullptr));
            e.Say("pselect's limit untouched: %d", span.tv_nsec == 5'000'000);
          }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
