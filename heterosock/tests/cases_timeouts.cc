// Time limits, signals, EINTR and SA_RESTART.
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/time.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

volatile sig_atomic_t alarms = 0;

// SIGALRM every 30 ms from now on, so that one that comes before the call blocks is not the last.
void Alarms(int flags) {
  alarms = 0;
  struct sigaction act {};
  act.sa_handler = [](int) { alarms = alarms + 1; };
  act.sa_flags = flags;
  sigaction(SIGALRM, &act, nullptr);
  itimerval every{{0, 30'000}, {0, 30'000}};
  setitimer(ITIMER_REAL, &every, nullptr);
}

void NoAlarms() {
  itimerval off{};
  setitimer(ITIMER_REAL, &off, nullptr);
}

// Silent but for the end of the connection.
const auto kWaits = [](End& e) { e.Drain(e.sock, 100); };

CASE{"time: SO_RCVTIMEO ends a read", {.client = kWaits, .server = [](End& e) {
                                         timeval limit{0, 60'000};
                                         DO(setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
                                         bool waited = MillisecondsPassed([&e] { e.Recv(e.sock, 10); }, 50);
                                         e.Say("waited: %d", waited);
                                         char b;
                                         DO(read(e.sock, &b, 1));
                                         iovec one{&b, 1};
                                         DO(readv(e.sock, &one, 1));
                                         msghdr message{};
                                         message.msg_iov = &one;
                                         message.msg_iovlen = 1;
                                         DO(recvmsg(e.sock, &message, 0));
                                         timeval got{};
                                         socklen_t length = sizeof got;
                                         DO(getsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &got, &length));
                                         e.Say("limit kept: %d", got.tv_usec >= 50'000);
                                       }}};

CASE{"time: SO_SNDTIMEO ends a write",
     {.client =
          [](End& e) {
            timeval limit{0, 50'000};
            DO(setsockopt(e.sock, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit));
            std::string bytes(64 << 20, 'x');
            long first = send(e.sock, bytes.data(), bytes.size(), 0);
            e.Say("some went: %d", first > 0 && first < (64 << 20));
            for (int i = 0; i < 10 && first > 0; ++i) first = send(e.sock, bytes.data(), bytes.size(), 0);
            e.Say("then %ld %s", first, strerrorname_np(errno));
            e.Meet();
          },
      .server = [](End& e) { e.Meet(); }}};

CASE{"time: a read without a limit is interrupted", {.client = kWaits, .server = [](End& e) {
                                                       Alarms(0);
                                                       e.Recv(e.sock, 10);
                                                       char b;
                                                       DO(read(e.sock, &b, 1));
                                                       DO(recvfrom(e.sock, &b, 1, MSG_WAITALL, nullptr, nullptr));
                                                       iovec one{&b, 1};
                                                       DO(readv(e.sock, &one, 1));
                                                       NoAlarms();
                                                       e.Say("alarms: %d", alarms >= 4);
                                                     }}};

CASE{"time: SA_RESTART restarts a read",
     {.client =
          [](End& e) {
            e.Meet();
            Sleep(100);
            e.SendAll(e.sock, "late");
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            Alarms(SA_RESTART);
            e.Meet();
            e.Recv(e.sock, 10);
            NoAlarms();
            e.Say("alarms: %d", alarms >= 1);
          }}};

CASE{"time: with SO_RCVTIMEO a read is never restarted",
     {.client = kWaits, .server = [](End& e) {
        timeval limit{5, 0};
        DO(setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit));
        Alarms(SA_RESTART);
        e.Recv(e.sock, 10);
        NoAlarms();
      }}};

CASE{"time: MSG_WAITALL gives what it has when interrupted",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abc");
            e.Meet();
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 3);
            Alarms(0);
            e.Recv(e.sock, 10, MSG_WAITALL);
            NoAlarms();
          }}};

CASE{"time: MSG_WAITALL goes on under SA_RESTART only while it has nothing",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abc");
            e.Meet();
            e.Meet();
            e.SendAll(e.sock, "defghij");
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 3);
            Alarms(SA_RESTART);
            e.Recv(e.sock, 10, MSG_WAITALL);
            NoAlarms();
            e.Meet();
            e.Recv(e.sock, 10);
          }}};

