// How a connection ends: half-close, end of stream, reset, SIGPIPE, death.
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

void SayEvents(End& e, int fd) {
  pollfd one{fd, POLLIN | POLLOUT | POLLRDHUP | POLLPRI, 0};
  DO(poll(&one, 1, 0));
  e.Say("events %s", EventNames(static_cast<unsigned>(one.revents)).c_str());
}

void SayError(End& e, int fd) {
  int error = -1;
  socklen_t length = sizeof error;
  DO(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length));
  e.Say("SO_ERROR %s", error == 0 ? "none" : strerrorname_np(error));
}

void IgnoreSigpipe() { signal(SIGPIPE, SIG_IGN); }

CASE{"close: half-close by the client, the answer still comes",
     {.client =
          [](End& e) {
            DO(write(e.sock, "request", 7));
            DO(shutdown(e.sock, SHUT_WR));
            SayEvents(e, e.sock);
            e.Meet();
            e.Drain(e.sock, 100);
            SayEvents(e, e.sock);
          },
      .server =
          [](End& e) {
            e.Drain(e.sock, 3);
            e.Meet();
            e.SendAll(e.sock, Pattern(300'000));
            DO(shutdown(e.sock, SHUT_WR));
            DO(close(e.sock));
          }}};

CASE{"close: half-close both ways, then both sides are hung up",
     {.client =
          [](End& e) {
            DO(shutdown(e.sock, SHUT_WR));
            e.Meet();
            e.Await(e.sock, POLLIN);
            e.Meet();
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            DO(shutdown(e.sock, SHUT_WR));
            DO(shutdown(e.sock, SHUT_RD));
            SayError(e, e.sock);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.Await(e.sock, POLLRDHUP);
            SayEvents(e, e.sock);
            DO(write(e.sock, "", 0));
            DO(shutdown(e.sock, SHUT_WR));
            SayEvents(e, e.sock);
            e.Meet();
            e.Recv(e.sock, 10);
            SayError(e, e.sock);
          }}};

CASE{"close: writing after SHUT_WR",
     {.client =
          [](End& e) {
            IgnoreSigpipe();
            DO(shutdown(e.sock, SHUT_WR));
            DO(write(e.sock, "x", 1));
            DO(send(e.sock, "x", 1, MSG_NOSIGNAL));
            DO(send(e.sock, "", 0, MSG_NOSIGNAL));
            DO(write(e.sock, "", 0));
            e.Meet();
            e.Drain(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.Meet();
            e.Recv(e.sock, 1);
            DO(write(e.sock, "still", 5));
          }}};

CASE{"close: SIGPIPE kills",
     {.client =
          [](End& e) {
            DO(shutdown(e.sock, SHUT_WR));
            e.Say("writes");
            write(e.sock, "x", 1);
            e.Say("lives");
          },
      .server = [](End& e) { e.Drain(e.sock, 10); }}};

volatile sig_atomic_t pipes = 0;

CASE{"close: SIGPIPE is caught, by each call that writes",
     {.client =
          [](End& e) {
            signal(SIGPIPE, [](int) { pipes = pipes + 1; });
            DO(shutdown(e.sock, SHUT_WR));
            DO(write(e.sock, "x", 1));
            e.Say("signals %d", static_cast<int>(pipes));
            iovec one{const_cast<char*>("y"), 1};
            DO(writev(e.sock, &one, 1));
            DO(send(e.sock, "x", 1, 0));
            DO(sendto(e.sock, "x", 1, 0, nullptr, 0));
            msghdr message{};
            message.msg_iov = &one;
            message.msg_iovlen = 1;
            DO(sendmsg(e.sock, &message, 0));
            e.Say("signals %d", static_cast<int>(pipes));
            DO(sendmsg(e.sock, &message, MSG_NOSIGNAL));
            DO(send(e.sock, "x", 1, MSG_NOSIGNAL));
            e.Say("signals %d", static_cast<int>(pipes));
          },
      .server = [](End& e) { e.Drain(e.sock, 10); }}};

CASE{"close: SHUT_RD of one's own side",
     {.client =
          [](End& e) {
            e.Meet();
            e.AwaitBytes(e.sock, 3);
            DO(shutdown(e.sock, SHUT_RD));
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            DO(write(e.sock, "onward", 6));
            e.Meet();
          },
      .server =
          [](End& e) {
            DO(write(e.sock, "abc", 3));
            e.Meet();
            e.Await(e.sock, POLLIN);
            e.Recv(e.sock, 10);
            e.Meet();
          }}};

CASE{"close: SHUT_RDWR",
     {.client =
          [](End& e) {
            IgnoreSigpipe();
            DO(shutdown(e.sock, SHUT_RDWR));
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            DO(write(e.sock, "x", 1));
            e.Meet();
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            e.Drain(e.sock, 10);
            e.Meet();
          }}};

CASE{"close: shutdown of nonsense",
     {.client =
          [](End& e) {
            DO(shutdown(e.sock, 3));
            DO(shutdown(e.sock, -1));
            int fresh = socket(e.family, SOCK_STREAM, 0);
            DO(shutdown(fresh, SHUT_WR));
            DO(close(fresh));
          },
      .server = [](End& e) { e.Drain(e.sock, 10); }}};

CASE{"close: all bytes, then the end, again and again",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, Pattern(100'000));
            DO(close(e.sock));
            e.Meet();
          },
      .server =
          [](End& e) {
            e.Meet();
            e.Drain(e.sock, 9973);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10, MSG_PEEK);
            e.Recv(e.sock, 10, MSG_DONTWAIT);
            SayEvents(e, e.sock);
            SayError(e, e.sock);
          }}};

CASE{"close: with bytes unread resets the peer",
     {.client =
          [](End& e) {
            IgnoreSigpipe();
            DO(write(e.sock, "never read", 10));
            e.Meet();
            e.Await(e.sock, POLLHUP);
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            DO(write(e.sock, "x", 1));
            SayEvents(e, e.sock);
            SayError(e, e.sock);
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 10);
            e.Recv(e.sock, 4);
            DO(close(e.sock));
            e.Meet();
          }}};

