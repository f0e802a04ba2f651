// Connections whose own number is that of standard input or output, which libc reads and writes unseen.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "heterosock/tests/case.h"

namespace heterok8s::heterosock::behaviour {
namespace {

// Bytes of stdio between the program's own.
void SendByTurns(End& e, int own) {
  for (int i = 0; i < 3; ++i) {
    e.SendAll(own, "sent ");
    std::printf("printed %d ", i);
    std::fflush(stdout);
  }
  e.SendAll(own, "last");
  DO(shutdown(own, SHUT_WR));
}

void SayAll(End& e, int fd) {
  std::string bytes;
  char buffer[100];
  ssize_t n;
  while ((n = recv(fd, buffer, sizeof buffer, 0)) > 0) bytes.append(buffer, static_cast<size_t>(n));
  e.Say("%s then %zd", bytes.c_str(), n);
}

CASE{"stdio: a connection is accepted where standard output was closed",
     {.client =
          [](End& e) {
            e.Meet();
            const int fd = e.Connect();
            e.Warm(fd);
            SayAll(e, fd);
          },
      .server =
          [](End& e) {
            const int listener = e.Listen();
            std::fflush(stdout);
            DO(close(1));
            e.Meet();
            const int fd = e.Accept(listener);
            e.Say("number %d", fd);
            e.Warm(fd);
            SendByTurns(e, fd);
          },
      .bare = true,
      .stays = true}};

CASE{"stdio: a connection is made where standard output was closed",
     {.client =
          [](End& e) {
            e.Meet();
            std::fflush(stdout);
            DO(close(1));
            const int fd = e.Connect();
            e.Say("number %d", fd);
            e.Warm(fd);
            SendByTurns(e, fd);
          },
      .server =
          [](End& e) {
            const int listener = e.Listen();
            e.Meet();
            const int fd = e.Accept(listener);
            e.Warm(fd);
            SayAll(e, fd);
          },
      .bare = true,
      .stays = true}};

CASE{"stdio: dup where standard output was closed",
     {.client = [](End& e) { SayAll(e, e.sock); },
      .server =
          [](End& e) {
            std::fflush(stdout);
            DO(close(1));
            DO(dup(e.sock));
            SendByTurns(e, e.sock);
          },
      .stays = true}};

CASE{"stdio: F_DUPFD where standard output was closed",
     {.client = [](End& e) { SayAll(e, e.sock); },
      .server =
          [](End& e) {
            std::fflush(stdout);
            DO(close(1));
            DO(fcntl(e.sock, F_DUPFD_CLOEXEC, 1));
            SendByTurns(e, e.sock);
          },
      .stays = true}};

// What listens at such a number is not read or written, and what it accepts has numbers of its own.
CASE{"stdio: a listener where standard input was closed",
     {.client =
          [](End& e) {
            e.Meet();
            const int fd = e.Connect();
            e.Warm(fd);
            e.SendAll(fd, "hello");
            e.Recv(fd, 10);
          },
      .server =
          [](End& e) {
            DO(close(0));
            const int listener = e.Listen();
            e.Say("number %d", listener);
            e.Meet();
            const int fd = e.Accept(listener);
            e.Warm(fd);
            e.Recv(fd, 10, 0);
            DO(close(fd));
          },
      .bare = true}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