CASE{"time: an interrupted write gives what went",
     {.client =
          [](End& e) {
            std::string bytes(64 << 20, 'x');
            Alarms(0);
            long n = send(e.sock, bytes.data(), bytes.size(), 0);
            e.Say("some went: %d", n > 0 && n < (64 << 20));
            int tries = 0;
            while (n > 0 && ++tries < 100) n = send(e.sock, bytes.data(), bytes.size(), 0);
            e.Say("then %ld %s", n, strerrorname_np(errno));
            NoAlarms();
            e.Meet();
          },
      .server = [](End& e) { e.Meet(); }}};

CASE{"time: poll, select and epoll_wait are interrupted, also under SA_RESTART",
     {.client = kWaits, .server = [](End& e) {
        Alarms(SA_RESTART);
        pollfd one{e.sock, POLLIN, 0};
        DO(poll(&one, 1, 5000));
        DO(poll(&one, 1, -1));
        timespec long_time{5, 0};
        DO(ppoll(&one, 1, &long_time, nullptr));
        fd_set set;
        FD_ZERO(&set);
        FD_SET(e.sock, &set);
        timeval limit{5, 0};
        DO(select(e.sock + 1, &set, nullptr, nullptr, &limit));
        DO(pselect(e.sock + 1, &set, nullptr, nullptr, &long_time, nullptr));
        int ep = epoll_create1(0);
        epoll_event event{EPOLLIN, {.fd = e.sock}};
        DO(epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event));
        DO(epoll_wait(ep, &event, 1, 5000));
        DO(epoll_wait(ep, &event, 1, -1));
        DO(epoll_pwait(ep, &event, 1, -1, nullptr));
        DO(epoll_pwait2(ep, &event, 1, &long_time, nullptr));
        NoAlarms();
        DO(close(ep));
      }}};

CASE{"time: accept is interrupted and restarted",
     {.client =
          [](End& e) {
            e.Meet();
            e.Meet();
            Sleep(80);
            int fd = e.Connect();
            e.Drain(fd, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            Alarms(0);
            DO(accept(e.listener, nullptr, nullptr));
            Alarms(SA_RESTART);
            e.Meet();
            int fd = accept(e.listener, nullptr, nullptr);
            NoAlarms();
            e.Say("accepted: %d", fd >= 0);
            DO(close(fd));
          },
      .bare = true}};

volatile sig_atomic_t users = 0;

CASE{"time: ppoll, pselect and epoll_pwait let the masked signal in",
     {.client = kWaits, .server = [](End& e) {
        signal(SIGUSR1, [](int) { users = users + 1; });
        sigset_t blocked, none;
        sigemptyset(&none);
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGUSR1);
        sigprocmask(SIG_BLOCK, &blocked, nullptr);
        pollfd one{e.sock, POLLIN, 0};
        timespec limit{5, 0}, soon{0, 1'000'000};
        raise(SIGUSR1);
        DO(poll(&one, 1, 10));
        e.Say("%d", static_cast<int>(users));
        DO(ppoll(&one, 1, &limit, &none));
        e.Say("%d", static_cast<int>(users));
        raise(SIGUSR1);
        fd_set set;
        FD_ZERO(&set);
        FD_SET(e.sock, &set);
        DO(pselect(e.sock + 1, &set, nullptr, nullptr, &limit, &none));
        e.Say("%d", static_cast<int>(users));
        int ep = epoll_create1(0);
        epoll_event event{EPOLLIN, {.fd = e.sock}};
        epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event);
        raise(SIGUSR1);
        DO(epoll_pwait(ep, &event, 1, 5000, &none));
        e.Say("%d", static_cast<int>(users));
        raise(SIGUSR1);
        DO(epoll_pwait2(ep, &event, 1, &limit, &none));
        e.Say("%d", static_cast<int>(users));
        DO(ppoll(&one, 1, &soon, &blocked));
        sigset_t now;
        sigprocmask(SIG_BLOCK, nullptr, &now);
        e.Say("still blocked: %d", sigismember(&now, SIGUSR1));
      }}};

