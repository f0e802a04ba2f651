// Ends in disorder: resets, lingering, kill -9.
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "heterosock/tests/cases_close.h"

namespace heterok8s::heterosock::behaviour {
namespace {

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
            CloseWithReset(e, e.sock);
            e.Meet();
          }}};

// The read, which finds no more than a part, must not take the error along.
CASE{"close: a read of more than came before a reset leaves the reset to be told",
     {.client =
          [](End& e) {
            e.AwaitBytes(e.sock, 10);
            e.Meet();
            e.Meet();
            e.Await(e.sock, POLLHUP);
            e.Recv(e.sock, 20, MSG_WAITALL | MSG_DONTWAIT);
            SayEvents(e, e.sock);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
          },
      .server =
          [](End& e) {
            DO(write(e.sock, "last words", 10));
            e.Meet();
            CloseWithReset(e, e.sock);
            e.Meet();
          },
      .halfway = true}};

CASE{"close: a peek for more than came before a reset leaves both to be read",
     {.client =
          [](End& e) {
            e.AwaitBytes(e.sock, 10);
            e.Meet();
            e.Meet();
            e.Await(e.sock, POLLHUP);
            e.Recv(e.sock, 20, MSG_PEEK | MSG_WAITALL);
            SayEvents(e, e.sock);
            e.Recv(e.sock, 4);
            e.Recv(e.sock, 20, MSG_PEEK | MSG_WAITALL);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
          },
      .server =
          [](End& e) {
            DO(write(e.sock, "last words", 10));
            e.Meet();
            CloseWithReset(e, e.sock);
            e.Meet();
          }}};

CASE{"close: a program is started after a reset, and what came before is read",
     {.client =
          [](End& e) {
            e.AwaitBytes(e.sock, 10);
            e.Meet();
            e.Meet();
            e.Await(e.sock, POLLHUP);
            DO(system("true"));
            SayEvents(e, e.sock);
            e.Recv(e.sock, 3);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
          },
      .server =
          [](End& e) {
            DO(write(e.sock, "last words", 10));
            e.Meet();
            CloseWithReset(e, e.sock);
            e.Meet();
          }}};

CASE{"close: a program is started while the other end resets, and what came before is read",
     {.client =
          [](End& e) {
            e.AwaitBytes(e.sock, 10);
            e.Meet();
            DO(system("true"));
            e.Await(e.sock, POLLHUP);
            SayEvents(e, e.sock);
            e.Recv(e.sock, 3);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
            e.Recv(e.sock, 10);
          },
      .server =
          [](End& e) {
            DO(write(e.sock, "last words", 10));
            e.Meet();
            Sleep(50);
            CloseWithReset(e, e.sock);
          },
      .hands_on = true}};

// A kernel whose program has shut both takes no more for it: what comes in front of the other end's FIN it would reset.
CASE{"close: SHUT_RDWR, and what had come before is read after the other end closed",
     {.client =
          [](End& e) {
            e.AwaitBytes(e.sock, 10);
            DO(shutdown(e.sock, SHUT_RDWR));
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
            e.Recv(e.sock, 10);
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
            CloseWithReset(e, e.sock);
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
            Much much;
            const long n = sendmsg(e.sock, much.message(), 0);
            e.Say("some went: %d", n > 0 && n < much.size());
            e.Await(e.sock, POLLHUP);
            SayEvents(e, e.sock);
          },
      .server =
          [](End& e) {
            e.RecvAll(e.sock, 50'000);
            Sleep(20);
            kill(getpid(), SIGKILL);
          }}};

CASE{"close: kill -9 in the middle of a stream",
     {.client =
          [](End& e) {
            std::string bytes(1 << 20, '\0');
            ssize_t n = recv(e.sock, bytes.data(), bytes.size(), 0);
            e.Say("something came: %d", n > 0);
            e.Meet();
            while (n > 0) n = recv(e.sock, bytes.data(), bytes.size(), 0);
            e.Say("then %ld", static_cast<long>(n));
          },
      .server =
          [](End& e) {
            const std::string bytes = Pattern(1 << 20);
            std::thread killer([&e] {
              e.Meet();
              Sleep(25);
              kill(getpid(), SIGKILL);
            });
            while (true) e.SendAll(e.sock, bytes);
          }}};

}  // namespace
}  // namespace heterok8s::heterosock::behaviour
