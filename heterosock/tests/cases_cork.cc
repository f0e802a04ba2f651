// Bytes behind which more is to come (MSG_MORE, TCP_CORK): Linux may keep them for 200 ms, and no longer, though the
// sender does nothing any more. Each case goes on only when the receiver, asleep in one of its ways, has them.
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "heterosock/tests/cases_epoll.h"

namespace heterok8s::heterosock::behaviour {
namespace {

using namespace epoll;  // NOLINT

constexpr int kRounds = 4;

void Cork(End& e, int on) { DO(setsockopt(e.sock, IPPROTO_TCP, TCP_CORK, &on, sizeof on)); }

// In each round the receiver has had time to fall asleep. In the second and the last the sender never draws the cork,
// nor sends anything without MSG_MORE, before its bytes have arrived.
Body Corked(std::function<void(End&, std::function<void()> await)> server, bool stays = false) {
  return {.client =
              [](End& e) {
                for (int i = 0; i < kRounds; ++i) {
                  e.Meet();
                  Sleep(15);
                  if (i % 2 == 0) Cork(e, 1);
                  DO(send(e.sock, "head", 4, i % 2 == 0 ? 0 : MSG_MORE));
                  DO(send(e.sock, "body", 4, i % 2 == 0 ? 0 : MSG_MORE));
                  if (i == 0) Cork(e, 0);
                  e.Meet();
                  if (i == 2) Cork(e, 0);
                }
                e.Meet();
              },
          .server =
              [server](End& e) {
                int round = 0;
                server(e, [&] {
                  e.Say("round %d", round);
                  if (round++ != 0) e.Meet();
                  e.Meet();
                });
                e.Meet();
                e.Meet();
              },
          .stays = stays};
}

// After each wait; what has come by then is Linux's own affair, so all of it is waited for.
void Take(End& e) {
  std::string bytes = e.RecvAll(e.sock, 8);
  e.Say("%s", bytes.c_str());
}

CASE{"cork: a receiver in recv", Corked([](End& e, auto next) {
       for (int i = 0; i < kRounds; ++i) {
         next();
         Take(e);
       }
     })};

CASE{"cork: a receiver in recv that waits for all", Corked([](End& e, auto next) {
       for (int i = 0; i < kRounds; ++i) {
         next();
         e.Recv(e.sock, 8, MSG_WAITALL);
       }
     })};

CASE{"cork: a receiver in poll and in select", Corked([](End& e, auto next) {
       for (int i = 0; i < kRounds; ++i) {
         next();
         pollfd one{e.sock, POLLIN, 0};
         fd_set set;
         FD_ZERO(&set);
         FD_SET(e.sock, &set);
         if (i < 2)
           DO(poll(&one, 1, -1));
         else
           DO(select(e.sock + 1, &set, nullptr, nullptr, nullptr));
         Take(e);
       }
     })};

CASE{"cork: a receiver in epoll, level-triggered", Corked([](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN);
       for (int i = 0; i < kRounds; ++i) {
         next();
         Wait(e, ep, i < 2 ? -1 : 5000);
         Take(e);
         Wait(e, ep, 0);
       }
     })};

CASE{"cork: a receiver in epoll, edge-triggered, that reads until there is nothing", Corked([](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN | EPOLLET);
       for (int i = 0; i < kRounds; ++i) {
         next();
         std::string all;
         while (all.size() < 8) {
           epoll_event event;
           if (epoll_wait(ep, &event, 1, 5000) != 1) e.Say("no event");
           char bytes[8];
           for (ssize_t n; (n = recv(e.sock, bytes, sizeof bytes, MSG_DONTWAIT)) > 0;)
             all.append(bytes, static_cast<size_t>(n));
         }
         e.Say("%s", all.c_str());
       }
     })};

CASE{"cork: a receiver in epoll that is woken by others meanwhile", Corked([](End& e, auto next) {
       int ep = epoll_create1(0), ends[2];
       DO(pipe(ends));
       Add(e, ep, e.sock, EPOLLIN, 1);
       Add(e, ep, ends[0], EPOLLIN, 2);
       for (int i = 0; i < kRounds; ++i) {
         next();
         std::thread other([&] {
           Sleep(5);
           write(ends[1], "x", 1);
         });
         bool ours = false, others = false;
         while (!ours || !others) {
           epoll_event event;
           if (epoll_wait(ep, &event, 1, 5000) != 1) {
             e.Say("no event");
             break;
           }
           char byte;
           if (event.data.u64 == 2) others = read(ends[0], &byte, 1) == 1;
           if (event.data.u64 == 1) {
             ours = true;
             Take(e);
           }
         }
         other.join();
       }
     })};