CASE{"time: a handler that uses the socket itself",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, Pattern(200'000));
            DO(shutdown(e.sock, SHUT_WR));
            e.Drain(e.sock, 100);
          },
      .server =
          [](End& e) {
            static int fd;
            fd = e.sock;
            alarms = 0;
            struct sigaction act {};
            act.sa_handler = [](int) {
              int before = errno;
              if (alarms < 3 && send(fd, "!", 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1) alarms = alarms + 1;
              errno = before;
            };
            act.sa_flags = SA_RESTART;
            sigaction(SIGALRM, &act, nullptr);
            itimerval every{{0, 5'000}, {0, 5'000}};
            setitimer(ITIMER_REAL, &every, nullptr);
            std::string buffer(1000, '\0');
            size_t total = 0;
            ssize_t n;
            while ((n = recv(e.sock, buffer.data(), buffer.size(), 0)) > 0) {
              total += static_cast<size_t>(n);
              if (total % 50'000 == 0) Sleep(6);
            }
            for (int i = 0; i < 1000 && alarms < 3; ++i) Sleep(2);
            NoAlarms();
            e.Say("%zu, answered %d", total, static_cast<int>(alarms));
            DO(close(e.sock));
          }}};

// Some programs say "for ever" so.
CASE{"time: a limit of LONG_MAX seconds",
     {.client =
          [](End& e) {
            for (int round = 0; round < 5; ++round) {
              e.Meet();
              Sleep(50);
              DO(send(e.sock, "x", 1, 0));
              e.Meet();
            }
          },
      .server =
          [](End& e) {
            const timespec ever{LONG_MAX, 0};
            const auto round = [&e](const std::function<void()>& wait) {
              e.Meet();
              wait();
              e.Recv(e.sock, 1);
              e.Meet();
            };
            fd_set set;
            FD_ZERO(&set);
            FD_SET(e.sock, &set);
            pollfd one{e.sock, POLLIN, 0};
            round([&] { DO(ppoll(&one, 1, &ever, nullptr)); });
            round([&] {
              timeval limit{LONG_MAX, 0};
              DO(select(e.sock + 1, &set, nullptr, nullptr, &limit));
              e.Say("long left: %d", limit.tv_sec > 1'000'000'000);
            });
            round([&] { DO(pselect(e.sock + 1, &set, nullptr, nullptr, &ever, nullptr)); });
            int ep = epoll_create1(0);
            epoll_event event{EPOLLIN, {.fd = e.sock}};
            epoll_ctl(ep, EPOLL_CTL_ADD, e.sock, &event);
            round([&] { DO(epoll_pwait2(ep, &event, 1, &ever, nullptr)); });
            // As many nanoseconds fit 64 bits, and with the time of now they do not.
            const timeval long_limit{18'446'744'073, 0};
            DO(setsockopt(e.sock, SOL_SOCKET, SO_RCVTIMEO, &long_limit, sizeof long_limit));
            round([] {});
          }}};

CASE{"time: recvmmsg's limit",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "abcdef");
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 6);
            char b[2];
            iovec one{b, 1};
            mmsghdr messages[2]{};
            for (mmsghdr& each : messages) each.msg_hdr.msg_iov = &one, each.msg_hdr.msg_iovlen = 1;
            for (timespec limit : {timespec{-1, 0}, {0, -1}, {0, 1'000'000'000}}) {
              DO(recvmmsg(e.sock, messages, 2, 0, &limit));
            }
            timespec limit{7, 0};
            DO(recvmmsg(e.sock, messages, 2, 0, &limit));
            e.Say("less is left: %d", limit.tv_sec < 7 && limit.tv_nsec >= 0 && limit.tv_nsec < 1'000'000'000);
            limit = {0, 0};
            DO(recvmmsg(e.sock, messages, 2, 0, &limit));
            e.Say("nothing is left: %d", limit.tv_sec == 0 && limit.tv_nsec == 0);
            e.Recv(e.sock, 10);
            limit = {7, 0};
            DO(recvmmsg(e.sock, messages, 2, MSG_DONTWAIT, &limit));
            e.Say("all is left: %d", limit.tv_sec == 7 && limit.tv_nsec == 0);
            DO(recvmmsg(e.sock, messages, 2, MSG_DONTWAIT, reinterpret_cast<timespec*>(8)));
          }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