CASE{"close: SO_ERROR takes the reset away",
     {.client =
          [](End& e) {
            IgnoreSigpipe();
            DO(write(e.sock, "never read", 10));
            e.Meet();
            e.Await(e.sock, POLLHUP);
            SayError(e, e.sock);
            SayError(e, e.sock);
            e.Recv(e.sock, 10);
            DO(write(e.sock, "x", 1));
            SayEvents(e, e.sock);
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 10);
            DO(close(e.sock));
            e.Meet();
          }}};

CASE{"close: exit with bytes unread resets the peer",
     {.client =
          [](End& e) {
            DO(write(e.sock, "never read", 10));
            e.Await(e.sock, POLLHUP);
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 10);
            _exit(0);
          }}};

CASE{"close: a reset leaves what arrived before it to read",
     {.client =
          [](End& e) {
            e.AwaitBytes(e.sock, 10);  // what was not sent yet is lost with a reset
            e.Meet();
            e.Meet();
            e.Await(e.sock, POLLHUP);
            SayEvents(e, e.sock);
            e.Recv(e.sock, 3);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
          },
      .server =
          [](End& e) {
            DO(write(e.sock, "last words", 10));
            e.Meet();
            linger now{1, 0};
            DO(setsockopt(e.sock, SOL_SOCKET, SO_LINGER, &now, sizeof now));
            DO(close(e.sock));
            e.Meet();
          }}};

CASE{"close: SO_LINGER 0 resets",
     {.client =
          [](End& e) {
            e.Meet();
            e.Await(e.sock, POLLHUP);
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            SayEvents(e, e.sock);
          },
      .server =
          [](End& e) {
            linger now{1, 0};
            DO(setsockopt(e.sock, SOL_SOCKET, SO_LINGER, &now, sizeof now));
            DO(close(e.sock));
            e.Meet();
          }}};