// Whoever waits in the set may be the one who is to be woken: the first is called away and does not come back.
CASE{"cork: two threads wait in the set, and one is called away", Corked([](End& e, auto next) {
       int ep = epoll_create1(0), ends[2];
       DO(pipe(ends));
       Add(e, ep, e.sock, EPOLLIN | EPOLLET, 1);
       Add(e, ep, ends[0], EPOLLIN | EPOLLONESHOT, 2);
       for (int i = 0; i < kRounds; ++i) {
         int got[2] = {};
         auto wait = [&](int who) {
           epoll_event event{};
           if (epoll_wait(ep, &event, 1, 5000) == 1) got[who] = static_cast<int>(event.data.u64);
         };
         std::thread first([&] { wait(0); }), second([&] { wait(1); });
         Sleep(5);
         write(ends[1], "x", 1);
         next();
         first.join();
         second.join();
         e.Say("%d", got[0] + got[1]);
         Take(e);
         char byte;
         read(ends[0], &byte, 1);
         Mod(e, ep, ends[0], EPOLLIN | EPOLLONESHOT, 2);
       }
     })};

CASE{"cork: a receiver in poll on a set, and on a set in a set", Corked([](End& e, auto next) {
       int inner = epoll_create1(0), outer = epoll_create1(0);
       Add(e, inner, e.sock, EPOLLIN, 1);
       Add(e, outer, inner, EPOLLIN, 2);
       for (int i = 0; i < kRounds; ++i) {
         next();
         pollfd one{inner, POLLIN, 0};
         if (i < 2)
           DO(poll(&one, 1, -1));
         else
           Wait(e, outer, -1);
         Wait(e, inner, -1);
         Take(e);
       }
     })};

CASE{"cork: the set slept before and is polled then", Corked([](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN, 1);
       for (int i = 0; i < kRounds; ++i) {
         if (i < 2) Wait(e, ep, 5);
         next();
         pollfd one{ep, POLLIN, 0};
         if (i < 2)
           Wait(e, ep, -1);
         else
           DO(poll(&one, 1, -1));
         Take(e);
         Wait(e, ep, 0);
       }
     })};

CASE{"cork: one thread in recv, another in epoll", Corked([](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN, 1);
       for (int i = 0; i < kRounds; ++i) {
         std::thread set([&] {
           epoll_event event;
           if (epoll_wait(ep, &event, 1, 5000) != 1) e.Say("no event");
         });
         next();
         char byte = '?';
         const ssize_t first = recv(e.sock, &byte, 1, MSG_PEEK);
         set.join();
         e.Say("%zd %c", first, byte);
         Take(e);
       }
     })};

CASE{"cork: a child sleeps in the set that its parent slept in", Corked([](End& e, auto next) {
       int ep = epoll_create1(0);
       Add(e, ep, e.sock, EPOLLIN, 1);
       next();
       Wait(e, ep, -1);
       Take(e);
       next();
       Wait(e, ep, -1);
       Take(e);
       next();
       pid_t child = fork();
       if (child == 0) {
         Wait(e, ep, 5000);
         Take(e);
         _exit(0);
       }
       waitpid(child, nullptr, 0);
       next();
       Wait(e, ep, -1);
       Take(e);
     })};