CASE{"close: SO_LINGER 5 waits for the reader",
     {.client =
          [](End& e) {
            linger later{1, 5};
            DO(setsockopt(e.sock, SOL_SOCKET, SO_LINGER, &later, sizeof later));
            e.SendAll(e.sock, Pattern(500'000));
            DO(close(e.sock));
          },
      .server =
          [](End& e) {
            Sleep(10);
            e.Drain(e.sock, 4096);
          }}};

CASE{"close: the first write after the peer's close succeeds, a later one does not",
     {.client =
          [](End& e) {
            IgnoreSigpipe();
            e.Meet();
            e.Await(e.sock, POLLRDHUP);
            SayEvents(e, e.sock);
            DO(write(e.sock, "one", 3));
            e.Await(e.sock, POLLHUP);
            SayEvents(e, e.sock);
            DO(write(e.sock, "two", 3));
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            SayEvents(e, e.sock);
          },
      .server =
          [](End& e) {
            DO(close(e.sock));
            e.Meet();
          }}};

CASE{"close: read before write after the peer is gone",
     {.client =
          [](End& e) {
            IgnoreSigpipe();
            e.Meet();
            e.Await(e.sock, POLLRDHUP);
            DO(write(e.sock, "one", 3));
            e.Await(e.sock, POLLHUP);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            DO(write(e.sock, "two", 3));
            DO(write(e.sock, "three", 5));
          },
      .server =
          [](End& e) {
            DO(close(e.sock));
            e.Meet();
          }}};

CASE{"close: a blocked writer learns that the reader is gone",
     {.client =
          [](End& e) {
            IgnoreSigpipe();
            std::string bytes = Pattern(64 << 20);
            e.Meet();
            long n = send(e.sock, bytes.data(), bytes.size(), 0);
            e.Say("some went: %d", n > 0 && n < (64 << 20));
            errno = 0;
            long again = send(e.sock, "x", 1, 0);
            e.Say("then %ld %s", again, strerrorname_np(errno));
          },
      .server =
          [](End& e) {
            e.Meet();
            e.RecvAll(e.sock, 100'000);
            Sleep(20);
            DO(close(e.sock));
          }}};

CASE{"close: a blocked reader learns of its own shutdown",
     {.client =
          [](End& e) {
            std::thread reader([&e] { e.Recv(e.sock, 10); });
            Sleep(30);
            shutdown(e.sock, SHUT_RDWR);
            reader.join();
          },
      .server = [](End& e) { e.Drain(e.sock, 10); }}};

CASE{"close: a blocked reader learns of the reset",
     {.client = [](End& e) { e.Recv(e.sock, 10); },
      .server =
          [](End& e) {
            Sleep(20);
            linger now{1, 0};
            setsockopt(e.sock, SOL_SOCKET, SO_LINGER, &now, sizeof now);
            DO(close(e.sock));
          }}};

CASE{"close: by another thread leaves a blocked reader reading",
     {.client =
          [](End& e) {
            std::thread reader([&e] { e.Recv(e.sock, 10); });
            Sleep(30);
            DO(close(e.sock));
            e.Meet();
            reader.join();
          },
      .server =
          [](End& e) {
            e.Meet();
            Sleep(20);
            DO(send(e.sock, "still here", 10, MSG_NOSIGNAL));
            e.Drain(e.sock, 10);
          }}};

CASE{"close: kill -9 of an idle peer",
     {.client =
          [](End& e) {
            e.Await(e.sock, POLLIN);
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
          },
      .server = [](End&) { kill(getpid(), SIGKILL); }}};

CASE{"close: kill -9 after the last write delivers it",
     {.client = [](End& e) { e.Drain(e.sock, 1000); },
      .server =
          [](End& e) {
            e.SendAll(e.sock, Pattern(70'000));
            kill(getpid(), SIGKILL);
          }}};

CASE{"close: kill -9 with bytes unread",
     {.client =
          [](End& e) {
            e.SendAll(e.sock, "never read");
            e.Await(e.sock, POLLHUP);
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
          },
      .server =
          [](End& e) {
            e.AwaitBytes(e.sock, 10);
            kill(getpid(), SIGKILL);
          }}};

CASE{"close: kill -9 of the reader of a blocked writer",
     {.client =
          [](End& e) {
            IgnoreSigpipe();
            std::string bytes = Pattern(64 << 20);
            long n = send(e.sock, bytes.data(), bytes.size(), 0);
            e.Say("some went: %d", n > 0 && n < (64 << 20));
            e.Await(e.sock, POLLHUP);
            SayEvents(e, e.sock);
          },
      .server =
          [](End& e) {
            e.RecvAll(e.sock, 50'000);
            Sleep(20);
            kill(getpid(), SIGKILL);
          }}};

CASE{"close: kill -9 in the middle of 64 MiB",
     {.client =
          [](End& e) {
            std::string bytes(1 << 20, '\0');
            size_t total = 0;
            ssize_t n;
            while ((n = recv(e.sock, bytes.data(), bytes.size(), 0)) > 0) total += static_cast<size_t>(n);
            e.Say("then %ld, something came: %d", static_cast<long>(n), total > 0);
          },
      .server =
          [](End& e) {
            std::string bytes = Pattern(64 << 20);
            std::thread killer([] {
              Sleep(25);
              kill(getpid(), SIGKILL);
            });
            while (true) e.SendAll(e.sock, bytes);
          }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