// A cork that is left alone sends whole segments, and nobody waits for room.
CASE{"cork: more than a segment, and more than the receiver has room for",
     {.client =
          [](End& e) {
            Cork(e, 1);
            for (int i = 0; i < 40; ++i) e.SendAll(e.sock, Pattern(static_cast<size_t>(1 + i * 9973 % 150'000), 7));
            e.Meet();
            Cork(e, 0);
            e.Meet();
          },
      .server =
          [](End& e) {
            int ep = epoll_create1(0);
            Add(e, ep, e.sock, EPOLLIN);
            size_t left = 0;
            for (int i = 0; i < 40; ++i) left += static_cast<size_t>(1 + i * 9973 % 150'000);
            uint64_t sum = Sum("");
            while (left > 0) {
              epoll_event event;
              if (epoll_wait(ep, &event, 1, 5000) != 1) {
                e.Say("no event, %zu left", left);
                break;
              }
              std::string bytes(30'000, '\0');
              const ssize_t n = recv(e.sock, bytes.data(), bytes.size(), MSG_DONTWAIT);
              if (n <= 0) continue;
              sum = Sum({bytes.data(), static_cast<size_t>(n)}, sum);
              left -= static_cast<size_t>(n);
            }
            e.Say("sum %llx", static_cast<unsigned long long>(sum));
            e.Meet();
            e.Meet();
          }}};

CASE{"cork: the sender closes behind it",
     {.client =
          [](End& e) {
            for (int i = 0; i < 3; ++i) {
              e.Meet();
              Sleep(15);
              DO(send(e.sock, "part", 4, i < 2 ? MSG_MORE : 0));
              e.Meet();
            }
            Cork(e, 1);
            e.Meet();
            Sleep(15);
            DO(send(e.sock, "last", 4, 0));
            DO(close(e.sock));
            e.Meet();
          },
      .server =
          [](End& e) {
            for (int i = 0; i < 3; ++i) {
              e.Meet();
              e.RecvAll(e.sock, 4);
              e.Meet();
            }
            e.Meet();
            e.Recv(e.sock, 4, MSG_WAITALL);
            e.Recv(e.sock, 4);
            e.Meet();
          }}};

int Corked(End& e) {
  int on = -1;
  socklen_t length = sizeof on;
  DO(getsockopt(e.sock, IPPROTO_TCP, TCP_CORK, &on, &length));
  return on;
}

// An option that has a connection go back to TCP (README.md).
void GoBack(End& e) {
  int many = 2;
  DO(setsockopt(e.sock, SOL_SOCKET, SO_RCVLOWAT, &many, sizeof many));
}

CASE{"cork: what was set is told, in shared memory and on TCP again",
     {.client =
          [](End& e) {
            for (int on : {1, 1, 0, 0, 7, 0, 1}) {
              Cork(e, on);
              e.Say("%d", Corked(e));
              e.SendAll(e.sock, "x");
            }
            int on = 0;
            socklen_t length = 1;
            e.Say("one byte of it: %d %d %u", getsockopt(e.sock, IPPROTO_TCP, TCP_CORK, &on, &length), on, length);
            DO(setsockopt(e.sock, IPPROTO_TCP, TCP_CORK, &on, 3));
            DO(setsockopt(e.sock, IPPROTO_TCP, TCP_CORK, nullptr, sizeof on));
            GoBack(e);
            e.Say("still %d", Corked(e));
            e.SendAll(e.sock, "y");
            Cork(e, 0);
            e.Say("drawn: %d", Corked(e));
            e.Meet();
          },
      .server =
          [](End& e) {
            e.RecvAll(e.sock, 8);
            e.Meet();
          },
      .stays = true}};

// Set by one thread or process, drawn by another.
CASE{"cork: a child draws what its parent has set",
     {.client =
          [](End& e) {
            Cork(e, 1);
            e.SendAll(e.sock, "of the parent");
            const pid_t child = fork();
            if (child == 0) {
              e.Say("child: %d", Corked(e));
              Cork(e, 0);
              _exit(0);
            }
            waitpid(child, nullptr, 0);
            e.Say("parent: %d", Corked(e));
            e.Meet();
            Cork(e, 1);
            GoBack(e);
            e.Say("on TCP: %d", Corked(e));
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            e.RecvAll(e.sock, 13);
            e.Meet();
            e.Recv(e.sock, 1);
          },
      .stays = true}};

CASE{"cork: whoever waits for long takes no CPU",
     {.client =
          [](End& e) {
            for (int i = 0; i < 4; ++i) {
              e.Meet();
              Sleep(10);
              DO(send(e.sock, "x", 1, MSG_MORE));
            }
            e.Meet();
            KeepWaiting(e);
          },
      .server =
          [](End& e) {
            for (int i = 0; i < 4; ++i) {
              e.Meet();
              e.Recv(e.sock, 1);
            }
            e.Meet();
            WaitIdle(e);
          }}};

// TCP sends both parts of an answer as one segment, and a sleeper wakes for both. Small segments: as many answers as
// fit into one must not be all. Where the machine was too slow for a sleeper to be asleep, one is seen in parts.
constexpr int kAnswers = 24;
CASE{"cork: answer after answer in one piece each",
     {.client =
          [](End& e) {
            e.Meet();
            e.sock = e.Connect();
            e.Warm(e.sock);
            e.NoteMoved(e.sock);
            const std::string part = Pattern(200);
            for (int i = 0; i < kAnswers; ++i) {
              e.Meet();
              Sleep(15);
              Cork(e, 1);
              e.SendAll(e.sock, part);
              Sleep(3);
              e.SendAll(e.sock, part);
              Cork(e, 0);
            }
            e.Meet();
          },
      .server =
          [](End& e) {
            int listener = e.Listen(), segment = 1448;
            DO(setsockopt(listener, IPPROTO_TCP, TCP_MAXSEG, &segment, sizeof segment));
            e.Meet();
            e.sock = e.Accept(listener);
            e.Warm(e.sock);
            e.NoteMoved(e.sock);
            int whole = 0;
            for (int i = 0; i < kAnswers; ++i) {
              e.Meet();
              char bytes[1000];
              const ssize_t n = recv(e.sock, bytes, sizeof bytes, 0);
              whole += n == 400;
              if (n > 0 && n < 400) e.RecvAll(e.sock, static_cast<size_t>(400 - n));
            }
            e.Say("%s", whole * 4 >= kAnswers * 3 ? "most of them" : "few of them");
            e.Meet();
          },
      .bare = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
